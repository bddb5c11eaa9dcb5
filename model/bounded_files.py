"""Reads files of untrusted folders: only regular files, and only up to a size limit.

Opening never blocks: a FIFO would wait for its writer for ever, a device can return bytes without
end. Content is read with read(): if the file shrinks meanwhile the content ends early, while a
memory mapping would end the process.
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
# For files that can be larger than a configuration.
MAX_BYTES = {
    "tokenizer.json": 64 * MB,  # the largest published one, Gemma's, has 33
    "tokenizer.model": 64 * MB,
    "tokenizer_config.json": 16 * MB,  # lists added tokens
    "special_tokens_map.json": 4 * MB,
    "added_tokens.json": 16 * MB,
    "model.safetensors.index.json": 16 * MB,
    "pytorch_model.bin.index.json": 16 * MB,
}
LFS_POINTER = b"version https://git-lfs"


class UnfitFileError(LinlyError, ValueError):
    """A file cannot be used; its text is the reason."""


def open_file(path: Path) -> FileIO:
    """Opens the regular file `path` for reading, unbuffered and without waiting.

    Raises:
        UnfitFileError: it is no regular file.
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
    """The content of `path`, at most `max_bytes`; by default the limit for its name.

    Raises:
        UnfitFileError: it is larger, or no regular file.
        OSError: it cannot be read.
    """
    limit = MAX_BYTES.get(path.name, MAX_CONFIG_BYTES) if max_bytes is None else max_bytes
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise _too_large(limit)
        chunks: list[bytes] = []
        remaining = limit + 1
        while remaining > 0 and (chunk := file.read(remaining)):
            chunks.append(chunk)
            remaining -= len(chunk)
    if remaining <= 0:
        raise _too_large(limit)
    return b"".join(chunks)


def read_text(path: Path) -> str:
    """The UTF-8 text in `path`.

    Raises: as `read_file`, and UnicodeDecodeError.
    """
    return read_file(path).decode("utf-8")


def parse_json(text: str) -> Any:
    """Parses JSON.

    Raises:
        UnfitFileError: it is nested too deeply.
        ValueError: it is no JSON.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UnfitFileError("file_nested_too_deeply") from error


def require_inside(path: Path) -> None:
    """Checks that `path` is in its folder also when all links are followed. In the hub's cache,
    where every file is a link, it may be among the blobs of the same repository.

    Raises:
        UnfitFileError: it links to another place, or its target does not exist.
    """
    if not path.is_symlink():
        return
    folder = path.parent.resolve()
    allowed = [folder]
    if folder.parent.name == "snapshots":
        allowed.append(folder.parent.parent / "blobs")
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # no target, or a circle of links
        raise UnfitFileError("file_link_outside") from error
    if not any(real.is_relative_to(parent) for parent in allowed):
        raise UnfitFileError("file_link_outside")


def _too_large(limit: int) -> UnfitFileError:
    return UnfitFileError("file_too_large", megabytes=limit / MB)


def check_not_lfs_pointer(file: Path) -> None:
    """Checks that `file` is not the pointer that a clone without git-lfs has in place of it.

    Raises:
        ModelFolderError: it is a pointer.
        OSError: it cannot be read.
    """
    with open_file(file) as opened:
        if opened.read(len(LFS_POINTER)) == LFS_POINTER:
            raise folder_error("lfs_pointer", file=file)
