"""Manages the output folder of a training: checkpoints, the settings they fit, and its lock.

Checkpoints are inside it, in transformers' format. The adapter's files are moved there at the end,
its configuration last, so that a running app never reads an incomplete adapter.
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

from model.errors import LinlyError, SettingsError
from model.folders.adapter_config import CONFIG
from model.translations import LocalizedText

SETTINGS = "unfinished_training.json"  # what the checkpoints depend on
LOCK = ".lock"
STAGING = ".adapter"  # where the adapter is written and checked
CHECKPOINT = "checkpoint-"
STATE = "trainer_state.json"  # transformers writes it last
ENDED_STATE = "ended_training.json"  # the same for a training that is done
BEST = "best_model_checkpoint"  # a key in both: the best checkpoint's path when it was saved
DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT)
WRITE_ERRORS = (
    *DISK_FULL_ERRORS,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
)


class FolderTakenError(SettingsError):
    """The output folder contains something else."""

    code = "folder_taken"


class WriteError(LinlyError):
    """The output folder cannot be written."""

    code = "write_failed"


def is_finished(folder: Path) -> bool:
    """Whether the folder has an adapter."""
    return (folder / CONFIG).is_file()


def check_destination(folder: Path) -> None:
    """Accepts a new folder, an empty one, or one with an unfinished training.

    Raises:
        FolderTakenError: it contains something else.
    """
    if is_finished(folder):
        _remove_training_files(folder)  # a process may have been killed just before it did so
        raise FolderTakenError("output_dir_has_adapter", folder=folder)
    if folder.exists() and not folder.is_dir():
        raise FolderTakenError("output_dir_is_file", folder=folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SETTINGS).is_file():
        raise FolderTakenError("output_dir_not_empty", folder=folder)


@contextmanager
def run_folder(folder: Path, settings: Mapping[str, Any]) -> Iterator[Path | None]:
    """Locks `folder` for a training with `settings`; yields the checkpoint to continue from.

    Raises:
        FolderTakenError: it contains something else, or another process trains there.
        WriteError: it cannot be written, or the disk is full.
    """
    check_destination(folder)
    with translate_os_errors(folder), _locked(folder):
        _check_same_settings(folder, settings)
        text = json.dumps(settings, indent=1, ensure_ascii=False)
        (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")
        shutil.rmtree(folder / STAGING, ignore_errors=True)
        yield _newest_checkpoint(folder)


def publish_adapter(folder: Path) -> None:
    """Moves the adapter from the staging folder into `folder`, and removes the checkpoints."""
    staging = folder / STAGING
    for path in sorted(staging.iterdir(), key=lambda path: path.name == CONFIG):
        path.replace(folder / path.name)
    staging.rmdir()
    _remove_training_files(folder)


def _remove_training_files(folder: Path) -> None:
    if not (folder / SETTINGS).is_file():
        return  # then files with these names are not this program's
    for checkpoint in checkpoints(folder):
        shutil.rmtree(checkpoint)
    (folder / ENDED_STATE).unlink(missing_ok=True)
    (folder / SETTINGS).unlink()


def relocate_best_checkpoint(checkpoint: Path) -> None:
    """Corrects the path of the best checkpoint in a checkpoint's state, if the folder was moved.

    Raises:
        FolderTakenError: the best checkpoint is missing.
    """
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    if state.get(BEST) is None:
        return
    best = checkpoint.parent / Path(state[BEST]).name
    if not best.is_dir():
        raise FolderTakenError("best_checkpoint_missing", best=best, run_folder=checkpoint.parent)
    state[BEST] = str(best)
    new = checkpoint / f"{STATE}.new"
    new.write_text(json.dumps(state, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    new.replace(checkpoint / STATE)


def ended_state(folder: Path) -> Path | None:
    """The state of a training that is done, if its best checkpoint still exists."""
    try:
        state = json.loads((folder / ENDED_STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return folder / ENDED_STATE if best_checkpoint(folder, state).is_dir() else None


def best_checkpoint(folder: Path, state: Mapping[str, Any]) -> Path:
    """The best checkpoint of a training, else its last one."""
    last = f"{CHECKPOINT}{state['global_step']}"
    return folder / Path(state.get(BEST) or last).name


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints, from the oldest to the newest, incomplete ones too."""
    paths = [p for p in folder.glob(f"{CHECKPOINT}*") if _step(p) is not None]
    return sorted(paths, key=lambda path: _step(path) or 0)


def _step(path: Path) -> int | None:
    number = path.name.removeprefix(CHECKPOINT)
    return int(number) if number.isdecimal() else None


def _newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; removes those that a killed process left incomplete."""
    for path in reversed(checkpoints(folder)):
        try:
            json.loads((path / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(path)
        else:
            return path
    return None


def _check_same_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    file = folder / SETTINGS
    if not file.is_file() or not checkpoints(folder):
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        before = {}
    changed = [key for key in settings if settings[key] != before.get(key)]
    if changed:
        key = changed[0]
        was, now = (str(each.get(key))[:60] for each in (before, settings))
        raise FolderTakenError(
            "output_dir_other_settings", folder=folder, key=key, was=was, now=now
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Makes sure that one process at a time trains into a folder."""
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
        with suppress(OSError):  # usually it is not empty
            if not (folder / CONFIG).exists() and not checkpoints(folder):
                (folder / SETTINGS).unlink(missing_ok=True)
                folder.rmdir()


@contextmanager
def translate_os_errors(folder: Path) -> Iterator[None]:
    """Turns the system's errors about writing into a WriteError."""
    try:
        yield
    except OSError as error:
        if error.errno in WRITE_ERRORS:
            raise _write_error(folder, error) from error
        raise
    except Exception as error:  # torch and safetensors have errors of their own for a full disk
        if "No space left" in str(error) or "os error 28" in str(error):
            raise _write_error(folder, OSError(errno.ENOSPC, str(error))) from error
        raise


def _write_error(folder: Path, error: OSError) -> WriteError:
    checkpoint = _newest_checkpoint(folder) if folder.is_dir() else None
    note = LocalizedText("checkpoint_kept", {"name": checkpoint.name}) if checkpoint else ""
    if error.errno in DISK_FULL_ERRORS:
        return WriteError("training_disk_full", folder=folder, checkpoint=note)
    reason = error.strerror or error
    return WriteError("folder_unwritable", folder=folder, reason=reason, remedy=note)
