"""The interface of tokenizers, which `fast_tokenizer` and `spm_tokenizer` implement.

`encode` takes spans: text that may contain control tokens (from a template) and text that must not
(from a user). What a user types is never parsed for control tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import re2

# Before and after the thought of a reasoning model. In some vocabularies they are control tokens.
THOUGHT_TAGS = ("<think>", "</think>")
MAX_RE_LITERALS = 256  # up to so many texts, Python's own search is faster
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
RE2_MEMORY = 256 << 20  # bytes for the automaton of a vocabulary's control tokens


@dataclass(frozen=True)
class TextSpan:
    """A piece of a prompt. Control tokens are recognised only where `control` is True.

    `message` is the index of the message that the text comes from; None for a template's own text.
    """

    text: str
    control: bool = True
    message: int | None = None


class Tokenizer(Protocol):
    """Text to token ids and back."""

    vocab_size: int  # ids below this have text
    bos: str | None  # the control tokens' texts; None where the tokenizer has none
    eos: str | None
    eos_id: int | None
    prefix_ids: tuple[int, ...]  # what the model expects before any text: bos, or nothing

    def __hash__(self) -> int: ...

    def encode(self, spans: Sequence[TextSpan]) -> list[int]:
        """The ids of the joined spans, with nothing added before or after."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without control tokens."""
        ...

    def is_control(self, token_id: int) -> bool:
        """Whether the token is a control token, not text."""
        ...

    def token_text(self, token_id: int) -> str:
        """The token's text in the vocabulary, control tokens included."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes in UTF-8 that the token stands for, perhaps only a part of a character."""
        ...


def match_any(longest_first: Sequence[str]) -> re.Pattern[str]:
    """A pattern that matches any of these texts.

    Python's search tries one after the other at each position, which takes long with a whole
    vocabulary of them; RE2's patterns have the same methods.
    """
    pattern = "|".join(map(re.escape, longest_first))
    if len(longest_first) <= MAX_RE_LITERALS:
        return re.compile(pattern)
    options = re2.Options()
    options.max_mem = RE2_MEMORY
    options.literal = False
    return re2.compile("|".join(map(re2.escape, longest_first)), options)


def parse_byte_piece(piece: str) -> bytes:
    """The byte of a piece such as `<0xE4>`; empty for other pieces."""
    match = BYTE_PIECE.fullmatch(piece)
    return bytes([int(match[1], 16)]) if match else b""


def to_text_with_control_tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Ids as text, control tokens included, for another server that encodes it again.

    The ids that the model expects before any text are left out, because that server adds them. The
    encoded ids can differ: a control token's text that a user typed becomes a control token.
    """
    prefix = tokenizer.prefix_ids
    rest = ids[len(prefix) :] if tuple(ids[: len(prefix)]) == prefix else ids
    parts = [(control, list(part)) for control, part in groupby(rest, tokenizer.is_control)]
    return "".join(
        "".join(map(tokenizer.token_text, part)) if control else tokenizer.decode(part)
        for control, part in parts
    )


def split_at_control(spans: Sequence[TextSpan], control: re.Pattern[str] | None) -> list[TextSpan]:
    """Splits spans into control tokens and text.

    Each control token of a control span becomes its own span; all text between two of them, one.
    """
    parts: list[TextSpan] = []
    text = ""
    for span in spans:
        end = 0
        for match in control.finditer(span.text) if control and span.control else ():
            text += span.text[end : match.start()]
            parts += [TextSpan(text, control=False)] if text else []
            parts.append(TextSpan(match.group()))
            text, end = "", match.end()
        text += span.text[end:]
    return [*parts, TextSpan(text, control=False)] if text else parts
