"""Text that knows, for each character, whether it comes from a template or from a message.

A template's control tokens are parsed, and what a user types is not. So the text of messages passes
through a template as `TracedText`, a string whose operations keep the origin of each character. To
the template it is an ordinary string: its conditions see the text itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from functools import wraps
from itertools import accumulate
from typing import Any, SupportsIndex

TEMPLATE = "\0"  # the origin of a template's own text
ITEMS_A_STEP = 16
PLACEHOLDER = re.compile("\ufdd0(\\d+)\ufdd1")  # noncharacters: in no exchanged text


def origin(message: int, control: bool = False) -> str:
    """The origin of a character of a message.

    Args:
        message: the index of the message.
        control: whether control tokens are recognised in the text.
    """
    return chr(1 + 2 * message + control)


def message_of(origin_: str) -> int | None:
    """The index of the message that a character comes from; None for a template's own text."""
    return None if origin_ == TEMPLATE else (ord(origin_) - 1) // 2


def is_control(origin_: str) -> bool:
    """Whether control tokens are recognised in text of this origin."""
    return origin_ == TEMPLATE or (ord(origin_) - 1) % 2 == 1


class TracedText(str):
    """A string with the origin of each of its characters: `origins` is as long as the string."""

    __slots__ = ("origins",)
    origins: str

    def __new__(cls, text: str, origins: str) -> TracedText:
        traced = super().__new__(cls, text)
        traced.origins = origins
        return traced

    @classmethod
    def of(cls, text: str) -> TracedText:
        """Any text; a plain one is a template's."""
        return text if isinstance(text, TracedText) else cls(text, TEMPLATE * len(text))

    def _part(self, start: int, end: int) -> TracedText:
        return TracedText(str.__getitem__(self, slice(start, end)), self.origins[start:end])

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> str:
        return concat((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return concat((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, count: SupportsIndex) -> str:
        return TracedText(str.__mul__(self, count), self.origins * count)

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> str:
        return derived(str.__mod__(self, values), find_origin([self, values]))

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        return TracedText(str.__getitem__(self, key), self.origins[key])

    def __iter__(self) -> Iterator[str]:
        pairs = zip(str.__iter__(self), self.origins, strict=True)
        return (TracedText(char, origin_) for char, origin_ in pairs)

    def lstrip(self, chars: str | None = None, /) -> str:
        return self._part(len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> str:
        return self._part(0, len(str.rstrip(self, chars)))

    def strip(self, chars: str | None = None, /) -> str:
        start, end = len(self) - len(str.lstrip(self, chars)), len(str.rstrip(self, chars))
        return self._part(start, max(start, end))

    def removeprefix(self, prefix: str, /) -> str:
        return self._part(len(prefix) if self.startswith(prefix) else 0, len(self))

    def removesuffix(self, suffix: str, /) -> str:
        return self._part(0, len(str.removesuffix(self, suffix)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._locate(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._locate(str.rsplit(self, sep, maxsplit), sep)

    def _locate(self, parts: Iterable[str], sep: str | None) -> list[str]:
        """The parts of the text that was split at `sep`, None for white space."""
        located: list[str] = []
        end = 0
        for part in parts:
            start = self.find(part, end) if sep is None else end
            located.append(self._part(start, start + len(part)))
            end = start + len(part) + len(sep or "")
        return located

    def splitlines(self, keepends: bool = False) -> list[str]:
        full, lines = str.splitlines(self, keepends=True), str.splitlines(self, keepends)
        starts = accumulate(map(len, full), initial=0)
        return [self._part(a, a + len(line)) for a, line in zip(starts, lines, strict=False)]

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        return self._cut(*map(len, str.partition(self, sep)))

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        return self._cut(*map(len, str.rpartition(self, sep)))

    def _cut(self, before: int, sep: int, after: int) -> tuple[str, str, str]:
        end = before + sep
        return self._part(0, before), self._part(before, end), self._part(end, end + after)

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        """As `str.replace`. A template's text that replaces a message's counts as the message's."""
        pieces: list[str] = []
        end, remaining = 0, count.__index__()
        while remaining and (start := self.find(old, end)) >= 0:
            replaced = self.origins[start : start + 1] or self.origins[-1:] or TEMPLATE
            pieces += [self._part(end, start), _with_origin(new, replaced)]
            end, remaining = start + len(old), remaining - 1
            if not old:
                pieces.append(self._part(end, end + 1))
                end += 1
        return concat([*pieces, self._part(end, len(self))])

    def join(self, values: Iterable[str], /) -> str:
        pieces: list[str] = []
        for value in values:
            pieces += [self, value] if pieces else [value]
        return concat(pieces)


def _same_length(name: str) -> Callable[..., str]:
    """The string method of that name, whose result usually has the same length."""
    method: Callable[[str], str] = getattr(str, name)

    @wraps(method)
    def changed(self: TracedText) -> str:
        text = method(self)
        return (
            TracedText(text, self.origins)
            if len(text) == len(self)
            else derived(text, find_origin(self))
        )

    return changed


for _name in ("capitalize", "casefold", "lower", "swapcase", "title", "upper"):
    setattr(TracedText, _name, _same_length(_name))


def origins_of(text: str) -> str:
    """The origins of the characters of any string."""
    return text.origins if isinstance(text, TracedText) else TEMPLATE * len(text)


def _with_origin(text: str, origin_: str) -> str:
    return text if isinstance(text, TracedText) else TracedText(text, origin_ * len(text))


def concat(parts: Iterable[str]) -> str:
    """The joined parts: a plain string if all of them are."""
    parts = tuple(parts)
    text = "".join(parts)
    if any(isinstance(part, TracedText) for part in parts):
        return TracedText(text, "".join(map(origins_of, parts)))
    return text


def derived(text: str, found: str | None) -> str:
    """A text made in an unknown way from others, of which `find_origin` has found that origin: all
    of it counts as that message's."""
    return text if found is None else TracedText(text, found * len(text))


def find_origin(value: Any, spend: Callable[[int], None] = lambda _: None) -> str | None:
    """The origin of a message's text in a value, without control tokens; None if there is none.

    Args:
        value: a text, or a container of texts.
        spend: is told the number of the items that were looked at.
    """
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, TracedText):
            found = item.origins.rstrip(TEMPLATE)[-1:]
            if found:
                return origin((ord(found) - 1) // 2)
        elif isinstance(item, Mapping):
            pending += [*item.keys(), *item.values()]
            spend(len(item) // ITEMS_A_STEP)
        elif isinstance(item, list | tuple | KeysView | ValuesView | ItemsView):
            pending += item
            spend(len(item) // ITEMS_A_STEP)
    return None


def format_traced(make: Callable[..., str], values: Any) -> str:
    """The result of `make(values)`, which formats texts, with their origins.

    The texts are formatted a second time as placeholders, and put in their place. Where that gives
    another text, as with a width, all of it counts as a message's.
    """
    text, found = make(values), find_origin(values)
    if found is None:
        return text
    texts: list[str] = []

    def placeholder(value: Any) -> Any:
        if isinstance(value, TracedText):
            texts.append(value)
            return f"\ufdd0{len(texts) - 1}\ufdd1"
        if isinstance(value, Mapping):
            return {key: placeholder(item) for key, item in value.items()}
        return tuple(map(placeholder, value)) if isinstance(value, tuple) else value

    try:
        pieces = PLACEHOLDER.split(make(placeholder(values)))
    except (ValueError, TypeError):
        return derived(text, found)
    indices = [int(piece) for piece in pieces[1::2]]
    if any(index >= len(texts) for index in indices):
        return derived(text, found)
    parts = [
        part
        for pair in zip(pieces[::2], [*(texts[i] for i in indices), ""], strict=True)
        for part in pair
    ]
    traced = concat(parts)
    return traced if str.__eq__(traced, text) else derived(text, found)
