"""Errors of the chat store, and their sentences for users and operators."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from model.errors import LinlyError, RequestError
from model.translations import LocalizedText

FAILED = {"opened": "chats_not_opened", "read": "chats_not_read", "saved": "chats_not_saved"}
REASONS: dict[int | str, str] = {
    # By SQLite's primary result code.
    sqlite3.SQLITE_FULL: "db_disk_full",
    sqlite3.SQLITE_BUSY: "db_held",
    sqlite3.SQLITE_LOCKED: "db_held",
    sqlite3.SQLITE_PROTOCOL: "db_held",
    sqlite3.SQLITE_READONLY: "db_unwritable",
    sqlite3.SQLITE_CANTOPEN: "db_unwritable",
    sqlite3.SQLITE_PERM: "db_unwritable",
    sqlite3.SQLITE_NOTADB: "db_not_a_database",
    sqlite3.SQLITE_CORRUPT: "db_damaged",
    sqlite3.SQLITE_IOERR: "db_disk_broken",
    # By PostgreSQL's SQLSTATE, or the class of it.
    "53100": "db_disk_full",
    "53": "db_busy",  # out of memory, or of connections
    "55P03": "db_busy",  # lock_timeout
    "57014": "db_busy",  # statement_timeout
    "40": "db_busy",  # a deadlock
    "57": "db_away",  # it is shut down, or starts
    "08": "db_away",
    "25006": "db_read_only",
    "42501": "db_forbidden",
    # By the kinds of `OWN_ERRORS`, and of errors without a code.
    "away": "db_away",
    "busy": "db_busy",
    "closed": "db_closed",
    "moved": "db_moved",
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
        super().__init__("chat_not_found")


class ReplyBusyError(LinlyError):
    """The chat already has a reply in the making."""

    http_status = 409
    code = "reply_in_progress"

    def __init__(self) -> None:
        super().__init__("chat_busy")


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
            raise StoreError("search_too_slow") from cause
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
        raise RequestError("text_half_character") from error


def _store_error(error: Exception, place: object, deed: str) -> StoreError:
    cause = _driver_error(error)
    code = next((REASONS[kind] for kind in _kinds(cause) if kind in REASONS), "db_error")
    diagnosis = getattr(getattr(cause, "diag", None), "message_primary", None)  # PostgreSQL's
    reason = LocalizedText(code, {"place": place, "error": diagnosis or cause})
    return StoreError(FAILED[deed], reason=reason)


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
