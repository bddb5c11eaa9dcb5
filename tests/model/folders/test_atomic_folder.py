"""new_folder creates a folder atomically, and keeps finished files after an interruption."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from model.errors import ModelFolderError
from model.folders.atomic_folder import (
    LOCK,
    RECIPE_FILE,
    interruption_message,
    is_busy,
    new_folder,
    staging_dir,
)

RECIPE = {"source": "a", "format": 1}
SHARD = "model-00001-of-00002.safetensors"


def refusal(destination: Path, nbytes: int = 10) -> ModelFolderError:
    with pytest.raises(ModelFolderError) as caught, new_folder(destination, RECIPE, nbytes):
        pytest.fail("the block must not run")
    return caught.value


def fail(destination: Path, error: BaseException, recipe: dict[str, Any] | None = None) -> Path:
    """Runs `new_folder` and raises `error` inside it, with one file finished."""
    with new_folder(destination, recipe or RECIPE, 10) as folder:
        (folder / SHARD).write_bytes(b"done")
        (folder / "model-00002-of-00002.writing").write_bytes(b"ha")
        raise error


def interrupt(destination: Path, recipe: dict[str, Any] | None = None) -> Path:
    """Runs `new_folder` and interrupts it with Ctrl-C."""
    with pytest.raises(KeyboardInterrupt):
        fail(destination, KeyboardInterrupt(), recipe)
    return staging_dir(destination)


@pytest.mark.parametrize("name", ["plain", "with spaces", "模型 13b"])
def test_new_folder_appears_when_it_is_complete(name: str, tmp_path: Path) -> None:
    destination = tmp_path / "deep" / name
    with new_folder(destination, RECIPE, 10) as folder:
        (folder / "config.json").touch()
        assert not destination.exists()
    assert [path.name for path in destination.iterdir()] == ["config.json"]
    assert [path.name for path in destination.parent.iterdir()] == [name]


def test_new_folder_replaces_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with new_folder(tmp_path / "made", RECIPE, 10) as folder:
        (folder / "config.json").touch()
    assert (tmp_path / "made" / "config.json").is_file()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_new_folder_overwrites_nothing(kind: str, tmp_path: Path) -> None:
    destination = tmp_path / "taken"
    if kind == "file":
        destination.write_text("mine", encoding="utf-8")
    else:
        destination.mkdir()
        (destination / "mine.txt").touch()
    assert "already exists" in refusal(destination).message
    assert destination.exists()
    assert not staging_dir(destination).exists()


def test_error_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"):
        fail(tmp_path / "made", ValueError("no"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "not writable"), (errno.EIO, "could not be")],
)
def test_disk_error_has_a_plain_message(number: int, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=expected):
        fail(tmp_path / "made", OSError(number, "said by the system"))
    assert list(tmp_path.iterdir()) == []


def test_too_small_disk_error_has_the_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Disk", (), {"free": 2_000_000_000}))
    error = refusal(tmp_path / "made", 26_000_000_000)
    assert "26.0 GB" in error.message
    assert "2.0 GB free" in error.message
    assert list(tmp_path.iterdir()) == []


def test_same_recipe_continues_after_an_interruption(tmp_path: Path) -> None:
    destination = tmp_path / "made"
    interrupt(destination)
    with new_folder(destination, RECIPE, 10) as folder:
        kept = {path.name for path in folder.iterdir()} - {RECIPE_FILE, LOCK}
        assert kept == {SHARD}
    assert (destination / SHARD).read_bytes() == b"done"


def test_other_recipe_starts_over(tmp_path: Path) -> None:
    destination = tmp_path / "made"
    interrupt(destination, {**RECIPE, "source": "b"})
    with new_folder(destination, RECIPE, 10) as folder:
        assert not (folder / SHARD).exists()
        assert json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8")) == RECIPE


def test_finished_files_need_no_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(tmp_path / "made")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Disk", (), {"free": 6}))
    with new_folder(tmp_path / "made", RECIPE, 10):
        pass


def test_interruption_message_names_the_kept_folder(tmp_path: Path) -> None:
    folder = interrupt(tmp_path / "made")
    assert str(folder) in interruption_message(tmp_path / "made")
    (folder / SHARD).unlink()
    assert "nothing was left behind" in interruption_message(tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_interruption_keeps_the_files_of_another_process(tmp_path: Path) -> None:
    """A second process is interrupted while the first one writes."""
    staging = staging_dir(tmp_path / "made")
    staging.mkdir()
    (staging / "model.writing").touch()
    with FileLock(staging / LOCK):
        interruption_message(tmp_path / "made")
        assert (staging / "model.writing").exists()


def test_too_small_disk_keeps_finished_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupt(tmp_path / "made")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Disk", (), {"free": 1}))
    assert refusal(tmp_path / "made", 100).remedy
    assert (folder / SHARD).exists()


def test_symlink_is_no_destination(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    assert "already exists" in refusal(tmp_path / "link").message


def test_two_processes_cannot_create_the_same_folder(tmp_path: Path) -> None:
    staging = staging_dir(tmp_path / "made")
    staging.mkdir()
    with FileLock(staging / LOCK):
        error = refusal(tmp_path / "made")
    assert is_busy(error)
    assert "Another process" in error.message
    assert staging.exists()  # it is the other's


def test_read_only_parent_has_a_plain_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file" / "made").remedy
