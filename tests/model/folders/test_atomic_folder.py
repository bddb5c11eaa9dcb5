"""A folder that is being made appears whole or not at all, and what is done survives."""

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
    RECIPE,
    interruption_message,
    is_busy,
    new_folder,
    staging_dir,
)

MADE_OF = {"source": "a", "format": 1}
SHARD = "model-00001-of-00002.safetensors"


def refusal(destination: Path, nbytes: int = 10) -> ModelFolderError:
    with pytest.raises(ModelFolderError) as caught, new_folder(destination, MADE_OF, nbytes):
        pytest.fail("the block must not run")
    return caught.value


def fail(destination: Path, error: BaseException, recipe: dict[str, Any] | None = None) -> Path:
    """A try that ended with `error`, one file done and one half written."""
    with new_folder(destination, recipe or MADE_OF, 10) as folder:
        (folder / SHARD).write_bytes(b"done")
        (folder / "model-00002-of-00002.writing").write_bytes(b"ha")
        raise error


def interrupt(destination: Path, recipe: dict[str, Any] | None = None) -> Path:
    """A try that somebody ended with Ctrl-C."""
    with pytest.raises(KeyboardInterrupt):
        fail(destination, KeyboardInterrupt(), recipe)
    return staging_dir(destination)


@pytest.mark.parametrize("name", ["plain", "with spaces", "模型 13b"])
def test_it_appears_when_it_is_whole(name: str, tmp_path: Path) -> None:
    destination = tmp_path / "deep" / name
    with new_folder(destination, MADE_OF, 10) as folder:
        (folder / "config.json").touch()
        assert not destination.exists()
    assert [path.name for path in destination.iterdir()] == ["config.json"]
    assert [path.name for path in destination.parent.iterdir()] == [name]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with new_folder(tmp_path / "made", MADE_OF, 10) as folder:
        (folder / "config.json").touch()
    assert (tmp_path / "made" / "config.json").is_file()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_is_written_over(kind: str, tmp_path: Path) -> None:
    destination = tmp_path / "taken"
    if kind == "file":
        destination.write_text("mine", encoding="utf-8")
    else:
        destination.mkdir()
        (destination / "mine.txt").touch()
    assert "already exists" in refusal(destination).message
    assert destination.exists()
    assert not staging_dir(destination).exists()


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"):
        fail(tmp_path / "made", ValueError("no"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "not writable"), (errno.EIO, "could not be")],
)
def test_what_the_disk_says_is_a_sentence(number: int, says: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=says):
        fail(tmp_path / "made", OSError(number, "said by the system"))
    assert list(tmp_path.iterdir()) == []


def test_too_small_a_disk_is_told_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Disk", (), {"free": 2_000_000_000}))
    error = refusal(tmp_path / "made", 26_000_000_000)
    assert "26.0 GB" in error.message
    assert "2.0 GB free" in error.message
    assert list(tmp_path.iterdir()) == []


def test_the_same_goes_on_after_an_interruption(tmp_path: Path) -> None:
    destination = tmp_path / "made"
    interrupt(destination)
    with new_folder(destination, MADE_OF, 10) as folder:
        kept = {path.name for path in folder.iterdir()} - {RECIPE, LOCK}
        assert kept == {SHARD}
    assert (destination / SHARD).read_bytes() == b"done"


def test_something_else_starts_over(tmp_path: Path) -> None:
    destination = tmp_path / "made"
    interrupt(destination, {**MADE_OF, "source": "b"})
    with new_folder(destination, MADE_OF, 10) as folder:
        assert not (folder / SHARD).exists()
        assert json.loads((folder / RECIPE).read_text(encoding="utf-8")) == MADE_OF


def test_what_is_done_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(tmp_path / "made")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Disk", (), {"free": 6}))
    with new_folder(tmp_path / "made", MADE_OF, 10):
        pass


def test_somebody_who_interrupts_is_told_what_is_kept(tmp_path: Path) -> None:
    folder = interrupt(tmp_path / "made")
    assert str(folder) in interruption_message(tmp_path / "made")
    (folder / SHARD).unlink()
    assert "nothing was left behind" in interruption_message(tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_whoever_interrupts_leaves_the_work_of_others(tmp_path: Path) -> None:
    """A second process, interrupted while a first one writes."""
    scratch = staging_dir(tmp_path / "made")
    scratch.mkdir()
    (scratch / "model.writing").touch()
    with FileLock(scratch / LOCK):
        interruption_message(tmp_path / "made")
        assert (scratch / "model.writing").exists()


def test_too_small_a_disk_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupt(tmp_path / "made")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Disk", (), {"free": 1}))
    assert refusal(tmp_path / "made", 100).remedy
    assert (folder / SHARD).exists()


def test_a_link_is_not_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    assert "already exists" in refusal(tmp_path / "link").message


def test_two_processes_do_not_make_the_same_folder(tmp_path: Path) -> None:
    scratch = staging_dir(tmp_path / "made")
    scratch.mkdir()
    with FileLock(scratch / LOCK):
        error = refusal(tmp_path / "made")
    assert is_busy(error)
    assert "Another process" in error.message
    assert scratch.exists()  # it is the other's


def test_a_parent_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file" / "made").remedy
