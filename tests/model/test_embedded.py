"""The embedded default: fetched once, verified, and honest about what went wrong."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from model import embedded
from model.convert import convert_in_subprocess
from model.embedded import embedded_folder, ensure_embedded
from model.types import ModelFolderError, Phase


def run_says(monkeypatch: pytest.MonkeyPatch, status: int, stderr: str = "") -> list[list[str]]:
    """Replace subprocess.run; what was asked of it."""
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, status, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(embedded, "PACKAGE", "package_that_nobody_has")
    return asked


def silent(phase: Phase, share: float) -> None:
    """Nobody watches."""


def test_a_converted_model_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = embedded_folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    asked = run_says(monkeypatch, 1)
    assert ensure_embedded(tmp_path, silent) == folder
    assert asked == []


def test_no_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_says(monkeypatch, 1, "noise\nERROR: No matching distribution found")
    with pytest.raises(ModelFolderError, match=r"could not be fetched .*No matching") as raised:
        ensure_embedded(tmp_path, silent)
    assert "--base_model" in raised.value.remedy
    assert not embedded_folder(tmp_path).exists()


def test_a_damaged_file_is_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llm_fake"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / embedded.GGUF).write_bytes(b"junk")
    asked = run_says(monkeypatch, 0)
    monkeypatch.setattr(embedded, "PACKAGE", "llm_fake")
    monkeypatch.syspath_prepend(tmp_path)
    phases: list[Phase] = []
    with pytest.raises(ModelFolderError, match="damaged"):
        ensure_embedded(tmp_path / "cache", lambda phase, share: phases.append(phase))
    assert phases == [Phase.FETCHING]
    assert asked == []


def test_a_failed_conversion_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "llm_fake"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / embedded.GGUF).write_bytes(b"good")
    asked = run_says(monkeypatch, 1, "Traceback\nMemoryError: none left")
    monkeypatch.setattr(embedded, "PACKAGE", "llm_fake")
    monkeypatch.setattr(embedded, "_verify", lambda source: None)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelFolderError, match=r"Converting .* failed: MemoryError: none left"):
        ensure_embedded(tmp_path / "cache", silent)
    assert len(asked) == 1


def test_a_relative_cache_is_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The converting process starts in the checkout and would write there."""
    monkeypatch.chdir(tmp_path)
    asked = run_says(monkeypatch, 0)
    convert_in_subprocess(Path("model.gguf"), Path("cache") / "model")
    assert asked[0][-2:] == [str(tmp_path / "model.gguf"), str(tmp_path / "cache" / "model")]
