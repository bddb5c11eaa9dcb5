"""Checks that a tokenizer.json works in bounded time, and makes no text much longer.

Oniguruma runs its regular expressions while it keeps the interpreter's lock: one that takes long
stops the whole program. `regex_bounds` checks each of them.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from model.bounded_files import UnfitFileError
from model.diagnostics import folder_error
from model.text.regex_bounds import is_linear

MAX_STEPS = 64  # of a normaliser, or of what writes tokens down
MAX_GROWTH = 64  # of a text's length
MAX_ADDED_TOKENS = 50_000
MAX_TOKEN = 1000  # characters
MAX_NESTING = 20
MAX_REPLACEMENT = 128  # bytes that one character is normalised to; NFKC needs 33
PARTS = ("normalizer", "pre_tokenizer", "decoder")

# Patterns that scan the same text repeatedly, with equivalent ones that do not. DeepSeek LLM's
# starts again at each space of a run of spaces: 16,000 of them took 2 s.
REPLACEMENTS = {r"\s+$": r"(?<!\s)\s+$"}
TRIE_SIZE = struct.Struct("<I")


def replace_patterns(data: Mapping[str, Any]) -> bool:
    """Replaces the patterns in `REPLACEMENTS` by bounded ones; returns whether there were any.

    Raises:
        UnfitFileError: `data` is nested too deeply.
    """
    patterns = [step["pattern"] for part in PARTS for step in _steps(data.get(part), 0)
                if isinstance(step.get("pattern"), dict)]  # fmt: skip
    slow = [pattern for pattern in patterns if _has_replacement(pattern.get("Regex"))]
    for pattern in slow:
        pattern["Regex"] = REPLACEMENTS[pattern["Regex"]]
    return bool(slow)


def _has_replacement(regex: object) -> bool:
    return isinstance(regex, str) and regex in REPLACEMENTS


def check_tokenizer_data(data: Mapping[str, Any], name: str) -> None:
    """Checks that `data`, the content of the tokenizer.json `name`, can be used on any text.

    Raises:
        ModelFolderError: one of its patterns can take very long, with the pattern.
        UnfitFileError: it makes texts much longer, or has too many tokens or nested steps.
    """
    for part in PARTS:
        steps = list(_steps(data.get(part), 0))
        growth = 1.0
        for step in steps:
            pattern = step.get("pattern")
            regex = pattern.get("Regex") if isinstance(pattern, dict) else None
            if regex is not None and not (isinstance(regex, str) and is_linear(regex)):
                raise folder_error("tokenizer_pattern", file=name, pattern=repr(regex)[:200])
            growth *= _growth(step, pattern)
            if step.get("type") == "Precompiled":
                check_charsmap(base64.b64decode(str(step.get("precompiled_charsmap"))))
        if len(steps) > MAX_STEPS or growth > MAX_GROWTH:
            raise UnfitFileError("tokenizer_grows_text")
    added = data.get("added_tokens")
    if isinstance(added, list):
        contents = [token.get("content") for token in added if isinstance(token, dict)]
        if len(added) > MAX_ADDED_TOKENS or any(
            isinstance(content, str) and len(content) > MAX_TOKEN for content in contents
        ):
            raise UnfitFileError("tokenizer_added_tokens")


def check_charsmap(charsmap: bytes) -> None:
    """Checks that SentencePiece's normaliser, a trie and its replacement texts, replaces no
    character by a long text.

    Raises:
        UnfitFileError: it does, or is torn.
    """
    if not charsmap:
        return
    if len(charsmap) < TRIE_SIZE.size:
        raise UnfitFileError("tokenizer_normalizer_torn")
    (size,) = TRIE_SIZE.unpack_from(charsmap)
    texts = charsmap[TRIE_SIZE.size + size :].split(b"\0")
    if max(map(len, texts)) > MAX_REPLACEMENT:
        raise UnfitFileError("tokenizer_grows_text")


def _steps(part: Any, depth: int) -> Iterator[dict[str, Any]]:
    """The steps of a part, including those of nested sequences."""
    if depth > MAX_NESTING:
        raise UnfitFileError("file_nested_too_deeply")
    if isinstance(part, list):
        for item in part:
            yield from _steps(item, depth + 1)
    elif isinstance(part, dict):
        yield part
        for value in part.values():
            if isinstance(value, list):
                yield from _steps(value, depth + 1)


def _growth(step: Mapping[str, Any], pattern: Any) -> float:
    """The factor by which a step can make a text longer."""
    content = step.get("content", step.get("prepend", ""))
    if not isinstance(content, str) or step.get("type") not in ("Replace", "Prepend"):
        return 1.0
    text = pattern.get("String") if isinstance(pattern, dict) else None
    if isinstance(text, str) and text:
        return max(1.0, len(content) / len(text))
    return 1.0 + len(content) if pattern is not None else max(1.0, len(content) / 4)
