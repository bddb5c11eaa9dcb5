"""Creates a folder atomically: it appears with all its files, or not at all.

The files are written into a hidden staging folder beside the destination, which is renamed at the
end. If the user interrupts the command, the staging folder stays, and the same command continues
with the finished files. After an error it is deleted.
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

RECIPE_FILE = ".recipe.json"  # in a staging folder: what its files are made from
LOCK = ".lock"
FINISHED = "*.safetensors"  # a file gets such a name only when it is complete
FULL = (errno.ENOSPC, errno.EDQUOT)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def new_folder(destination: Path, recipe: Mapping[str, object], nbytes: int) -> Iterator[Path]:
    """Yields a staging folder, which becomes `destination` when the block ends.

    It has the finished files of an interrupted run with the same `recipe`.

    Args:
        destination: the folder to create.
        recipe: everything that the content of the files depends on.
        nbytes: size of the files, about.

    Raises:
        ModelFolderError: `destination` is not empty, is being created by another process, or cannot
            be written.
    """
    destination = destination.absolute()
    staging = staging_dir(destination)
    check_destination(destination)
    with _write_errors_explained(destination), _locked(staging, destination):
        check_destination(destination)  # another process may have just created it
        _reuse_finished(staging, recipe)
        _check_disk_space(staging, destination, nbytes)
        with _deleted_after_errors(staging):
            yield staging
            (staging / RECIPE_FILE).unlink()
            if destination.exists():
                destination.rmdir()
            staging.rename(destination)
        (destination / LOCK).unlink(missing_ok=True)


def check_destination(destination: Path) -> None:
    """Checks that `destination` does not exist or is an empty folder.

    Raises:
        ModelFolderError: there is something else.
    """
    empty = destination.is_dir() and not any(destination.iterdir())
    if destination.is_symlink() or (destination.exists() and not empty):
        raise folder_error("destination_exists", folder=destination)


def staging_dir(destination: Path) -> Path:
    """Returns the staging folder of `destination`."""
    return destination.with_name(f".{destination.name}.part")


@contextmanager
def _write_errors_explained(destination: Path) -> Iterator[None]:
    """Turns an OSError while writing into an error with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise folder_error("disk_full", folder=destination) from error
        if error.errno in READ_ONLY:
            raise folder_error("folder_read_only", folder=destination.parent) from error
        reason = error.strerror or str(error)
        raise folder_error("write_failed", folder=destination, said=reason) from error


@contextmanager
def _locked(staging: Path, destination: Path) -> Iterator[None]:
    """Locks the staging folder: only one process at a time works on a destination."""
    staging.mkdir(parents=True, exist_ok=True)
    lock = FileLock(staging / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise folder_error("destination_busy", folder=destination) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _deleted_after_errors(staging: Path) -> Iterator[None]:
    """Deletes the staging folder after an error, but not if the user interrupts the command."""
    try:
        yield
    except Exception:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _reuse_finished(staging: Path, recipe: Mapping[str, object]) -> None:
    """Keeps the finished files if the recipe is the same; deletes everything else."""
    content = json.dumps(recipe, indent=2, sort_keys=True)
    recipe_file = staging / RECIPE_FILE
    is_same = recipe_file.is_file() and recipe_file.read_text(encoding="utf-8") == content
    keep = {recipe_file, staging / LOCK, *(staging.glob(FINISHED) if is_same else ())}
    for path in set(staging.iterdir()) - keep:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    recipe_file.write_text(content, encoding="utf-8")


def _check_disk_space(staging: Path, destination: Path, nbytes: int) -> None:
    needed = nbytes - sum(path.stat().st_size for path in staging.glob(FINISHED))
    free = shutil.disk_usage(staging).free
    if free < needed:
        if needed == nbytes:  # there is no finished file to keep
            shutil.rmtree(staging, ignore_errors=True)
        raise folder_error(
            "disk_too_small", folder=destination, needed=needed / 1e9, free=free / 1e9
        )


def interruption_message(destination: Path) -> str:
    """Returns the message for a user who has pressed Ctrl-C."""
    staging = staging_dir(destination.absolute())
    finished = list(staging.glob(FINISHED)) if staging.is_dir() else []
    if not finished:
        _remove_unless_in_use(staging)
        return "Interrupted; nothing was left behind."
    gigabytes = sum(path.stat().st_size for path in finished) / 1e9
    return (
        f"Interrupted. {gigabytes:.1f} GB are done and kept in {staging}: the same command goes "
        "on from there, or delete that folder."
    )


def _remove_unless_in_use(staging: Path) -> None:
    """Deletes a staging folder, unless another process is working in it."""
    with suppress(OSError, Timeout):
        if staging.is_dir():
            with FileLock(staging / LOCK).acquire(timeout=0):
                shutil.rmtree(staging, ignore_errors=True)


def is_busy(error: ModelFolderError) -> bool:
    """Whether the error says that another process is creating the folder, or has just done so."""
    code = error.text.code
    return code in ("destination_busy", "destination_exists")
