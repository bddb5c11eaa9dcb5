"""Regular expressions out of adapter_config.json, matched in linear time.

peft writes ranks and alphas of single modules under regular expressions. Python's `re` tries every
way in which one can match, so that `(a+)+b` keeps it busy for ever, with the interpreter's lock
held. RE2 (https://github.com/google/re2) matches in one pass; what it cannot do, and what it reads
otherwise than `re` does, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import re2

MAX_PATTERN = 1000  # characters
MAX_PATTERNS = 10_000
MEMORY = 8 << 20  # bytes for the automaton of one pattern
# Where RE2 reads something else than `re`: {,3} as plain text, [[:alpha:]] as letters.
READ_OTHERWISE = ("{,", "[[", "[^[")

Matcher = Callable[[str], bool]


class UnfitPatternError(ValueError):
    """A pattern that is not matched here."""


@lru_cache(maxsize=MAX_PATTERNS)
def module_matcher(pattern: str) -> Matcher:
    """Whether `pattern` matches a module's dotted name as in peft's `get_pattern_key`: the whole
    name, or the end of it behind a dot.

    Raises:
        UnfitPatternError: it is no regular expression, or needs backtracking.
    """
    if len(pattern) > MAX_PATTERN or any(part in pattern for part in READ_OTHERWISE):
        raise UnfitPatternError(pattern)
    whole = rf"(.*\.)?({pattern})$"
    try:
        re.compile(whole)  # what peft could not read either
        compiled = re2.compile(whole, _options())
    except (
        re.error,
        re2.error,
        FutureWarning,
        RecursionError,
        OverflowError,
        UnicodeError,
    ) as error:
        raise UnfitPatternError(pattern) from error
    return lambda name: compiled.match(name) is not None


def _options() -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MEMORY
    return options
