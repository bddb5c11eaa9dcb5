"""Checks that a regular expression of a tokenizer runs in linear time.

Oniguruma runs them, which backtracks. Whether a pattern takes long depends on the text, so trying
it proves nothing; a pattern passes by its form. After its first unbounded repetition, every part of
a branch must be optional, so that nothing is ever tried again. Branches of published tokenizers
that have another form are in a list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_PATTERN = 4000  # characters; DeepSeek's classes of letters take 600
MAX_WAYS = 1000  # in which the bounded part of a branch can match
MAX_DEPTH = 20  # of groups
UNBOUNDED = 1 << 30
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
# Branches of published tokenizers, each with another branch that the pattern must have: that one
# matches what the first leaves, so that the same text is not scanned again.
LISTED_BRANCHES = {
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
COUNTS = re.compile(r"\{(\d{1,4})(?:(,)(\d{0,4}))?\}")
REFUSED_GROUPS = ("(?(", "(?&", "(?R", "(?~", "(?>", "(?P", "(?#", "(*")


def is_linear(pattern: str) -> bool:
    """Whether Oniguruma finds all matches of `pattern` in a time linear in the text's length."""
    if len(pattern) > MAX_PATTERN or any(group in pattern for group in REFUSED_GROUPS):
        return False
    try:
        reader = _Reader(pattern)
        branches = reader.branches(0)
        if reader.at != len(pattern):
            return False
    except (_UnsupportedSyntaxError, IndexError):
        return False
    sources = {branch.source for branch in branches}
    return all(
        _is_linear_branch(branch)
        or (
            branch.source in LISTED_BRANCHES
            and (LISTED_BRANCHES[branch.source] or branch.source) in sources
        )
        for branch in branches
    )


def _is_linear_branch(branch: _Branch) -> bool:
    repeated = False
    for item in branch.items:
        if item.contains_unbounded or (repeated and item.min_times > 0):
            return False
        repeated = repeated or item.max_times >= UNBOUNDED
    return branch.ways <= MAX_WAYS


class _UnsupportedSyntaxError(Exception):
    """Syntax that published tokenizers do not have."""


@dataclass(frozen=True)
class _Item:
    """A part of a branch, repeated from `min_times` to `max_times` times.

    `ways` is the number of ways in which it can match, apart from an unbounded repetition of its
    own. A part without width, as a lookahead, counts as never absent.
    """

    min_times: int
    max_times: int
    ways: int
    contains_unbounded: bool = False


@dataclass(frozen=True)
class _Branch:
    """One alternative of a pattern or group."""

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
        return any(item.max_times >= UNBOUNDED or item.contains_unbounded for item in self.items)


class _Reader:
    """Parses the repetitions of a pattern, but not which characters its parts match.

    Raises:
        _UnsupportedSyntaxError, IndexError: by its methods; the pattern cannot be checked.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self.at = 0

    def branches(self, depth: int) -> list[_Branch]:
        if depth > MAX_DEPTH:
            raise _UnsupportedSyntaxError
        branches = [self._branch(depth)]
        while self._peek() == "|":
            self.at += 1
            branches.append(self._branch(depth))
        return branches

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
            self._skip_character_class()
        elif character == "\\":
            self._skip_escape()
        elif character in "*+?{":
            raise _UnsupportedSyntaxError
        else:
            self.at += 1
        return self._with_counts(inner)

    def _group(self, depth: int) -> list[_Branch]:
        opening = re.compile(r"\((?:\?(?::|[imx]+:|[imx]*-[imx]+:|=|!|<=|<!))?").match(
            self._pattern, self.at
        )
        if opening is None or self._pattern[opening.end()] == "?":
            raise _UnsupportedSyntaxError
        self.at = opening.end()
        inner = self.branches(depth + 1)
        if self._peek() != ")":
            raise _UnsupportedSyntaxError
        self.at += 1
        return inner

    def _with_counts(self, inner: list[_Branch]) -> _Item:
        min_times, max_times = self._read_counts()
        ways = sum(branch.ways for branch in inner) if inner else 1
        unbounded = any(branch.unbounded for branch in inner)
        if inner and max_times > 1 and ways > 1:  # each time in another way: exponential
            unbounded = True
        if max_times < UNBOUNDED:
            ways = min(ways * (max_times - min_times + 1), UNBOUNDED)
        return _Item(min_times, max_times, ways, unbounded)

    def _read_counts(self) -> tuple[int, int]:
        character = self._peek()
        if character in ("*", "+", "?"):
            self.at += 1
            if self._peek() in ("?", "+"):  # lazy, or possessive
                self.at += 1
            counts = {"*": (0, UNBOUNDED), "+": (1, UNBOUNDED), "?": (0, 1)}[character]
        elif character == "{":
            match = COUNTS.match(self._pattern, self.at)
            if match is None:
                raise _UnsupportedSyntaxError
            self.at = match.end()
            min_times = int(match[1])
            max_times = (int(match[3]) if match[3] else UNBOUNDED) if match[2] else min_times
            if min_times > max_times or min_times > MAX_WAYS or MAX_WAYS < max_times < UNBOUNDED:
                raise _UnsupportedSyntaxError
            counts = min_times, max_times
        else:
            return 1, 1
        if self._peek() in ("*", "+", "?", "{"):  # a repetition of a repetition
            raise _UnsupportedSyntaxError
        return counts

    def _skip_escape(self) -> None:
        letter = self._pattern[self.at + 1]
        if letter.isdigit() or letter in "kgQEKRX":  # references, and anchors within a match
            raise _UnsupportedSyntaxError
        self.at += 2
        if letter in "pPx" and self._peek() == "{":
            end = self._pattern.find("}", self.at)
            if end < 0:
                raise _UnsupportedSyntaxError
            self.at = end + 1

    def _skip_character_class(self) -> None:
        """Moves past a character class, and the classes nested in it."""
        depth = 0
        while True:
            character = self._pattern[self.at]
            self.at += 2 if character == "\\" else 1
            if character == "[":
                depth += 1
                self.at += self._peek() == "^"
                self.at += self._peek() == "]"  # first in a class, it is a literal
            elif character == "]":
                depth -= 1
            if depth == 0:
                return
