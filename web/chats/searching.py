"""Whether a text holds what is searched for, in whatever case, as a condition of SQL.

SQLite's LIKE is several times as fast as a function of ours, but knows only A to Z in both cases;
PostgreSQL's ILIKE does the same in the collation "C". Where other letters are asked for, SQLite
calls Python's `casefold`, and PostgreSQL follows Unicode whatever its own collation is: "SS" is
"ß" for both. They can differ on letters that are younger than one of them, and on the dotted İ.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Boolean, ColumnElement, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from web.chats.tables import Words


def holds(text: ColumnElement[str], query: str) -> ColumnElement[bool]:
    """That the query is in the text. It is not empty."""
    if all(letter.isascii() or letter.lower() == letter.upper() for letter in query):
        escaped = "".join(f"\\{letter}" if letter in "\\%_" else letter for letter in query)
        return _Like(text, literal(f"%{escaped}%", Words))
    return _Folded(text, literal(query.casefold(), Words))


def folded_holds(text: str, folded: str) -> bool:
    """The function `holds` that SQLite gets."""
    return folded in text.casefold()


class _Like(FunctionElement[bool]):
    """A text, and a pattern for LIKE."""

    type = Boolean()
    inherit_cache = True


class _Folded(FunctionElement[bool]):
    """A text, and what is to be in it, folded."""

    type = Boolean()
    inherit_cache = True


def _both(element: FunctionElement[bool], compiler: SQLCompiler, **rest: Any) -> list[str]:
    return [compiler.process(clause, **rest) for clause in element.clauses]


@compiles(_Like, "sqlite")
def _(element: _Like, compiler: SQLCompiler, **rest: Any) -> str:
    text, pattern = _both(element, compiler, **rest)
    return f"{text} LIKE {pattern} ESCAPE '\\'"


@compiles(_Like, "postgresql")
def _(element: _Like, compiler: SQLCompiler, **rest: Any) -> str:
    text, pattern = _both(element, compiler, **rest)
    return f"{text} COLLATE \"C\" ILIKE {pattern} ESCAPE '\\'"


@compiles(_Folded, "sqlite")
def _(element: _Folded, compiler: SQLCompiler, **rest: Any) -> str:
    return f"holds({', '.join(_both(element, compiler, **rest))})"


@compiles(_Folded, "postgresql")
def _(element: _Folded, compiler: SQLCompiler, **rest: Any) -> str:
    text, folded = (
        f'upper(lower({side} COLLATE "und-x-icu"))' for side in _both(element, compiler, **rest)
    )
    return f"strpos({text}, {folded}) > 0"
