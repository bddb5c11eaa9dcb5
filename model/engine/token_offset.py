"""Finds where a token begins in a reply's text, for its log-probabilities."""

from __future__ import annotations


def token_offset(length: int, new_text: str, data: bytes) -> int:
    """Returns the offset in characters.

    Args:
        length: of the text before the token.
        new_text: what the token adds. Before its own text it can have that of earlier bytes which
            turned out to be no character; of a part of a character it is empty.
        data: the token's bytes.
    """
    text = data.decode(errors="replace")
    return length + len(new_text) - len(text) if text and new_text.endswith(text) else length
