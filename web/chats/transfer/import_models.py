"""Pydantic models of the files that can be imported, and their refusals.

Each call validates one message, vote or run, never a whole chat: while pydantic runs, all other
threads wait.
"""

from __future__ import annotations

import math
import time
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from model.errors import RequestError
from model.translations import MAX_STORED, LocalizedText, load_text
from model.types import Role
from web.chats.store.models import MessageState, check_length, collapse_whitespace, sanitize_text

MAX_CHAT_MESSAGES = 10_000
MAX_ROLE = 20  # characters that are compared
MAX_ERROR = 300  # characters: few of the program's own errors are longer
MAX_RUNS = 100  # of one reply: it has one more each time that it is continued
EXPORTED_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}


Container = TypeVar("Container", list[Any], dict[str, Any])


class NoExportError(RequestError):
    """A file is not an export of chats; `reason` follows a colon."""

    def __init__(self, reason: str | LocalizedText, **facts: object) -> None:
        text = LocalizedText(reason, facts) if isinstance(reason, str) else reason
        super().__init__("not_an_export", reason=text)


class ImportModel(BaseModel):
    """Base of the models: types are strict, other fields are ignored, and null means missing."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: field for key, field in value.items() if field is not None}

    @classmethod
    def parse(cls, value: object) -> Self:
        """Returns the model of a value of JSON.

        Raises:
            RequestError: a field is missing, invalid or too large.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False, include_context=False)
            if not details[0]["loc"]:
                raise NoExportError("import_not_an_object") from error
            name = details[0]["loc"][0]
            raise NoExportError("import_field_missing", name=name) from error


def bound_messages(messages: Container) -> Container:
    """Returns the messages of a chat, or refuses too many."""
    if len(messages) > MAX_CHAT_MESSAGES:
        raise RequestError("import_too_many_messages", max_chat_messages=MAX_CHAT_MESSAGES)
    return messages


def _bound_runs(runs: list[Any]) -> list[Any]:
    if len(runs) > MAX_RUNS:
        raise NoExportError("import_too_many_runs", max_runs=MAX_RUNS)
    return runs


def _message_text(text: str) -> str:
    check_length(text)
    return sanitize_text(text)


def _role(value: object) -> Role:
    name = _require_text(value)[:MAX_ROLE].lower()
    if name not in EXPORTED_ROLES:
        raise NoExportError("import_unknown_role")
    return EXPORTED_ROLES[name]


def _require_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError  # which pydantic takes for an invalid field
    return value


def _state(value: object) -> MessageState:
    """No server goes on with a reply in a file, so a streaming one is interrupted."""
    try:
        state = MessageState(_require_text(value))
    except ValueError as error:
        raise NoExportError("import_unknown_state") from error
    return MessageState.INTERRUPTED if state is MessageState.STREAMING else state


def _error(text: str) -> str:
    """Bounds a stored error. Of a longer one the sentence is cut, not the JSON with its code."""
    if MAX_ERROR < len(text) <= MAX_STORED:
        text = load_text(text).full()
    return sanitize_text(text[:MAX_ERROR])


def _past_time(value: object, info: ValidationInfo) -> float:
    """Bounds a time by now. It may be an integer that is too large for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise NoExportError("import_not_a_time", name=info.field_name)
    return float(min(value, time.time()))


def _title(title: str) -> str:
    return sanitize_text(collapse_whitespace(title))


def read_title(title: object) -> str:
    """Returns the title of another program's chat, or "" if it has none."""
    return _title(_optional_text(title, "title"))


def system_text(text: object) -> str:
    """Returns the system prompt of another program's chat, or "" if it has none."""
    return sanitize_text(_optional_text(text, "system"))


def _optional_text(value: object, name: str) -> str:
    if not isinstance(value, str | None):
        raise NoExportError("import_field_missing", name=name)
    return value or ""


Title = Annotated[str, AfterValidator(_title)]
Messages = Annotated[list[Any], AfterValidator(bound_messages)]
Time = Annotated[float, BeforeValidator(_past_time), Field(default_factory=time.time)]


class ExportFile(ImportModel):
    """An export of this program. Its chats are validated one by one."""

    version: int
    chats: list[Any]


class ExportedChat(ImportModel):
    """A chat in an export. Its messages, votes and settings are validated by themselves."""

    title: Title
    messages: Messages
    created: Time
    updated: Time
    head: str | None = None
    settings: dict[Any, Any] = Field(default_factory=dict)
    votes: list[Any] = Field(default_factory=list)


class ExportedMessage(ImportModel):
    """A message in an export. Its ids are names within the file."""

    id: str
    role: Annotated[Role, BeforeValidator(_role)]
    text: Annotated[str, AfterValidator(_message_text)]
    parent: str | None = None
    state: Annotated[MessageState, BeforeValidator(_state)] = MessageState.DONE
    created: Time
    error: Annotated[str, AfterValidator(_error)] = ""
    comparison: str | None = None
    runs: Annotated[list[Any], AfterValidator(_bound_runs)] = Field(default_factory=list)
    repeats: str = ""


class ExportedVote(ImportModel):
    """A vote in an export."""

    comparison: str
    winner: str | None = None
    created: Time
