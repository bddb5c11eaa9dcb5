"""Shows training data as the model will read it, and which parts of it are learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from model.text.prompt_template import PromptTemplate
from model.text.tokenizer import Tokenizer
from model.translations import LocalizedText
from training.dataset import check_bad_rows, first_reasons, read_data
from training.encoding import IGNORED, Encoder, Example, data_notes, fit_template

MAX_SHOWN_CHATS = 3
SAMPLE_SIZE = 200  # chats that are encoded: a preview must not take the cores from the chats


@dataclass(frozen=True)
class Piece:
    """A part of a chat's text, with control tokens; it is `learned`, or only read."""

    text: str
    learned: bool


@dataclass(frozen=True)
class Preview:
    """Preview of a data file.

    `chats` are the first ones, in pieces; `count` counts all. `mean_tokens` is the mean length of
    the first 200. `bad` counts the rows that are left out, for the `reasons`. `notes` tell what is
    not as one would expect.
    """

    chats: tuple[tuple[Piece, ...], ...]
    count: int
    mean_tokens: float
    bad: int
    reasons: tuple[LocalizedText, ...]
    notes: tuple[LocalizedText, ...]


def preview(
    path: Path, template: PromptTemplate, tokenizer: Tokenizer, end_ids: frozenset[int],
    cutoff: int, train_on_inputs: bool = False,
) -> Preview:  # fmt: skip
    """Reads `path` as a training run would.

    Raises:
        DataError: the file cannot be used.
    """
    dataset = read_data(path, template)
    template = fit_template(template, tokenizer, dataset.chats)
    encoder = Encoder(template, tokenizer, end_ids, cutoff, train_on_inputs)
    examples, unusable = encoder.encode(dataset.chats[:SAMPLE_SIZE])
    check_bad_rows(unusable, len(examples) + len(unusable), path.name)
    bad = sorted([*dataset.bad, *unusable], key=lambda row: row.place)
    tokens = sum(len(example.ids) for example in examples)
    return Preview(
        tuple(_pieces(example, tokenizer) for example in examples[:MAX_SHOWN_CHATS]),
        len(dataset.chats) - len(unusable),
        tokens / len(examples),
        len(bad),
        first_reasons(bad),
        data_notes(dataset, examples, template),
    )


def _pieces(example: Example, tokenizer: Tokenizer) -> tuple[Piece, ...]:
    tokens = zip(example.ids, (label != IGNORED for label in example.labels), strict=True)
    return tuple(
        Piece(_text([token for token, _ in group], tokenizer), learned)
        for learned, group in groupby(tokens, key=lambda pair: pair[1])
    )


def _text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Decodes `ids`, with the control tokens that `Tokenizer.decode` leaves out."""
    groups = groupby(ids, key=tokenizer.is_control)
    return "".join(
        "".join(map(tokenizer.token_text, group)) if control else tokenizer.decode(list(group))
        for control, group in groups
    )
