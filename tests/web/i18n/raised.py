"""What the program's sources say: the errors that they raise, and every text in them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from model.config.settings import CHECKOUT

PACKAGES = ("web", "model", "training")
# A row that cannot be learned from is no refusal by itself, but the reason of one.
RAISED = {"LinlyError", "RowError"}


class Source:
    """A file, and the templates of what stands in it: each value of a text is `{}`, but for
    constants of several words, which are part of it."""

    def __init__(self, path: Path) -> None:
        self.name = path.relative_to(CHECKOUT).as_posix()
        self.nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        self._constants = {
            name: node.value.value
            for node in self.nodes
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            if isinstance(node.value.value, str) and " " in node.value.value
            for target in node.targets
            for name in names(target)
        }

    @property
    def classes(self) -> list[ast.ClassDef]:
        return [node for node in self.nodes if isinstance(node, ast.ClassDef)]

    def literals(self) -> set[str]:
        return {self._template(node) for node in self.nodes if is_text(node)}

    def _template(self, node: ast.AST) -> str:
        """Of a literal."""
        if isinstance(node, ast.JoinedStr):
            return "".join(map(self._part, node.values))
        return re.sub(r"\{\w+\}", "{}", str(getattr(node, "value", "")))  # for `format`

    def _part(self, part: ast.expr) -> str:
        if isinstance(part, ast.Constant):
            return str(part.value)
        value = getattr(part, "value", None)
        return self._constants.get(value.id, "{}") if isinstance(value, ast.Name) else "{}"

    def refusals(self, kinds: set[str]) -> set[str]:
        """Messages and remedies of the errors that are made here, and what classes of errors say
        by themselves."""
        own = [node for kind in self.classes if kind.name in kinds for node in ast.walk(kind)]
        calls = [
            node for node in self.nodes if isinstance(node, ast.Call) and called(node) in kinds
        ]
        calls += [node for node in own if isinstance(node, ast.Call) and called(node) == "__init__"]
        given = [
            one for call in calls for one in (*call.args[:2], *(k.value for k in call.keywords))
        ]
        return {text for one in given for text in self._meant(one) if text}

    def _meant(self, node: ast.expr) -> Iterator[str]:
        """Whatever texts an argument can be."""
        if is_text(node):
            # What follows a sentence is one by itself.
            yield self._template(node).removesuffix(". {}")
            return
        choices: list[ast.expr] = []
        match node:
            case ast.Name(id=name):
                choices = list(self._assigned(name))
            case ast.IfExp(body=body, orelse=orelse):
                choices = [body, orelse]
            case ast.BoolOp(values=values):
                choices = values
            case ast.Call(func=ast.Attribute(value=value, attr="strip")) if is_text(value):
                choices = [value]
        for choice in choices:
            yield from self._meant(choice)

    def _assigned(self, name: str) -> Iterator[ast.expr]:
        """What a name is set to; by a loop over a tuple of tuples, whatever is in those."""
        for node in self.nodes:
            if isinstance(node, ast.Assign) and name in set().union(*map(names, node.targets)):
                yield node.value
            elif isinstance(node, ast.For) and name in names(node.target):
                listed = self._assigned(node.iter.id) if isinstance(node.iter, ast.Name) else ()
                rows = (row for one in listed if isinstance(one, ast.Tuple) for row in one.elts)
                yield from (one for row in rows if isinstance(row, ast.Tuple) for one in row.elts)


def names(target: ast.expr) -> set[str]:
    """What an assignment or a loop sets."""
    parts = target.elts if isinstance(target, ast.Tuple) else [target]
    return {part.id for part in parts if isinstance(part, ast.Name)}


def is_text(node: ast.AST) -> bool:
    text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return text or isinstance(node, ast.JoinedStr)


def called(call: ast.Call) -> str:
    return str(getattr(call.func, "id", getattr(call.func, "attr", "")))


@cache
def sources() -> dict[str, Source]:
    files = [path for package in PACKAGES for path in (CHECKOUT / package).rglob("*.py")]
    return {one.name: one for one in map(Source, [*files, CHECKOUT / "finetune.py"])}


@cache
def kinds() -> set[str]:
    """Every class of errors."""
    classes = [kind for source in sources().values() for kind in source.classes]
    found = set(RAISED)
    for _ in classes:  # more often than any of them has forebears
        found |= {kind.name for kind in classes if found & set().union(*map(names, kind.bases))}
    return found
