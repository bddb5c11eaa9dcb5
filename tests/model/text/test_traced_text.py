"""Text with origins: every operation of strings gives the same text, and the right origins."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from model.text.traced_text import (
    TEMPLATE,
    TracedText,
    concat,
    find_origin,
    format_traced,
    is_control,
    message_of,
    origin,
    origins_of,
)

ALPHABET = "ab X\n \u3000xyß"
OPERATIONS: list[Callable[[str], Any]] = [
    *(lambda t, c=c: t.strip(c) for c in (None, "ab", "")),
    *(lambda t, c=c: t.lstrip(c) for c in (None, "ab")),
    *(lambda t, c=c: t.rstrip(c) for c in (None, "ab")),
    *(lambda t, s=s, n=n: t.split(s, n) for s in (None, "X", "xy") for n in (-1, 0, 1, 2)),
    *(lambda t, s=s, n=n: t.rsplit(s, n) for s in (None, "X", "xy") for n in (-1, 0, 1, 2)),
    *(lambda t, k=k: t.splitlines(k) for k in (False, True)),
    *(lambda t, s=s: t.partition(s) for s in ("X", "xy")),
    *(lambda t, s=s: t.rpartition(s) for s in ("X", "xy")),
    lambda t: t.removeprefix("a"),
    lambda t: t.removesuffix("y"),
    lambda t: t[::-1],
    lambda t: t[1:5:2],
    lambda t: t[-3:],
    list,
    str,
    lambda t: t * 2,
    lambda t: t + t[:2],
    lambda t: t[:1].join([t, t[2:]]),
]  # fmt: skip


def numbered(text: str) -> TracedText:
    """A text whose origins are the places of its characters."""
    return TracedText(text, "".join(chr(1 + i) for i in range(len(text))))


def texts(value: str | Iterable[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_give_the_text_and_its_origins(operation: Callable[[str], Any]) -> None:
    choose = random.Random(0)  # noqa: S311
    for _ in range(300):
        plain = "".join(choose.choices(ALPHABET, k=choose.randint(0, 12)))
        traced = texts(operation(numbered(plain)))
        assert traced == texts(operation(plain))
        for text in traced:
            assert isinstance(text, TracedText)
            assert len(text.origins) == len(text)
            for char, place in zip(str.__iter__(text), text.origins, strict=True):
                assert plain[ord(place) - 1] == char


@pytest.mark.parametrize("name", ["capitalize", "casefold", "lower", "swapcase", "title", "upper"])
def test_changed_case_keeps_origins_or_counts_as_the_message(name: str) -> None:
    for plain in ("aBc", "Straße", "İ", ""):
        mixed = TracedText("T: ", TEMPLATE * 3) + TracedText(plain, origin(4) * len(plain))
        changed = getattr(mixed, name)()
        assert changed == getattr("T: " + plain, name)()
        assert len(origins_of(changed)) == len(changed)
        assert TEMPLATE not in origins_of(changed)[3:]


@pytest.mark.parametrize("count", [-1, 0, 1, 2])
@pytest.mark.parametrize("old", ["", "a", "xy"])
def test_replaced_text_counts_as_what_it_replaces(old: str, count: int) -> None:
    for plain in ("", "axya", "xyxy"):
        message = TracedText(plain, origin(2) * len(plain))
        replaced = message.replace(old, "Q<end>", count)
        assert replaced == plain.replace(old, "Q<end>", count)
        assert set(origins_of(replaced)) <= ({origin(2)} if plain else {origin(2), TEMPLATE})


def test_origin_holds_a_message_and_whether_its_control_tokens_count() -> None:
    for message in (0, 1, 2000, 20_000):
        for control in (False, True):
            value = origin(message, control)
            assert (message_of(value), is_control(value)) == (message, control)
    assert (message_of(TEMPLATE), is_control(TEMPLATE)) == (None, True)


def test_formatting_puts_origins_in_their_places() -> None:
    hey = TracedText("hey", origin(0) * 3)

    def make(values: Any) -> str:
        return "a {} b {}".format(*values)

    traced = format_traced(make, (hey, "c"))
    assert (traced, origins_of(traced)) == (
        "a hey b c",
        TEMPLATE * 2 + origin(0) * 3 + TEMPLATE * 4,
    )


def test_formatting_that_changes_the_text_counts_as_the_message() -> None:
    hello = TracedText("hello", origin(0) * 5)
    for form in ("<end>%8s", "<end>%.1s", "<end>%r"):
        text = format_traced(lambda value, form=form: form % value, hello)
        assert text == form % "hello"
        assert TEMPLATE not in origins_of(text)


@pytest.mark.parametrize("typed", ["\ufdd00\ufdd1", "\ufdd07\ufdd1", "%s"])
def test_typed_placeholders_do_not_move_origins(typed: str) -> None:
    message = TracedText(typed, origin(0) * len(typed))
    text = format_traced("<end>{}<end>".format, message)
    assert text == f"<end>{typed}<end>"
    inner = origins_of(text)[5:-5]
    assert TEMPLATE not in inner


def test_message_is_found_in_containers() -> None:
    hey = TracedText("hey", TEMPLATE + origin(3, control=True) * 2)
    for value in (hey, [["x", hey]], {"a": (hey,)}, {hey: 1}, {"a": hey}.items()):
        assert find_origin(value) == origin(3)
    for value in ("hey", ["x"], {"a": 1}, None, TracedText("t", TEMPLATE)):
        assert find_origin(value) is None


def test_plain_parts_stay_plain() -> None:
    assert type(concat(["a", "b"])) is str
    assert type(concat(["a", TracedText("b", TEMPLATE)])) is TracedText
