"""Texts in two languages: every code in both, with places for the same facts."""

from __future__ import annotations

import ast
import string

import pytest

from model.config.settings import CHECKOUT
from model.diagnostics import LANGUAGES, finding, texts

RAISED = {"finding", "folder_error", "adapter_error"}


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def facts(code: str, language: str) -> set[str]:
    entry = texts(language)[code]
    return places(entry["message"]) | places(entry["remedy"])


def used() -> dict[str, list[set[str]]]:
    """Each code that is raised anywhere, with the facts that are given for it."""
    found: dict[str, list[set[str]]] = {}
    for path in (CHECKOUT / "model").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            code = node.args[0] if node.func.id in RAISED and node.args else None
            if isinstance(code, ast.Constant):
                found.setdefault(code.value, []).append({k.arg or "" for k in node.keywords})
    return found


@pytest.mark.parametrize("code", texts("en"))
def test_both_languages_say_the_same(code: str) -> None:
    assert facts(code, "zh") <= facts(code, "en")
    assert texts("en")[code]["level"] in ("error", "warning", "note")
    for language in LANGUAGES:
        entry = texts(language)[code]
        assert entry["message"]
        assert entry["remedy"] or texts("en")[code]["level"] == "note"


def test_no_language_has_a_code_of_its_own() -> None:
    assert texts("en").keys() == texts("zh").keys()


def test_every_code_that_is_raised_has_its_facts() -> None:
    found = used()
    assert len(found) > 50
    for code, calls in found.items():
        for given in calls:
            assert facts(code, "en") <= given, code


def test_no_text_is_left_over() -> None:
    chosen_between = {"rows_without_text", "source_ambiguous", "source_empty", "memory",
                      "memory_short"}  # fmt: skip
    assert texts("en").keys() == used().keys() | chosen_between | {"tokenizer_too_small"}


def test_a_finding_reads_in_both() -> None:
    found = finding("tokenizer_too_large", pieces=49953, rows=32000)
    assert (found.level, found.code) == ("error", "tokenizer_too_large")
    assert "49953 pieces" in found.message()
    assert "49953 个片段" in found.message("zh")
