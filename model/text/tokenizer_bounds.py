"""Checks that a tokenizer.json works in bounded time and does not blow texts up.

Its regular expressions are run by Oniguruma, which backtracks, with the interpreter's lock held:
one that takes long stops the whole program. Whether it does depends on the text, so trying it is
no proof. A pattern passes by its form: behind its first unbounded repetition, every part of a
branch may be absent, so that nothing is ever tried again. The branches of published tokenizers
that have another form are listed.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from model.bounded_files import UnfitFileError
from model.diagnostics import folder_error

MAX_PATTERN = 4000  # characters; DeepSeek's classes of letters take 600
MAX_WAYS = 1000  # in which the bounded part of a branch can match
MAX_STEPS = 64  # of a normaliser, or of what writes tokens down
MAX_GROWTH = 64  # of a text's length
MAX_ADDED_TOKENS = 50_000
MAX_TOKEN = 1000  # characters
MAX_NESTING = 20
MAX_REPLACEMENT = 128  # bytes that one character is normalised to; NFKC needs 33
UNBOUNDED = 1 << 30
PARTS = ("normalizer", "pre_tokenizer", "decoder")

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
# Branches of published tokenizers, with the branch that must stand beside them: it takes what they
# leave, so that the same text is not looked through again.
KNOWN = {
    r"\s+(?!\S)": "",  # GPT-2, Llama 3, Qwen
    r"\s*[\r\n]+": r"\s+",  # Llama 3, Qwen
    r"\s*[\r\n]": r"\s+",
    r"(?<!\s)\s+$": "",
    f"{_UPPER}*{_LOWER}+": f"{_UPPER}+{_LOWER}*",  # Mistral's Tekken
    f"{_UPPER}*{_LOWER}+{_CONTRACTIONS}": f"{_UPPER}+{_LOWER}*{_CONTRACTIONS}",  # o200k
    r"(?=(\d{3})+(?!\d))": "",  # digits in groups of three from the right
    r"\d{1,3}(?=(?:\d{3})*\b)": "",
    r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))": "",
}
# Patterns that look through the same text again, and others that find the same without. DeepSeek
# LLM's begins anew within a run of spaces: 16,000 took 2 s.
REPLACED = {r"\s+$": r"(?<!\s)\s+$"}
LENGTH = struct.Struct("<I")  # of the trie
COUNTED = re.compile(r"\{(\d{1,4})(?:(,)(\d{0,4}))?\}")
REFUSED_GROUPS = ("(?(", "(?&", "(?R", "(?~", "(?>", "(?P", "(?#", "(*")


def replace_patterns(data: Mapping[str, Any]) -> bool:
    """Put bounded patterns in the place of those in `REPLACED`; whether there were any.

    Raises:
        UnfitFileError: `data` is nested too deeply.
    """
    patterns = [step["pattern"] for part in PARTS for step in _steps(data.get(part), 0)
                if isinstance(step.get("pattern"), dict)]  # fmt: skip
    found = [pattern for pattern in patterns if _is_replaced(pattern.get("Regex"))]
    for pattern in found:
        pattern["Regex"] = REPLACED[pattern["Regex"]]
    return bool(found)


def _is_replaced(regex: object) -> bool:
    return isinstance(regex, str) and regex in REPLACED


def check_tokenizer_data(data: Mapping[str, Any], name: str) -> None:
    """Whether `data`, a tokenizer.json called `name`, can be used on any text.

    Raises:
        ModelFolderError: one of its patterns can take very long, with the pattern.
        UnfitFileError: it makes texts grow, or tells too much.
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
    """Whether SentencePiece's normaliser, a trie with the texts that it leads to, makes no
    character into a long text.

    Raises:
        UnfitFileError: it does, or is torn.
    """
    if not charsmap:
        return
    if len(charsmap) < LENGTH.size:
        raise UnfitFileError("tokenizer_normalizer_torn")
    (size,) = LENGTH.unpack_from(charsmap)
    texts = charsmap[LENGTH.size + size :].split(b"\0")
    if max(map(len, texts)) > MAX_REPLACEMENT:
        raise UnfitFileError("tokenizer_grows_text")


def _steps(part: Any, depth: int) -> Iterator[dict[str, Any]]:
    """The steps of a part, those of sequences inside of sequences too."""
    if depth > MAX_NESTING:
        raise UnfitFileError("file_nested_too_deeply")
    if isinstance(part, list):
        for one in part:
            yield from _steps(one, depth + 1)
    elif isinstance(part, dict):
        yield part
        for value in part.values():
            if isinstance(value, list):
                yield from _steps(value, depth + 1)


def _growth(step: Mapping[str, Any], pattern: Any) -> float:
    """How many times longer a step can make a text."""
    content = step.get("content", step.get("prepend", ""))
    if not isinstance(content, str) or step.get("type") not in ("Replace", "Prepend"):
        return 1.0
    text = pattern.get("String") if isinstance(pattern, dict) else None
    if isinstance(text, str) and text:
        return max(1.0, len(content) / len(text))
    return 1.0 + len(content) if pattern is not None else max(1.0, len(content) / 4)


