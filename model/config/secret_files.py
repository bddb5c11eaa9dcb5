"""Reads secrets from files: accounts, API keys, and what `LINLY_<FLAG>_FILE` variables name.

Errors name the file and the line, never the content. A file that other users of the machine can
read is used, too; `exposure_warnings` returns a warning.
"""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from model.config.secret_values import keys, user_and_password
from model.errors import SettingsError

MAX_FILE_BYTES = 64 * 1024

T = TypeVar("T")


def read_value(source: str, file: str) -> str:
    """Returns the value in a file, without white space around it.

    Args:
        source: the variable that names the file.
        file: its path.

    Raises:
        SettingsError: the file cannot be used.
    """
    if not file:
        raise SettingsError("secret_file_unnamed", source=source)
    return _read_text(source, Path(file)).strip()


def read_accounts(source: str, file: Path, taken: Collection[str]) -> tuple[str, ...]:
    """Returns the accounts of a file, one `user:password` a line; skips comments and blank lines.

    Args:
        source: the flag that names the file.
        file: its path.
        taken: users that have an account already.

    Raises:
        SettingsError: the file cannot be used.
    """
    users = set(taken)

    def parse(line: str) -> str:
        account = user_and_password(line)
        user = account.partition(":")[0]
        if user in users:
            raise argparse.ArgumentTypeError(f"the user {user} has an account already")
        users.add(user)
        return account

    accounts = _parse_lines(source, file, parse)
    if not accounts:
        raise SettingsError("secret_file_without_account", source=source, file=file)
    return tuple(accounts)


def read_keys(source: str, file: Path) -> tuple[str, ...]:
    """Returns the keys of a file: one a line; a `#` begins a comment.

    Raises:
        SettingsError: the file cannot be used.
    """

    def parse(line: str) -> list[str]:
        key = line.partition("#")[0]
        return keys(key).split() if key.strip() else []

    parsed = [key for line in _parse_lines(source, file, parse) for key in line]
    if not parsed:
        raise SettingsError("secret_file_without_key", source=source, file=file)
    return tuple(parsed)


def exposure_warnings(files: Mapping[str, Path]) -> list[str]:
    """Returns a warning for each file that other users of the machine can read.

    Args:
        files: by the flag or variable that names them.
    """
    return [
        f"{source}: other users of this machine can read {file}. Close it to them: chmod 600 {file}"
        for source, file in files.items()
        if _is_exposed(file)
    ]


def _is_exposed(file: Path) -> bool:
    """Whether all users can read the file, or its group can although this program's user owns it.

    A file with another owner is readable here because of its group: that is on purpose.
    """
    if os.name != "posix":
        return False
    try:
        status = file.stat()
    except OSError:
        return False
    is_owner = status.st_uid == os.geteuid()
    return bool(status.st_mode & (stat.S_IROTH | (stat.S_IRGRP if is_owner else 0)))


def _parse_lines(source: str, file: Path, parse: Callable[[str], T]) -> list[T]:
    """Parses each line of a file that is neither blank nor a comment."""
    parsed: list[T] = []
    for number, line in enumerate(_read_text(source, file).split("\n"), 1):
        text = line.strip()
        if text and not text.startswith("#"):
            try:
                parsed.append(parse(text))
            except argparse.ArgumentTypeError as error:
                raise SettingsError(
                    "secret_file_line", source=source, number=number, file=file, error=error
                ) from None
    return parsed


def _read_text(source: str, file: Path) -> str:
    try:
        return _decode(_read_bytes(file))
    except OSError as error:
        reason = error.strerror or "it does not exist"
    except ValueError as error:
        reason = str(error)
    raise SettingsError("secret_file_unreadable", source=source, file=file, reason=reason)


def _read_bytes(file: Path) -> bytes:
    if not stat.S_ISREG(file.stat().st_mode):  # reading a named pipe would block
        raise ValueError("it is not a regular file")
    with file.open("rb") as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES // 1024} kB")
    return data


def _decode(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    if "\0" in text:
        raise ValueError("it contains NUL characters")
    if not text.strip():
        raise ValueError("it is empty")
    return text
