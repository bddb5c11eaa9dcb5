"""Text from strangers made fit to be shown: names and descriptions out of folders that were copied
from somewhere.

A name on the disk may be no text at all, and a description may hold a megabyte, half a surrogate
or signs that turn the writing direction of the whole page.
"""

from __future__ import annotations

import os
import unicodedata

MAX_NAME = 255  # characters; file systems allow no more bytes either
MAX_DESCRIPTION = 500  # characters
ELLIPSIS = "…"
JOINERS = "\u200c\u200d"  # of Persian, Indic scripts and emoji: format characters that are text
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format, surrogate, line and paragraph separator
NONCHARACTERS = range(0xFDD0, 0xFDF0)


def is_plain_name(name: str) -> bool:
    """Whether `name` is text that shows all that it holds, and can be sent as UTF-8."""
    if not 0 < len(name) <= MAX_NAME or name != name.strip():
        return False
    if name.isascii():  # as the names of tensors are, of which there are many
        return name.isprintable()
    return not any(_is_unseen(character) for character in name)


def printable_name(name: str) -> str:
    """`name` as it is if it is plain, else with escapes for the bytes and characters that are not.

    The bytes of a file name that is no UTF-8 come out as `\\xd0`, control characters as `\\u000a`.
    """
    if is_plain_name(name):
        return name
    try:
        text = os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that does not stand for a byte
        text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    shown = "".join(f"\\u{ord(c):04x}" if _is_unseen(c) else c for c in text)
    return shortened(shown.strip() or "?", MAX_NAME)


def clean_text(text: str, max_chars: int) -> str:
    """`text` in one line of at most `max_chars` characters, without what cannot be seen."""
    if len(text) <= max_chars and text.isascii() and text.isprintable():
        return text
    cut = text[: max_chars + 1]  # what is cut off costs nothing
    return shortened("".join(map(_shown, cut)), max_chars)


def clean_description(text: object) -> str:
    """A description for a person: one line, spaces collapsed, bounded."""
    if not isinstance(text, str):
        return ""
    return " ".join(clean_text(text, MAX_DESCRIPTION).split())


def shortened(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else text[: max_chars - 1] + ELLIPSIS


def _is_unseen(character: str) -> bool:
    if character in JOINERS:
        return False
    code = ord(character)
    return (
        unicodedata.category(character) in UNSEEN
        or code in NONCHARACTERS
        or code & 0xFFFE == 0xFFFE
    )


def _shown(character: str) -> str:
    if not _is_unseen(character):
        return character
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    return " " if category in ("Cc", "Zl", "Zp") else "\ufffd"
