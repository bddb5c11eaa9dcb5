"""Stop strings: where they end a text, and what is held back meanwhile."""

from __future__ import annotations

import itertools

import pytest

from model.engine.stop_strings import StopStrings

CASES = [
    ("abcdef", ("cd",)),
    ("abcdef", ("xy",)),
    ("abcdef", ()),
    ("abcdef", ("abcdef",)),
    ("abcdef", ("f",)),
    ("abcdef", ("abcdefg",)),
    ("aaab", ("aab",)),
    ("ababac", ("abac",)),
    ("aaaa", ("aaa",)),
    ("Hi.\nUser: me", ("\nUser:", "User:")),
    ("Hi. User: me", ("\nUser:", "User:")),
    ("one two three", ("three", "two")),
    ("你好。\n用户：再见", ("\n用户：",)),
    ("abcxabcd", ("abcd", "cx")),
    # A stop string within another: the text ends at the one that is complete first.
    ("abcde", ("abcd", "bc")),
    ("abcde", ("bc", "bcd")),
]


def shown_text(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    """The text that is shown when it comes in `pieces`, and whether a stop string ended it."""
    made = StopStrings(stops)
    text = ""
    for piece in pieces:
        more, stopped = made.push(piece)
        text += more
        if stopped:
            assert made.flush() == ""
            return text, True
    return text + made.flush(), False


@pytest.mark.parametrize(("text", "stops"), CASES)
def test_text_ends_at_the_same_place_however_it_is_split(text: str, stops: tuple[str, ...]) -> None:
    expected = shown_text(stops, [text])
    for count in (1, 2):
        for cuts in itertools.combinations(range(len(text) + 1), count):
            edges = [0, *cuts, len(text)]
            pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
            assert shown_text(stops, pieces) == expected, pieces
    assert shown_text(stops, list(text)) == expected


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("abcdef", ("cd",), ("ab", True)),
        ("abcdef", ("xy",), ("abcdef", False)),
        ("abcdef", (), ("abcdef", False)),
        ("abcdef", ("a",), ("", True)),
        ("one two three", ("three", "two"), ("one ", True)),
        ("aaab", ("aab",), ("a", True)),
        ("Hi.\nUser: me", ("\nUser:", "User:"), ("Hi.", True)),
        ("Hi. User: me", ("\nUser:", "User:"), ("Hi. ", True)),
    ],
)
def test_text_ends_before_the_first_stop_string(
    text: str, stops: tuple[str, ...], expected: tuple[str, bool]
) -> None:
    assert shown_text(stops, [text]) == expected


def test_no_beginning_of_a_stop_string_is_shown_too_early() -> None:
    made = StopStrings(("END", "NDX"))
    assert [made.push(letter)[0] for letter in "aENDIV"[:3]] == ["a", "", ""]
    assert made.push("I") == ("ENI", False)


def test_only_a_possible_stop_string_is_held_back() -> None:
    made = StopStrings(("\nUser:",))
    assert made.push("Hello\nUs") == ("Hello", False)
    assert made.push("e") == ("", False)
    assert made.push("less") == ("\nUseless", False)


def test_without_stop_strings_nothing_is_held_back() -> None:
    assert StopStrings(()).push("anything") == ("anything", False)


def test_flush_returns_the_text_that_was_held_back_once() -> None:
    made = StopStrings(("END",))
    made.push("aEN")
    assert (made.flush(), made.flush()) == ("EN", "")


def push_letters(made: StopStrings, text: str) -> tuple[str, int | None]:
    """The part of `text` that is shown, and after how many letters a stop string has ended it."""
    out = ""
    for count, letter in enumerate(text, start=1):
        more, stopped = made.push(letter)
        out += more
        if stopped:
            return out, count
    return out + made.flush(), None


@pytest.mark.parametrize(("text", "stops"), CASES)
def test_continued_text_ends_where_the_full_one_does(text: str, stops: tuple[str, ...]) -> None:
    """A stop string that begins in the previous text counts, and no text comes twice."""
    full_text, end = push_letters(StopStrings(stops), text)
    for cut in range(len(text) if end is None else end):
        more, more_end = push_letters(StopStrings(stops, text[:cut]), text[cut:])
        assert text[:cut] + more == text[: max(cut, len(full_text))]
        assert more_end == (None if end is None else end - cut)
