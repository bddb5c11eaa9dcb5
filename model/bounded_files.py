"""Reads files of folders that strangers made: regular files alone, never more than a bound.

Opening never blocks: a FIFO would wait for its writer for ever, a device may give bytes without
end. What is read is read with read(), so that a file that shrinks meanwhile ends early instead of
ending the process, as a mapping of it would.
"""

from __future__ import annotations

import json
import os
import stat
from io import FileIO
from pathlib import Path
from typing import Any

from model.diagnostics import folder_error
from model.errors import LinlyError

MB = 1 << 20
MAX_CONFIG_BYTES = MB
# Of files that may be larger than a configuration.
MAX_BYTES = {
    "tokenizer.json": 64 * MB,  # Gemma's, the largest that is known, has 33
    "tokenizer.model": 64 * MB,
    "tokenizer_config.json": 16 * MB,  # lists added tokens
    "special_tokens_map.json": 4 * MB,
    "added_tokens.json": 16 * MB,
    "model.safetensors.index.json": 16 * MB,
    "pytorch_model.bin.index.json": 16 * MB,
}
LFS_POINTER = b"version https://git-lfs"


class UnfitFileError(LinlyError, ValueError):
    """A file that is not read: its text is the reason."""


def open_file(path: Path) -> FileIO:
    """The regular file `path`, opened for reading without waiting, unbuffered.

    Raises:
        UnfitFileError: it is something else.
        OSError: it cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnfitFileError("file_not_regular")
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def read_file(path: Path, max_bytes: int | None = None) -> bytes:
    """What `path` holds, if that is at most `max_bytes`; by default what its name allows.

    Raises:
        UnfitFileError: it holds more, or is no regular file.
        OSError: it cannot be read.
    """
    bound = MAX_BYTES.get(path.name, MAX_CONFIG_BYTES) if max_bytes is None else max_bytes
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > bound:
            raise _too_large(bound)
        pieces: list[bytes] = []
        left = bound + 1
        while left > 0 and (piece := file.read(left)):
            pieces.append(piece)
            left -= len(piece)
    if left <= 0:
        raise _too_large(bound)
    return b"".join(pieces)


def read_text(path: Path) -> str:
    """The UTF-8 text in `path`.

    Raises: as `read_file`, and UnicodeDecodeError.
    """
    return read_file(path).decode("utf-8")


def parse_json(text: str) -> Any:
    """What the JSON `text` says.

    Raises:
        UnfitFileError: it is nested too deeply.
        ValueError: it is no JSON.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UnfitFileError("file_nested_too_deeply") from error


def require_inside(path: Path) -> None:
    """Whether `path` lies in its own folder when all links are followed. In the hub's cache, where
    every file is a link, it may lie among the blobs of the same repository.

    Raises:
        UnfitFileError: it leads somewhere else, or nowhere.
    """
    if not path.is_symlink():
        return
    folder = path.parent.resolve()
    allowed = [folder]
    if folder.parent.name == "snapshots":
        allowed.append(folder.parent.parent / "blobs")
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # it leads nowhere, or in a circle
        raise UnfitFileError("file_link_outside") from error
    if not any(real.is_relative_to(place) for place in allowed):
        raise UnfitFileError("file_link_outside")


def _too_large(bound: int) -> UnfitFileError:
    return UnfitFileError("file_too_large", megabytes=bound / MB)


def check_not_lfs_pointer(file: Path) -> None:
    """Refuse the pointer that a clone without git-lfs has in place of a large file.

    Raises:
        ModelFolderError: `file` is one; OSError where it cannot be read.
    """
    with open_file(file) as opened:
        if opened.read(len(LFS_POINTER)) == LFS_POINTER:
            raise folder_error("lfs_pointer", file=file)
