"""Errors of the chat store, and their sentences for users and operators."""

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
    # By the kinds of `OWN_ERRORS`, and of errors without a code.
    "away": AWAY,
    "busy": BUSY,
    "closed": CLOSED,
    "moved": MOVED,
}
# For a search, these kinds mean that it took too long.
SLOW_KINDS: set[int | str] = {sqlite3.SQLITE_INTERRUPT, "57014", "busy"}


class StoreError(LinlyError):
    """The chats cannot be opened, read or saved."""

    http_status = 503
    exit_status = 1
    code = "store"


class UnknownChatError(LinlyError):
    """There is no such chat or message, or it is another owner's; callers do not learn which."""

    http_status = 404
    code = "chat_not_found"

    def __init__(self) -> None:
        super().__init__("This chat is not here (any more)", "Choose another one in the side bar.")


class ReplyBusyError(LinlyError):
    """The chat already has a reply in the making."""

    http_status = 409
    code = "reply_in_progress"

    def __init__(self) -> None:
        super().__init__("This chat has a reply in the making", "Stop it, or wait for its end.")


class ClosedError(Exception):
    """The store was closed."""

    kind = "closed"


class StoreBusyError(Exception):
    """Other threads of this process held the connections for too long."""

    kind = "busy"


class MovedError(Exception):
    """The database's file was moved, deleted or replaced."""

    kind = "moved"


class ReadOnlyError(Exception):
    """The database takes no changes, as a standby does."""

    kind = "25006"


OWN_ERRORS = (ClosedError, StoreBusyError, MovedError, ReadOnlyError)


@contextmanager
def translate_search_errors(place: object) -> Iterator[None]:
    """As `translate_db_errors`, for a search, which the database ends when it takes too long.

    Raises:
        StoreError
    """
    try:
        with translate_db_errors(place, "read"):
            yield
    except StoreError as error:
        cause = error.__cause__
        if cause is not None and SLOW_KINDS.intersection(_kinds(_driver_error(cause))):
            raise StoreError(*SLOW_SEARCH) from cause
        raise


@contextmanager
def translate_db_errors(place: object, deed: str) -> Iterator[None]:
    """Replaces a database's errors by `StoreError`s with a sentence.

    Args:
        place: the database, as the sentence names it.
        deed: what failed: "opened", "read" or "saved".

    Raises:
        StoreError: in place of the database's errors.
        RequestError: a text cannot be encoded, as it contains half of a surrogate pair.
    """
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, *OWN_ERRORS) as error:
        raise _store_error(error, place, deed) from error
    except UnicodeEncodeError as error:
        raise RequestError("The text has half a character in it", "Remove it.") from error


def _store_error(error: Exception, place: object, deed: str) -> StoreError:
    cause = _driver_error(error)
    reason, remedy = next(
        (REASONS[kind] for kind in _kinds(cause) if kind in REASONS),
        ("{error}", "Start the program again."),
    )
    diagnosis = getattr(getattr(cause, "diag", None), "message_primary", None)  # PostgreSQL's
    message = reason.format(place=place, error=diagnosis or cause)
    return StoreError(f"The chats cannot be {deed}: {message}", remedy.format(place=place))


def _driver_error(error: BaseException) -> BaseException:
    """Returns the driver's error inside SQLAlchemy's, or the error itself."""
    return (error.orig if isinstance(error, DBAPIError) else None) or error


def _kinds(cause: BaseException) -> Iterator[int | str]:
    """Yields the keys of `REASONS` that an error may be listed under, the most specific first."""
    if isinstance(cause, sqlite3.Error):
        # Errors that Python's own part raises have no code.
        yield getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    elif isinstance(cause, PoolTimeoutError):
        yield "busy"
    elif isinstance(cause, OWN_ERRORS):
        yield cause.kind
    elif state := getattr(cause, "sqlstate", None):
        yield from (state, state[:2])
    elif isinstance(cause, SQLAlchemyError):
        return
    else:  # psycopg's own error, without an SQLSTATE: no server answered
        yield "away"
