"""Reads secrets from files: accounts, API keys, and what `LINLY_<FLAG>_FILE` variables name.

Errors name the file and the line, never its content. A file that other users of the machine can
read is used all the same; `exposure_warnings` tells of it.
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
    """The value in a file, without white space around it; `source` is the variable that names it.

    Raises:
        SettingsError: the file cannot be used, in one sentence.
    """
    if not file:
        raise SettingsError("secret_file_unnamed", source=source)
    return _read_text(source, Path(file)).strip()


def read_accounts(source: str, file: Path, taken: Collection[str]) -> tuple[str, ...]:
    """The accounts of a file, one `user:password` a line, without comments and blank lines.

    Args:
        source: the flag that names the file.
        taken: users that have an account already.

    Raises:
        SettingsError: the file cannot be used, in one sentence.
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
    """The keys of a file, one a line, without what follows a `#`.

    Raises:
        SettingsError: the file cannot be used, in one sentence.
    """

    def parse(line: str) -> list[str]:
        key = line.partition("#")[0]
        return keys(key).split() if key.strip() else []

    found = [key for line in _parse_lines(source, file, parse) for key in line]
    if not found:
        raise SettingsError("secret_file_without_key", source=source, file=file)
    return tuple(found)


def exposure_warnings(files: Mapping[str, Path]) -> list[str]:
    """A sentence for each file that more users can read than need to, by the flag that names it."""
    return [
        f"{source}: other users of this machine can read {file}. Close it to them: chmod 600 {file}"
        for source, file in files.items()
        if _is_exposed(file)
    ]


def _is_exposed(file: Path) -> bool:
    """Readable by everybody, or by its group although this program owns it. A file of another
    owner's is readable here only because of its group, so that one is meant."""
    if os.name != "posix":
        return False
    try:
        status = file.stat()
    except OSError:
        return False
    own = status.st_uid == os.geteuid()
    return bool(status.st_mode & (stat.S_IROTH | (stat.S_IRGRP if own else 0)))


def _parse_lines(source: str, file: Path, parse: Callable[[str], T]) -> list[T]:
    """Each line of a file that is neither blank nor a comment, parsed."""
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
    if not stat.S_ISREG(file.stat().st_mode):  # a named pipe would be waited for
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
