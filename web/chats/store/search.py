"""Whether a text holds what is searched for, in whatever case, as a condition of SQL.

SQLite's LIKE is several times as fast as a function of ours, but knows only A to Z in both cases;
PostgreSQL's ILIKE does the same in the collation "C". Where other letters are asked for, SQLite
matches classes of the characters that Python's `casefold` takes for the same (GLOB), and calls
`casefold` itself only for texts with a character that may stand for several of the query's, as "ß"
does for "SS". PostgreSQL follows Unicode whatever its own collation is. They can differ on letters
that are younger than one of them, and on the dotted İ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from sqlalchemy import Boolean, ColumnElement, false, func, literal, or_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from web.chats.store.schema import SafeText

LAST_CASED = 0x20000  # no character behind it has two cases


def holds(text: ColumnElement[str], query: str) -> ColumnElement[bool]:
    """That the query is in the text. It is not empty."""
    if all(letter.isascii() or letter.lower() == letter.upper() for letter in query):
        escaped = "".join(f"\\{letter}" if letter in "\\%_" else letter for letter in query)
        return _Like(text, literal(f"%{escaped}%", SafeText))
    folded = query.casefold()
    rarest = max(folded)
    return _Folded(
        text, literal(folded, SafeText), literal(_pattern(folded, _wildcard), SafeText),
        literal(_pattern(folded, _character_class), SafeText),
        _in_any(text, rarest + _same()[0].get(rarest, "")), _in_any(text, _standing_for(folded)),
    )  # fmt: skip


def _pattern(folded: str, character: Callable[[str], str]) -> str:
    """A pattern for texts that hold the query, character by character."""
    return "".join(map(character, folded))


def _in_any(text: ColumnElement[str], characters: Iterable[str]) -> ColumnElement[bool]:
    """That one of some characters is in the text."""
    found = (func.instr(text, literal(one, SafeText)) > 0 for one in characters)
    return or_(false(), *found)


def _wildcard(letter: str) -> str:
    """What stands for one character of a folded query in a pattern for LIKE, which finds more than
    that, and takes a tenth of the time that GLOB takes."""
    same = _same()[0].get(letter, "")
    if not (letter + same).isascii():
        return "_"
    return f"\\{letter}" if letter in "\\%_" else letter


def _character_class(letter: str) -> str:
    """What stands for one character of a folded query in a pattern for GLOB."""
    same = _same()[0].get(letter, "")
    if same or letter in "*?[":
        return f"[{letter}{same}]"
    return letter


def _standing_for(folded: str) -> Iterator[str]:
    """Characters one of which may stand for several characters of a match, or reach over its ends:
    a pattern by single characters does not find those."""
    for character, several in _same()[1]:
        inside = several in folded or folded in several
        if inside or any(
            folded.startswith(several[cut:]) or folded.endswith(several[:cut])
            for cut in range(1, len(several))
        ):
            yield character


@cache
def _same() -> tuple[dict[str, str], list[tuple[str, str]]]:
    """By a folded character, the others that are folded to it; and those that are folded to
    several, each with what they become."""
    singles: dict[str, str] = {}
    several: list[tuple[str, str]] = []
    for character in map(chr, range(LAST_CASED)):
        folded = character.casefold()
        if len(folded) > 1:
            several.append((character, folded))
        elif folded != character:
            singles[folded] = singles.get(folded, "") + character
    return singles, several


def folded_holds(text: str, folded: str) -> bool:
    """The function `holds` that SQLite gets."""
    return folded in text.casefold()


class _Like(FunctionElement[bool]):
    """A text, and a pattern for LIKE."""

    type = Boolean()
    inherit_cache = True


class _Folded(FunctionElement[bool]):
    """A text, what is to be in it, folded, and the same for LIKE and for GLOB; then two conditions:
    without the first GLOB finds nothing, and with the second it does not find everything."""

    type = Boolean()
    inherit_cache = True


def _all(element: FunctionElement[bool], compiler: SQLCompiler, **rest: Any) -> list[str]:
    return [compiler.process(clause, **rest) for clause in element.clauses]


@compiles(_Like, "sqlite")
def _(element: _Like, compiler: SQLCompiler, **rest: Any) -> str:
    text, pattern = _all(element, compiler, **rest)
    return f"{text} LIKE {pattern} ESCAPE '\\'"


@compiles(_Like, "postgresql")
def _(element: _Like, compiler: SQLCompiler, **rest: Any) -> str:
    text, pattern = _all(element, compiler, **rest)
    return f"{text} COLLATE \"C\" ILIKE {pattern} ESCAPE '\\'"


@compiles(_Folded, "sqlite")
def _(element: _Folded, compiler: SQLCompiler, **rest: Any) -> str:
    text, folded, like, glob, first, reaches = _all(element, compiler, **rest)
    plain = f"{text} LIKE '%' || {like} || '%' ESCAPE '\\' AND ({first})"
    # With CASE, as AND and OR evaluate both of their sides where their value is asked for.
    return (
        f"CASE WHEN {plain} AND {text} GLOB '*' || {glob} || '*' THEN 1"
        f" WHEN ({reaches}) THEN holds({text}, {folded}) ELSE 0 END"
    )


@compiles(_Folded, "postgresql")
def _(element: _Folded, compiler: SQLCompiler, **rest: Any) -> str:
    text, folded = (
        f'upper(lower({compiler.process(side, **rest)} COLLATE "und-x-icu"))'
        for side in list(element.clauses)[:2]
    )
    return f"strpos({text}, {folded}) > 0"
