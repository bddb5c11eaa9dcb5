"""Training data as it will be written for the model, with what is learned of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from model.text.prompt import PromptTemplate
from model.text.tokenizer import Tokenizer
from model.translations import LocalizedText
from training.dataset import first_reasons, read_data, refuse_bad
from training.encoding import IGNORED, Encoder, Example

SHOWN = 3
SAMPLE = 200  # chats that are encoded: whoever looks shares the cores with those who chat


@dataclass(frozen=True)
class Piece:
    """A stretch of a chat's text, control tokens included; `learned` or only read."""

    text: str
    learned: bool


@dataclass(frozen=True)
class Preview:
    """The first chats of a file in pieces, how many there are in all, how long the first 200 are in
    tokens on average, and what is wrong with the rows that are left out."""

    chats: tuple[tuple[Piece, ...], ...]
    count: int
    mean_tokens: float
    bad: int
    reasons: tuple[LocalizedText, ...]


def preview(
    path: Path, template: PromptTemplate, tokenizer: Tokenizer, cutoff: int,
    train_on_inputs: bool = False,
) -> Preview:  # fmt: skip
    """What a training on `path` will see.

    Raises:
        DataError: the file cannot be used.
    """
    data = read_data(path, template)
    encoder = Encoder(template, tokenizer, cutoff, train_on_inputs)
    examples, unusable = encoder.encode(data.chats[:SAMPLE])
    refuse_bad(unusable, len(examples) + len(unusable), path.name)
    bad = sorted([*data.bad, *unusable], key=lambda row: row.line)
    tokens = sum(len(example.ids) for example in examples)
    return Preview(
        tuple(_pieces(example, tokenizer) for example in examples[:SHOWN]),
        len(data.chats) - len(unusable),
        tokens / len(examples),
        len(bad),
        first_reasons(bad),
    )


def _pieces(example: Example, tokenizer: Tokenizer) -> tuple[Piece, ...]:
    marked = zip(example.ids, (label != IGNORED for label in example.labels), strict=True)
    return tuple(
        Piece(_text([token for token, _ in group], tokenizer), learned)
        for learned, group in groupby(marked, key=lambda pair: pair[1])
    )


def _text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """With the control tokens, which a tokenizer leaves out of text."""
    groups = groupby(ids, key=tokenizer.is_control)
    return "".join(
        "".join(map(tokenizer.token_text, group)) if control else tokenizer.decode(list(group))
        for control, group in groups
    )