def is_linear(pattern: str) -> bool:
    """Whether Oniguruma finds all matches of `pattern` in a time that grows with the text."""
    if len(pattern) > MAX_PATTERN or any(group in pattern for group in REFUSED_GROUPS):
        return False
    try:
        reader = _Reader(pattern)
        branches = reader.branches(0)
        if reader.at != len(pattern):
            return False
    except (_UnreadableError, IndexError):
        return False
    sources = {branch.source for branch in branches}
    return all(
        _is_linear_branch(branch)
        or (branch.source in KNOWN and (KNOWN[branch.source] or branch.source) in sources)
        for branch in branches
    )


def _is_linear_branch(branch: _Branch) -> bool:
    repeated = False
    for item in branch.items:
        if item.nested_unbounded or (repeated and item.fewest > 0):
            return False
        repeated = repeated or item.most >= UNBOUNDED
    return branch.ways <= MAX_WAYS


class _UnreadableError(Exception):
    """Syntax that published tokenizers do not have."""


@dataclass(frozen=True)
class _Item:
    """A part of a branch, from `fewest` to `most` times. `ways` in which it can match, apart from
    an unbounded repetition of its own; a part without width is never absent."""

    fewest: int
    most: int
    ways: int
    nested_unbounded: bool = False


@dataclass(frozen=True)
class _Branch:
    source: str
    items: tuple[_Item, ...]

    @property
    def ways(self) -> int:
        ways = 1
        for item in self.items:
            ways = min(ways * item.ways, UNBOUNDED)
        return ways

    @property
    def unbounded(self) -> bool:
        return any(item.most >= UNBOUNDED or item.nested_unbounded for item in self.items)


class _Reader:
    """Reads a pattern as far as its repetitions go; what single characters match is left out."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self.at = 0

    def branches(self, depth: int) -> list[_Branch]:
        if depth > MAX_NESTING:
            raise _UnreadableError
        found = [self._branch(depth)]
        while self._peek() == "|":
            self.at += 1
            found.append(self._branch(depth))
        return found

    def _peek(self) -> str:
        return self._pattern[self.at : self.at + 1]

    def _branch(self, depth: int) -> _Branch:
        start, items = self.at, list[_Item]()
        while self._peek() not in ("", "|", ")"):
            items.append(self._item(depth))
        return _Branch(self._pattern[start : self.at], tuple(items))

    def _item(self, depth: int) -> _Item:
        character = self._peek()
        inner: list[_Branch] = []
        if character == "(":
            inner = self._group(depth)
        elif character == "[":
            self._skip_class()
        elif character == "\\":
            self._skip_escape()
        elif character in "*+?{":
            raise _UnreadableError
        else:
            self.at += 1
        return self._repeated(inner)

    def _group(self, depth: int) -> list[_Branch]:
        opening = re.compile(r"\((?:\?(?::|[imx]+:|[imx]*-[imx]+:|=|!|<=|<!))?").match(
            self._pattern, self.at
        )
        if opening is None or self._pattern[opening.end()] == "?":
            raise _UnreadableError
        self.at = opening.end()
        inner = self.branches(depth + 1)
        if self._peek() != ")":
            raise _UnreadableError
        self.at += 1
        return inner

    def _repeated(self, inner: list[_Branch]) -> _Item:
        fewest, most = self._counts()
        ways = sum(branch.ways for branch in inner) if inner else 1
        unbounded = any(branch.unbounded for branch in inner)
        if inner and most > 1 and ways > 1:  # each time in another way: exponentially many
            unbounded = True
        if most < UNBOUNDED:
            ways = min(ways * (most - fewest + 1), UNBOUNDED)
        return _Item(fewest, most, ways, unbounded)

    def _counts(self) -> tuple[int, int]:
        character = self._peek()
        if character in ("*", "+", "?"):
            self.at += 1
            if self._peek() in ("?", "+"):  # lazy, or possessive
                self.at += 1
            counts = {"*": (0, UNBOUNDED), "+": (1, UNBOUNDED), "?": (0, 1)}[character]
        elif character == "{":
            match = COUNTED.match(self._pattern, self.at)
            if match is None:
                raise _UnreadableError
            self.at = match.end()
            fewest = int(match[1])
            most = (int(match[3]) if match[3] else UNBOUNDED) if match[2] else fewest
            if fewest > most or fewest > MAX_WAYS or MAX_WAYS < most < UNBOUNDED:
                raise _UnreadableError
            counts = fewest, most
        else:
            return 1, 1
        if self._peek() in ("*", "+", "?", "{"):  # a repetition of a repetition
            raise _UnreadableError
        return counts

    def _skip_escape(self) -> None:
        letter = self._pattern[self.at + 1]
        if letter.isdigit() or letter in "kgQEKRX":  # references, and what reads on by itself
            raise _UnreadableError
        self.at += 2
        if letter in "pPx" and self._peek() == "{":
            self.at = (
                self._pattern.index("}", self.at) + 1 if "}" in self._pattern[self.at :] else -1
            )
            if self.at < 0:
                raise _UnreadableError

    def _skip_class(self) -> None:
        """To behind the class, and the classes in it."""
        depth = 0
        while True:
            character = self._pattern[self.at]
            self.at += 2 if character == "\\" else 1
            if character == "[":
                depth += 1
                self.at += self._peek() == "^"
                self.at += self._peek() == "]"  # there it is itself
            elif character == "]":
                depth -= 1
            if depth == 0:
                return
