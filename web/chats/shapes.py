"""Looking into JSON that came from outside."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from model.types import RequestError, Role

MAX_CHAT_MESSAGES = 10_000
MAX_ROLE = 20  # characters that are looked at
ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}

T = TypeVar("T")
D = TypeVar("D")


class Required:
    """In place of a default: there is none."""


REQUIRED: Final = Required()


class NoExportError(RequestError):
    """A file is no export of chats; `reason` goes on after a colon."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The file is no export of chats: {reason}", "Choose a file that was exported."
        )


def require_field(
    value: object, name: str, kind: type[T], default: D | Required = REQUIRED
) -> T | D:
    """An object's field of the given kind; where it is missing or null, the default.

    Raises:
        NoExportError: it is of another kind, or missing without a default.
    """
    if not isinstance(value, dict):
        raise NoExportError("something in it is no object")
    found = value.get(name)
    if found is None and not isinstance(default, Required):
        return default
    if not isinstance(found, kind) or isinstance(found, bool):
        raise NoExportError(f'"{name}" is missing, or not as it should be')
    return found


def require_messages(value: object, name: str) -> list[Any]:
    """An object's list of messages.

    Raises:
        RequestError: there is none, or it is too long.
    """
    found = require_field(value, name, list)
    if len(found) > MAX_CHAT_MESSAGES:
        raise RequestError(f"A chat in the file has over {MAX_CHAT_MESSAGES} messages", "Split it.")
    return found


def role_field(value: object, name: str = "role", roles: Mapping[str, Role] = ROLES) -> Role:
    """Who speaks, in capitals or not.

    Raises:
        NoExportError: a role that is not known.
    """
    found = require_field(value, name, str)[:MAX_ROLE].lower()
    if found not in roles:
        raise NoExportError("somebody unknown speaks in it")
    return roles[found]


def time_field(value: object, name: str) -> float:
    """A time in seconds since 1970: now at the latest, and where it is missing.

    Raises:
        NoExportError: it is no time.
    """
    now = time.time()
    found = require_field(value, name, object, now)
    if not isinstance(found, int | float) or not 0 <= found < math.inf:
        raise NoExportError(f'"{name}" is no time')
    return float(min(found, now))
