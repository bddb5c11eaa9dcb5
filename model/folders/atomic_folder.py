"""A folder that is being made: it appears whole or not at all, and what is done survives.

The work happens in a hidden folder beside the destination, which is renamed at the end. After an
interruption that folder stays, and the same command goes on with the files that were finished;
after an error nothing stays.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from model.diagnostics import folder_error
from model.errors import ModelFolderError

RECIPE = ".recipe.json"  # what the files in an unfinished folder are made of
LOCK = ".lock"
FINISHED = "*.safetensors"  # files that have this name only once they are whole
FULL = (errno.ENOSPC, errno.EDQUOT)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def new_folder(destination: Path, recipe: Mapping[str, object], nbytes: int) -> Iterator[Path]:
    """A folder to fill with about `nbytes`, which becomes `destination` when the block ends.

    It holds the finished files of an earlier try if that had the same `recipe`, which must tell
    everything that decides what they contain.

    Raises:
        ModelFolderError: `destination` holds something, is being made, or cannot be written.
    """
    destination = destination.absolute()
    scratch = staging_dir(destination)
    check_destination(destination)
    with _explained(destination), _locked(scratch, destination):
        check_destination(destination)  # by somebody who was quicker
        _take_over(scratch, recipe)
        _check_room(scratch, destination, nbytes)
        with _emptied_after_errors(scratch):
            yield scratch
            (scratch / RECIPE).unlink()
            if destination.exists():
                destination.rmdir()
            scratch.rename(destination)
        (destination / LOCK).unlink(missing_ok=True)


def check_destination(destination: Path) -> None:
    """An empty folder may be filled.

    Raises:
        ModelFolderError: there is something else.
    """
    empty = destination.is_dir() and not any(destination.iterdir())
    if destination.is_symlink() or (destination.exists() and not empty):
        raise folder_error("destination_exists", folder=destination)


def staging_dir(destination: Path) -> Path:
    """Where the work towards `destination` happens, and lies after an interruption."""
    return destination.with_name(f".{destination.name}.part")


@contextmanager
def _explained(destination: Path) -> Iterator[None]:
    """What the system says about writing, in a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise folder_error("disk_full", folder=destination) from error
        if error.errno in READ_ONLY:
            raise folder_error("folder_read_only", folder=destination.parent) from error
        said = error.strerror or str(error)
        raise folder_error("write_failed", folder=destination, said=said) from error


@contextmanager
def _locked(scratch: Path, destination: Path) -> Iterator[None]:
    """Only one process at a time works towards one destination."""
    scratch.mkdir(parents=True, exist_ok=True)
    lock = FileLock(scratch / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise folder_error("destination_busy", folder=destination) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _emptied_after_errors(scratch: Path) -> Iterator[None]:
    """Nothing half-made stays, unless somebody interrupted and may want to go on."""
    try:
        yield
    except Exception:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _take_over(scratch: Path, recipe: Mapping[str, object]) -> None:
    """Keep the finished files of the same recipe; everything else goes."""
    told = json.dumps(recipe, indent=2, sort_keys=True)
    note = scratch / RECIPE
    same = note.is_file() and note.read_text(encoding="utf-8") == told
    keep = {note, scratch / LOCK, *(scratch.glob(FINISHED) if same else ())}
    for path in set(scratch.iterdir()) - keep:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    note.write_text(told, encoding="utf-8")


def _check_room(scratch: Path, destination: Path, nbytes: int) -> None:
    left = nbytes - sum(path.stat().st_size for path in scratch.glob(FINISHED))
    free = shutil.disk_usage(scratch).free
    if free < left:
        if left == nbytes:  # nothing is done that somebody could go on with
            shutil.rmtree(scratch, ignore_errors=True)
        raise folder_error("disk_too_small", folder=destination, needed=left / 1e9, free=free / 1e9)


def interruption_message(destination: Path) -> str:
    """What to tell somebody who has pressed Ctrl-C."""
    scratch = staging_dir(destination.absolute())
    done = list(scratch.glob(FINISHED)) if scratch.is_dir() else []
    if not done:
        _remove_unless_in_use(scratch)
        return "Interrupted; nothing was left behind."
    gigabytes = sum(path.stat().st_size for path in done) / 1e9
    return (
        f"Interrupted. {gigabytes:.1f} GB are done and kept in {scratch}: the same command goes "
        "on from there, or delete that folder."
    )


def _remove_unless_in_use(scratch: Path) -> None:
    """Another process may be at work there, towards the same destination."""
    with suppress(OSError, Timeout):
        if scratch.is_dir():
            with FileLock(scratch / LOCK).acquire(timeout=0):
                shutil.rmtree(scratch, ignore_errors=True)


def is_busy(error: ModelFolderError) -> bool:
    """Whether another process is making the folder, or has just made it."""
    code = error.text.code
    return code in ("destination_busy", "destination_exists")
