"""What can go wrong with kept chats, in words for people."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from model.types import LinlyError, RequestError

UNWRITABLE = (
    "{place} cannot be written",
    "Make its folder writable for this user, or choose another one.",
)
HELD = ("another program holds {place}", "Close that program, then try again.")
FULL = ("the disk is full", "Free some space on the disk with {place}.")
AWAY = ("{place} does not answer", "Try again in a moment.")
BUSY = ("{place} is busy", "Try again in a moment.")
CLOSED = ("the program is ending", "Start it again.")
SLOW_SEARCH = (
    "The search took too long",
    "Try again in a moment, or delete chats that you no longer need.",
)
MOVED = ("{place} was moved or deleted", "Put it back, then start the program again.")
FORBIDDEN = ("{place} does not let its user do that", "Make that user the owner of {place}.")
REASONS: dict[int | str, tuple[str, str]] = {
    # By SQLite's primary result code.
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_BUSY: HELD,
    sqlite3.SQLITE_LOCKED: HELD,
    sqlite3.SQLITE_PROTOCOL: HELD,
    sqlite3.SQLITE_READONLY: UNWRITABLE,
    sqlite3.SQLITE_CANTOPEN: UNWRITABLE,
    sqlite3.SQLITE_PERM: UNWRITABLE,
    sqlite3.SQLITE_NOTADB: ("{place} is no database", "Move it away; a new one will be made."),
    sqlite3.SQLITE_CORRUPT: (
        "{place} is damaged",
        "Put a copy back in its place, or move it away; a new one will be made.",
    ),
    sqlite3.SQLITE_IOERR: ("the disk with {place} does not work", "Check that disk."),
    # By PostgreSQL's SQLSTATE, or the class of it.
    "53100": FULL,
    "53": BUSY,  # out of memory, or of connections
    "55P03": BUSY,  # lock_timeout
    "57014": BUSY,  # statement_timeout
    "40": BUSY,  # a deadlock
    "57": AWAY,  # it is shut down, or starts
    "08": AWAY,
    "25006": ("{place} is read-only", "Use the one that can be written."),
    "42501": FORBIDDEN,
    # By what is not the databases' own.
    "away": AWAY,
    "busy": BUSY,
    "closed": CLOSED,
    "moved": MOVED,
}


SLOW: set[int | str] = {sqlite3.SQLITE_INTERRUPT, "57014", "busy"}  # where it was a search


class StoreError(LinlyError):
    """The chats cannot be opened, read or saved."""

    http_status = 503
    exit_status = 1
    code = "store"


class UnknownChatError(LinlyError):
    """No such chat or message, or it is somebody else's: nobody is to learn which."""

    http_status = 404
    code = "chat_not_found"

    def __init__(self) -> None:
        super().__init__("This chat is not here (any more)", "Choose another one in the side bar.")


class ReplyBusyError(LinlyError):
    """A chat has a reply in the making already."""

    http_status = 409
    code = "reply_in_progress"

    def __init__(self) -> None:
        super().__init__("This chat has a reply in the making", "Stop it, or wait for its end.")


class ClosedError(Exception):
    """The store was closed."""

    kind = "closed"


class StoreBusyError(Exception):
    """Other threads of this process used a connection for too long."""

    kind = "busy"


class MovedError(Exception):
    """The database's file is not where it was opened."""

    kind = "moved"


class ReadOnlyError(Exception):
    """The database takes no changes: it is a standby, say."""

    kind = "25006"


OWN_ERRORS = (ClosedError, StoreBusyError, MovedError, ReadOnlyError)


@contextmanager
def search_told(place: object) -> Iterator[None]:
    """As `translate_db_errors`, for a search, which the database may have ended for its length.

    Raises:
        StoreError
    """
    try:
        with translate_db_errors(place, "read"):
            yield
    except StoreError as error:
        cause = error.__cause__
        if cause is not None and SLOW.intersection(_kinds(_origin(cause))):
            raise StoreError(*SLOW_SEARCH) from cause
        raise


@contextmanager
def translate_db_errors(place: object, deed: str) -> Iterator[None]:
    """Say what a database's errors mean. `place` is what it is called, `deed` what failed: opened,
    read or saved.

    Raises:
        StoreError: in place of the database's errors.
        RequestError: a text cannot be kept, as it holds half a character.
    """
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, *OWN_ERRORS) as error:
        raise _store_error(error, place, deed) from error
    except UnicodeEncodeError as error:
        raise RequestError("The text has half a character in it", "Remove it.") from error


def _store_error(error: Exception, place: object, deed: str) -> StoreError:
    cause = _origin(error)
    reason, remedy = next(
        (REASONS[kind] for kind in _kinds(cause) if kind in REASONS),
        ("{error}", "Start the program again."),
    )
    diagnosis = getattr(getattr(cause, "diag", None), "message_primary", None)  # PostgreSQL's
    translate_db_errors = reason.format(place=place, error=diagnosis or cause)
    return StoreError(
        f"The chats cannot be {deed}: {translate_db_errors}", remedy.format(place=place)
    )


def _origin(error: BaseException) -> BaseException:
    """The driver's error, where there is one."""
    return (error.orig if isinstance(error, DBAPIError) else None) or error


def _kinds(cause: BaseException) -> Iterator[int | str]:
    """What an error may be listed as, the most telling first."""
    if isinstance(cause, sqlite3.Error):
        # None comes from Python's own part.
        yield getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    elif isinstance(cause, PoolTimeoutError):
        yield "busy"
    elif isinstance(cause, OWN_ERRORS):
        yield cause.kind
    elif state := getattr(cause, "sqlstate", None):
        yield from (state, state[:2])
    elif isinstance(cause, SQLAlchemyError):
        return
    else:  # psycopg's own: there was nobody who could have given it a state
        yield "away"
