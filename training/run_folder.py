"""The output folder while a training runs: its checkpoints, and what they are checkpoints of.

Checkpoints lie inside of it, as transformers writes them. The adapter's own files come at the end,
the configuration last, so that a running app sees nothing half-made.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from model.folders.adapter_files import CONFIG
from model.translations import LocalizedText
from model.types import LinlyError, SettingsError

RECIPE = "unfinished_training.json"  # what the checkpoints are made of
LOCK = ".lock"
NEW = ".adapter"  # where the adapter is written and tried, before it counts
CHECKPOINT = "checkpoint-"
STATE = "trainer_state.json"  # what transformers writes last
ENDED = "ended_training.json"  # the same of a training that has come to its end
BEST = "best_model_checkpoint"  # in it: a path, as it was spelt then
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (
    *FULL,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
)


class FolderTakenError(SettingsError):
    """The output folder holds something else."""

    code = "folder_taken"


class WriteError(LinlyError):
    """The output folder cannot be written."""

    code = "write_failed"


def is_finished(folder: Path) -> bool:
    """Whether an adapter lies there."""
    return (folder / CONFIG).is_file()


def check_destination(folder: Path) -> None:
    """A training goes into a new folder, an empty one, or its own unfinished one.

    Raises:
        FolderTakenError: there is something else.
    """
    if is_finished(folder):
        _clean(folder)  # of what a process that was killed right there has left
        raise FolderTakenError(
            "output_dir_has_adapter",
            folder=folder,
        )
    if folder.exists() and not folder.is_dir():
        raise FolderTakenError("output_dir_is_file", folder=folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECIPE).is_file():
        raise FolderTakenError("output_dir_not_empty", folder=folder)


@contextmanager
def run_folder(folder: Path, recipe: Mapping[str, Any]) -> Iterator[Path | None]:
    """Claim `folder` for a training by `recipe`; gives the checkpoint to go on from, if any.

    Raises:
        FolderTakenError: it holds something else, or another process trains there.
        WriteError: it cannot be written, or the disk is full.
    """
    check_destination(folder)
    with translate_os_errors(folder), _locked(folder):
        _refuse_other_recipe(folder, recipe)
        note = json.dumps(recipe, indent=1, ensure_ascii=False)
        (folder / RECIPE).write_text(note + "\n", encoding="utf-8")
        shutil.rmtree(folder / NEW, ignore_errors=True)
        yield _newest_checkpoint(folder)


def finish_folder(folder: Path) -> None:
    """The adapter in `folder`/.adapter becomes the folder's own; checkpoints go."""
    new = folder / NEW
    for path in sorted(new.iterdir(), key=lambda path: path.name == CONFIG):
        path.replace(folder / path.name)
    new.rmdir()
    _clean(folder)


def _clean(folder: Path) -> None:
    """What a training needs and an adapter does not."""
    if not (folder / RECIPE).is_file():
        return  # then what looks like it is somebody else's
    for checkpoint in checkpoints(folder):
        shutil.rmtree(checkpoint)
    (folder / ENDED).unlink(missing_ok=True)
    (folder / RECIPE).unlink()


def relocate_best_checkpoint(checkpoint: Path) -> None:
    """Have a checkpoint's state name the best one where it lies now, beside it.

    Raises:
        FolderTakenError: it is not there any more.
    """
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    if state.get(BEST) is None:
        return
    best = checkpoint.parent / Path(state[BEST]).name
    if not best.is_dir():
        raise FolderTakenError(
            "best_checkpoint_missing",
            best=best,
            run_folder=checkpoint.parent,
        )
    state[BEST] = str(best)
    new = checkpoint / f"{STATE}.new"
    new.write_text(json.dumps(state, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    new.replace(checkpoint / STATE)


def ended(folder: Path) -> Path | None:
    """The state of a training that has come to its end, if what it came to still lies there."""
    try:
        state = json.loads((folder / ENDED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return folder / ENDED if outcome(folder, state).is_dir() else None


def outcome(folder: Path, state: Mapping[str, Any]) -> Path:
    """The checkpoint that an ended training has come to: the best, else the last."""
    last = f"{CHECKPOINT}{state['global_step']}"
    return folder / Path(state.get(BEST) or last).name


def checkpoints(folder: Path) -> list[Path]:
    """From the oldest to the newest, torn ones too."""
    found = [p for p in folder.glob(f"{CHECKPOINT}*") if _step(p) is not None]
    return sorted(found, key=lambda path: _step(path) or 0)


def _step(path: Path) -> int | None:
    number = path.name.removeprefix(CHECKPOINT)
    return int(number) if number.isdecimal() else None


def _newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole one; those that a killed process left half-written are removed."""
    for path in reversed(checkpoints(folder)):
        try:
            json.loads((path / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(path)
        else:
            return path
    return None


def _refuse_other_recipe(folder: Path, recipe: Mapping[str, Any]) -> None:
    note = folder / RECIPE
    if not note.is_file() or not checkpoints(folder):
        return
    try:
        before = json.loads(note.read_text(encoding="utf-8"))
    except ValueError:
        before = {}
    changed = [key for key in recipe if recipe[key] != before.get(key)]
    if changed:
        key = changed[0]
        was, now = (str(each.get(key))[:60] for each in (before, recipe))
        raise FolderTakenError(
            "output_dir_other_settings",
            folder=folder,
            key=key,
            was=was,
            now=now,
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one process at a time trains into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise FolderTakenError("output_dir_in_use", folder=folder) from error
    try:
        yield
    finally:
        lock.release()
        (folder / LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # not empty, in most cases
            if not (folder / CONFIG).exists() and not checkpoints(folder):
                (folder / RECIPE).unlink(missing_ok=True)
                folder.rmdir()


@contextmanager
def translate_os_errors(folder: Path) -> Iterator[None]:
    """What the system says about writing, in a sentence.

    Raises:
        WriteError
    """
    try:
        yield
    except OSError as error:
        if error.errno in REFUSED:
            raise _write_error(folder, error) from error
        raise
    except Exception as error:  # torch and safetensors have errors of their own for a full disk
        if "No space left" in str(error) or "os error 28" in str(error):
            raise _write_error(folder, OSError(errno.ENOSPC, str(error))) from error
        raise


def _write_error(folder: Path, error: OSError) -> WriteError:
    kept = _newest_checkpoint(folder) if folder.is_dir() else None
    rest = LocalizedText("checkpoint_kept", {"name": kept.name}) if kept else ""
    if error.errno in FULL:
        return WriteError("training_disk_full", folder=folder, rest=rest)
    return WriteError(
        "folder_unwritable", folder=folder, reason=error.strerror or error, remedy=rest
    )
