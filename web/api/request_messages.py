"""The messages of a chat request, and how they become messages for a prompt template.

A template gets system, user and assistant messages. The calls of tools in a history are text of the
assistant's message, and the tools' results are a user message, both in the form that Hermes and
Qwen were trained on: `<tool_call>` and `<tool_response>`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from model.types import Message
from web.api.request_fields import MESSAGE_FIELDS, PART_FIELDS, FieldError, FieldRules

MAX_TEXT = 1_000_000  # characters of a message or a prompt
MAX_PARTS = 100  # of a message
MAX_TOOL_CALLS = 128  # of a message, as at OpenAI

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Name = Annotated[str, Field(max_length=256)]
TOOL_ROLES = ("tool", "function")


def _document_fields(schema: dict[str, Any], model: type[RequestBody]) -> None:
    """Adds the fields of the tables to the document at /docs. Other fields can only be null."""
    if model.rules is None:
        schema.pop("additionalProperties", None)
        return
    schema["properties"] = model.rules.json_schema(model.model_fields) | schema["properties"]
    schema["additionalProperties"] = {"type": "null"}


class RequestBody(BaseModel):
    """An object of JSON's own types: "5" is not a number, nor is NaN.

    `rules` are for the fields that it does not have; None: these have no effect.
    """

    rules: ClassVar[FieldRules | None] = None
    model_config = ConfigDict(
        strict=True, extra="allow", allow_inf_nan=False, json_schema_extra=_document_fields
    )

    def check_fields(self, path: str = "") -> None:
        """Checks the fields that this object does not have; see `FieldRules.check`."""
        if self.rules and self.model_extra:
            self.rules.check(self.model_extra, type(self).model_fields, path)


class ContentPart(RequestBody):
    """One part of a message whose content is a list."""

    rules = PART_FIELDS
    type: Annotated[Name, Field(json_schema_extra={"enum": ["text", "refusal"]})]
    text: Text | None = None
    refusal: Text | None = None

    def to_text(self, path: str) -> str:
        """Returns its text.

        Raises:
            FieldError: it has none, or is something other than text.
        """
        if self.type not in ("text", "refusal"):
            raise FieldError("content_not_text", field=f"{path}type", kind=self.type)
        self.check_fields(path)
        text = self.text if self.type == "text" else self.refusal
        if text is None:
            raise FieldError("content_missing", field=path + self.type)
        return text


class FunctionCall(RequestBody):
    """The call of a function, as the model has written it: `arguments` need not be valid JSON."""

    name: Name
    arguments: Text | None = None

    def to_text(self) -> str:
        name = json.dumps(self.name, ensure_ascii=False)
        arguments = self.arguments or "{}"
        return f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'


class ToolCall(RequestBody):
    type: Literal["function"] | None = None
    id: Text | None = None
    function: FunctionCall


class RequestMessage(RequestBody):
    rules = MESSAGE_FIELDS
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: (
        Text
        | Annotated[list[ContentPart], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)]
        | None
    ) = None
    refusal: Text | None = None
    tool_calls: (
        Annotated[list[ToolCall], Field(max_length=MAX_TOOL_CALLS, fail_fast=True)] | None
    ) = None
    function_call: FunctionCall | None = None
    tool_call_id: Text | None = None

    def to_message(self, path: str) -> Message:
        """Returns the message as a prompt template gets it.

        Args:
            path: of this message in the request, with a full stop at the end.

        Raises:
            FieldError: it has no content, or something other than text.
        """
        self.check_fields(path)
        if self.role == "assistant":
            return Message("assistant", self._reply(path))
        for name in ("tool_calls", "function_call", "refusal"):
            if getattr(self, name):
                raise FieldError("field_of_assistant", field=path + name)
        if self.role in TOOL_ROLES:
            return Message("user", f"<tool_response>\n{self._text(path)}\n</tool_response>")
        return Message("user" if self.role == "user" else "system", self._text(path))

    def _reply(self, path: str) -> str:
        """Returns the text of an assistant's message, with its calls of tools."""
        calls = [call.function for call in self.tool_calls or ()]
        calls += [self.function_call] if self.function_call else []
        if self.content is None and (calls or self.refusal):
            text = self.refusal or ""
        else:
            text = self._text(path)
        return "\n".join([*([text] if text else []), *(call.to_text() for call in calls)])

    def _text(self, path: str) -> str:
        if self.content is None:
            raise FieldError("content_missing", field=f"{path}content")
        if isinstance(self.content, str):
            return self.content
        parts = enumerate(self.content)
        return "".join(part.to_text(f"{path}content.{index}.") for index, part in parts)


def to_messages(messages: Sequence[RequestMessage]) -> tuple[Message, ...]:
    """Returns a chat as a prompt template gets it: the results of several tools are one message,
    because many templates need users and assistants to alternate.

    Raises: as `RequestMessage.to_message`.
    """
    turns: list[Message] = []
    for is_tool, group in groupby(enumerate(messages), lambda pair: pair[1].role in TOOL_ROLES):
        added = [message.to_message(f"messages.{index}.") for index, message in group]
        results = "\n".join(turn.content for turn in added)
        turns += [Message("user", results)] if is_tool else added
    return tuple(turns)
