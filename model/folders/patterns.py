"""Matches the regular expressions in adapter_config.json in linear time.

peft uses regular expressions to set rank and alpha of single modules. Python's `re` backtracks: a
pattern such as `(a+)+b` can run forever, and it holds the interpreter's lock. RE2
(https://github.com/google/re2) matches in one pass. Patterns that RE2 does not support, or reads
differently from `re`, are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import re2

MAX_PATTERN = 1000  # characters
MAX_PATTERNS = 10_000
MEMORY = 8 << 20  # bytes for the automaton of one pattern
# RE2 reads these differently from `re`: {,3} as plain text, [[:alpha:]] as letters.
READ_DIFFERENTLY = ("{,", "[[", "[^[")

Matcher = Callable[[str], bool]


class UnfitPatternError(ValueError):
    """A pattern that is not supported."""


@lru_cache(maxsize=MAX_PATTERNS)
def module_matcher(pattern: str) -> Matcher:
    """Returns a function that tells whether `pattern` matches a module's dotted name, as in peft's
    `get_pattern_key`: the full name, or the end of it after a dot.

    Raises:
        UnfitPatternError: it is no regular expression, or needs backtracking.
    """
    compiled = _compiled(pattern, rf"(.*\.)?({pattern})$")
    return lambda name: compiled.match(name) is not None


@lru_cache(maxsize=MAX_PATTERNS)
def compile_pattern(pattern: str) -> Any:
    """Returns `pattern` compiled: an object with the methods of `re.Pattern`.

    Raises:
        UnfitPatternError: it is no regular expression, or needs backtracking.
    """
    return _compiled(pattern, pattern)


def _compiled(pattern: str, full_pattern: str) -> Any:
    """Compiles `full_pattern`, which contains the foreign `pattern`."""
    if len(pattern) > MAX_PATTERN or any(part in pattern for part in READ_DIFFERENTLY):
        raise UnfitPatternError(pattern)
    try:
        re.compile(full_pattern)  # peft could not read an invalid one either
        return re2.compile(full_pattern, _options())
    except (
        re.error,
        re2.error,
        FutureWarning,
        RecursionError,
        OverflowError,
        UnicodeError,
    ) as error:
        raise UnfitPatternError(pattern) from error


def _options() -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MEMORY
    return options
