"""Chats from a JSON Lines file to what a trainer learns from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.prompt import PromptTemplate, encode_training
from model.tokenizer import Tokenizer
from model.types import LinlyError, Message

IGNORED = -100  # the label that torch's cross-entropy leaves out
ROLES = ("system", "user", "assistant")


class DataError(LinlyError):
    """The training data cannot be used."""

    code = "bad_data"


@dataclass(frozen=True)
class Example:
    """One chat. `labels` is `ids` where the reply is, else IGNORED."""

    ids: list[int]
    labels: list[int]


def read_chats(path: Path) -> list[list[Message]]:
    """Rows {"messages": [{"role": …, "content": …}, …]}, one a line.

    Raises:
        DataError: the file or a row cannot be used, with the line's number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}", "It must be UTF-8 text.") from error
    chats = [_read_row(text, n, path) for n, text in enumerate(lines, 1) if text.strip()]
    if not chats:
        raise DataError(f"{path} holds no chats", "Put one JSON object on each line.")
    return chats


def _read_row(text: str, number: int, path: Path) -> list[Message]:
    try:
        row: Any = json.loads(text)
        messages = [Message(m["role"], str(m["content"])) for m in row["messages"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}, line {number} is not {{'messages': [{{'role', 'content'}}, …]}}: {error}"
        ) from error
    if not messages or messages[-1].role != "assistant":
        raise DataError(f"{path}, line {number} does not end with what the assistant says")
    if any(m.role not in ROLES for m in messages):
        raise DataError(f"{path}, line {number} has a role other than {', '.join(ROLES)}")
    return messages


def encode_chats(
    chats: list[list[Message]], template: PromptTemplate, tokenizer: Tokenizer, cutoff: int
) -> list[Example]:
    """Chats as examples of at most `cutoff` tokens; what is longer loses its end."""
    examples = []
    for chat in chats:
        ids, learned = encode_training(chat, template, tokenizer)
        labels = [i if keep else IGNORED for i, keep in zip(ids, learned, strict=True)]
        examples.append(Example(ids[:cutoff], labels[:cutoff]))
    return examples
