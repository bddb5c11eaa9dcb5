"""The measurement of the page: a visitor without a browser sees what a browser would."""

from __future__ import annotations

from typing import Any

import pytest
from gradio.utils import diff

from bench.page import WORDS, table
from bench.visitor import Visitor, apply, patched
from tests.fake import FakeEngine, echo, fake_manager
from tests.web.serving import serving

VALUES: list[Any] = [
    {"beat": 1, "replies": {}},
    {"beat": 2, "replies": {"a": {"text": "one", "notice": ""}}},
    {"beat": 3, "replies": {"a": {"text": "one two", "notice": "x"}, "b": {"text": "", "n": [1]}}},
    {"beat": 4, "replies": {"b": {"text": "new", "n": [1, 2, 3]}}},
    {"beat": 4, "replies": {"b": {"text": "new", "n": [3]}}},
    "text",
    {"__type__": "update"},
]


@pytest.mark.parametrize("before", VALUES)
@pytest.mark.parametrize("after", VALUES)
def test_gradios_edits_are_understood(before: Any, after: Any) -> None:
    assert apply(before, diff(before, after)) == after


def test_the_first_update_is_whole() -> None:
    assert patched([], ["a"]) == ["a"]
    assert patched(["a"], [diff("a", "ab")]) == ["ab"]


def test_a_visitor_asks_and_follows() -> None:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with serving(manager) as url:
        visitor = Visitor(url, {"Temperature": 0})
        for question in ("first", "second"):
            visitor.new_chat()
            heard = visitor.ask(question)
            assert (heard.text, heard.tokens) == (f"base heard: {question} ", 3)
        visitor.close()


def test_every_figure_has_its_line() -> None:
    lines = table(dict.fromkeys(WORDS, 1.5)).splitlines()
    assert len(lines) == len(WORDS)
    assert all("1.5" in line for line in lines)
