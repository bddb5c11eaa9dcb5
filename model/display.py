"""Makes untrusted text safe to display: names and descriptions from copied folders.

A file name can be no valid text at all, and a description can contain a megabyte, half a surrogate
pair or characters that change the writing direction of the page.
"""

from __future__ import annotations

import os
import unicodedata

MAX_NAME = 255  # characters; file systems allow no more bytes either
MAX_DESCRIPTION = 500  # characters
ELLIPSIS = "…"
JOINERS = "\u200c\u200d"  # format characters that Persian, Indic scripts and emoji need
INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format, surrogate, line, paragraph separator
NONCHARACTERS = range(0xFDD0, 0xFDF0)


def is_plain_name(name: str) -> bool:
    """Whether every character of `name` is visible and can be sent as UTF-8."""
    if not 0 < len(name) <= MAX_NAME or name != name.strip():
        return False
    if name.isascii():  # the fast case, for the names of many tensors
        return name.isprintable()
    return not any(_is_invisible(character) for character in name)


def printable_name(name: str) -> str:
    """`name`, with escapes for bytes that are no UTF-8 and for invisible characters.

    Such bytes of a file name become `\\xd0`, control characters `\\u000a`.
    """
    if is_plain_name(name):
        return name
    try:
        text = os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that does not stand for a byte
        text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    escaped = "".join(f"\\u{ord(c):04x}" if _is_invisible(c) else c for c in text)
    return shorten(escaped.strip() or "?", MAX_NAME)


def clean_text(text: str, max_chars: int) -> str:
    """`text` as one line of at most `max_chars` characters, without invisible characters."""
    if len(text) <= max_chars and text.isascii() and text.isprintable():
        return text
    start = text[: max_chars + 1]  # only as much as can be displayed is cleaned
    return shorten("".join(map(_clean_character, start)), max_chars)


def clean_description(text: object) -> str:
    """A description as one line of at most MAX_DESCRIPTION characters, with single spaces."""
    if not isinstance(text, str):
        return ""
    return " ".join(clean_text(text, MAX_DESCRIPTION).split())


def shorten(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else text[: max_chars - 1] + ELLIPSIS


def _is_invisible(character: str) -> bool:
    if character in JOINERS:
        return False
    code = ord(character)
    return (
        unicodedata.category(character) in INVISIBLE
        or code in NONCHARACTERS
        or code & 0xFFFE == 0xFFFE
    )


def _clean_character(character: str) -> str:
    if not _is_invisible(character):
        return character
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    return " " if category in ("Cc", "Zl", "Zp") else "\ufffd"
