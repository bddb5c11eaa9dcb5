"""Escaping of characters in logs and output."""

from __future__ import annotations

import io
import json

import pytest

from web.log_escaping import EscapingStream, indented, json_line, multiple_lines, one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain, 中文, é", "plain, 中文, é"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b[31m\x07\x7f\x85", "\\x1b[31m\\x07\\x7f\\x85"),
        ("\u202e\u2066\u200b\ufeff\u2028", "\\u202e\\u2066\\u200b\\ufeff\\u2028"),
        ("\ud800", "\\ud800"),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert one_line(text) == line


def test_multiple_lines_keeps_line_ends_and_tabs() -> None:
    assert multiple_lines("a\n\tb\r\x1b") == "a\n\tb\\r\\x1b"
    assert indented("a\nb\x1b") == "    a\n    b\\x1b"


def test_json_line_has_the_same_value_in_one_line() -> None:
    value = {"path": "中文\n\x7f\u202e\U000e0001\ud800"}
    line = json_line(value, ensure_ascii=False)
    assert json.loads(line) == value
    assert line.isprintable()
    assert "中文" in line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "seen"),
    [
        (Terminal(), "\r\x1b[K50% \x1b[Aup \\x1b[31mred\\x07\n"),
        (io.StringIO(), "\\r\\x1b[K50% \\x1b[Aup \\x1b[31mred\\x07\n"),
    ],
)
def test_progress_bars_are_redrawn_on_terminals_only(stream: io.StringIO, seen: str) -> None:
    print("\r\x1b[K50% \x1b[Aup \x1b[31mred\x07", file=EscapingStream(stream))
    assert stream.getvalue() == seen
