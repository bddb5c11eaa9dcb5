"""What can go wrong with kept chats, in words for people."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.types import LinlyError, RequestError

UNWRITABLE = (
    "{path} cannot be written",
    "Make its folder writable for this user, or choose another one.",
)
HELD = ("another program holds {path}", "Close that program, then try again.")
REASONS = {  # by SQLite's primary result code
    sqlite3.SQLITE_FULL: ("the disk is full", "Free some space on the disk with {path}."),
    sqlite3.SQLITE_BUSY: HELD,
    sqlite3.SQLITE_LOCKED: HELD,
    sqlite3.SQLITE_PROTOCOL: HELD,
    sqlite3.SQLITE_READONLY: UNWRITABLE,
    sqlite3.SQLITE_CANTOPEN: UNWRITABLE,
    sqlite3.SQLITE_PERM: UNWRITABLE,
    sqlite3.SQLITE_NOTADB: ("{path} is no database", "Move it away; a new one will be made."),
    sqlite3.SQLITE_CORRUPT: (
        "{path} is damaged",
        "Put a copy back in its place, or move it away; a new one will be made.",
    ),
    sqlite3.SQLITE_IOERR: ("the disk with {path} does not work", "Check that disk."),
}


class StoreError(LinlyError):
    """The chats cannot be opened, read or saved."""

    exit_status = 1
    code = "store"


class UnknownChatError(LinlyError):
    """No such chat or message, or it is somebody else's: nobody is to learn which."""

    http_status = 404
    code = "chat_not_found"

    def __init__(self) -> None:
        super().__init__("This chat is not here (any more)", "Choose another one in the side bar.")


@contextmanager
def told(path: Path, deed: str) -> Iterator[None]:
    """Say what SQLite's errors mean. `deed` is what failed: opened, read or saved.

    Raises:
        StoreError: in place of `sqlite3.Error`.
        RequestError: a text cannot be kept, as it holds half a character.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _store_error(error, path, deed) from error
    except UnicodeEncodeError as error:
        raise RequestError("The text has half a character in it", "Remove it.") from error


def _store_error(error: sqlite3.Error, path: Path, deed: str) -> StoreError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # none from Python's own part
    reason, remedy = REASONS.get(code & 0xFF, ("{error}", "Start the program again."))
    told = reason.format(path=path, error=error)
    return StoreError(f"The chats cannot be {deed}: {told}", remedy.format(path=path))
