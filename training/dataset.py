"""Chats out of a file of training data: those that can be learned from, and the others by line."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.text.prompt import PromptTemplate
from model.translations import LocalizedText
from model.types import Message
from training.formats import RowError, messages_of
from training.parsing import BadRow, DataError, DataRow, parse_rows, read_text

MAX_BAD_SHARE, ALWAYS_ALLOWED = 0.1, 3  # of the rows; beyond it the file is probably something else
NAMED = 3  # bad rows that a message names


@dataclass(frozen=True)
class TrainingChat:
    """A chat, and the line where it begins in its file."""

    line: int
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Dataset:
    """What a file holds. `digest` is the sha256 of its bytes."""

    chats: tuple[TrainingChat, ...]
    bad: tuple[BadRow, ...]
    digest: str


def read_data(path: Path, template: PromptTemplate) -> Dataset:
    """The chats in `path`; `template` decides how alpaca's inputs are written.

    Raises:
        DataError: the file cannot be used, with its first reasons.
    """
    rows = [_read(row, template) for row in parse_rows(read_text(path))]
    chats = tuple(row for row in rows if isinstance(row, TrainingChat))
    bad = tuple(row for row in rows if isinstance(row, BadRow))
    if not rows:
        raise DataError("data_without_rows", path=path)
    refuse_bad(bad, len(rows), str(path))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Dataset(chats, bad, digest)


def _read(row: DataRow | BadRow, template: PromptTemplate) -> TrainingChat | BadRow:
    if isinstance(row, BadRow):
        return row
    try:
        return TrainingChat(row.line, messages_of(row.value, template))
    except RowError as error:
        return BadRow(row.line, error.text)


def refuse_bad(bad: Sequence[BadRow], count: int, name: str) -> None:
    """Some bad rows out of `count` happen; many mean that something else is wrong.

    Raises:
        DataError: there are too many.
    """
    allowed = min(max(MAX_BAD_SHARE * count, ALWAYS_ALLOWED), count // 2)
    if len(bad) > allowed:
        raise DataError(
            "data_rows_unusable",
            bad_count=len(bad),
            count=count,
            name=name,
            reasons=first_reasons(bad),
        )


def first_reasons(bad: Sequence[BadRow]) -> tuple[LocalizedText, ...]:
    """The first of them, and how many there are beside."""
    named = tuple(row.text for row in bad[:NAMED])
    more = len(bad) - NAMED
    return (*named, LocalizedText("more_rows", {"count": more})) if more > 0 else named
