"""Refusals and errors in the visitor's language.

Whoever refuses something says so in English, and so it is kept with a reply. What is shown is
looked up by its English words: in `refusals.zh.json`, where each value stands as `{}`, and among
the findings, which have both languages already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from string import Formatter

from model import diagnostics
from web.i18n import texts

CHINESE = "zh"
LONGEST = 800  # characters that are looked up: an imported chat can hold anything
MAX_PARTS = 6  # between full stops
STOP = ". "
ROWS = re.compile(r"; (?=line \d+: )")  # between the reasons of rows that cannot be learned from
ENDS = ("。", "？", "！")


@dataclass(frozen=True)
class Template:
    """A sentence with places for values: its English around them, and its Chinese.

    `literals` stand before, between and behind the places called `names`; `anchor` is the longest,
    to pass the sentence over quickly.
    """

    literals: tuple[str, ...]
    names: tuple[str, ...]
    anchor: str
    chinese: str

    def read(self, text: str, loose: bool) -> str | None:
        """`text` in Chinese, or None if it is another sentence."""
        values = self._values(text)
        if values is None or not (loose or self._is_plain(values)):
            return None
        return self._filled(dict(zip(self.names, map(_value, values), strict=True)))

    def _values(self, text: str) -> list[str] | None:
        """What stands in the places, each as short as can be. No regular expression: with several
        places it takes very long on a text that was made for that."""
        first, *inner, last = self.literals
        if not text.startswith(first):
            return None
        values, at = [], len(first)
        for literal in inner:
            end = text.find(literal, at)
            if end < 0:
                return None
            values.append(text[at:end])
            at = end + len(literal)
        end = len(text) - len(last)
        return [*values, text[at:end]] if end >= at and text.endswith(last) else None

    def _is_plain(self, values: Sequence[str]) -> bool:
        """Whether no value reaches over the end of a sentence, or of what stands before a colon.
        One that stands last can be a sentence by itself."""
        inner = values if self.literals[-1] else values[:-1]
        return not any(STOP in value for value in values) and not any(": " in v for v in inner)

    def _filled(self, values: Mapping[str, str]) -> str:
        return "".join(
            literal + (values[name] if name is not None else "")
            for literal, name, _, _ in Formatter().parse(self.chinese)
        )


@lru_cache(maxsize=1024)  # a reply that failed is drawn many times
def refused(sentence: str, language: str) -> str:
    """What `str` of a LinlyError says, or a reply's `error`, in `language`.

    What has no translation stays in English: the whole, or what follows the message.
    """
    if language != CHINESE or len(sentence) > LONGEST:
        return sentence
    parts = sentence.split(STOP, MAX_PARTS - 1)
    for loose in (False, True):
        said = _read(parts, loose)
        if said:
            return _joined(said)
    for end in range(1, len(parts)):
        message = _known(STOP.join(parts[:end]), loose=True)
        if message is not None:
            return _ended(message) + STOP.join(parts[end:])
    return sentence


def _read(parts: Sequence[str], loose: bool) -> list[str] | None:
    """Message and remedy, or whatever sentences the parts make up; None if one is unknown.

    Args:
        loose: whether a value may be anything, and not only what is plain.
    """
    for end in range(1, len(parts)):
        first = _known(STOP.join(parts[:end]), loose)
        rest = _read(parts[end:], loose) if first is not None else None
        if first is not None and rest is not None:
            return [first, *rest]
    whole = _known(STOP.join(parts), loose)
    return None if whole is None else [whole]


@lru_cache(maxsize=1024)
def _known(text: str, loose: bool) -> str | None:
    """A message, a remedy or a reason in Chinese, or None."""
    rows = ROWS.split(text)
    if len(rows) > 1:
        return "；".join(map(_value, rows))
    text = text.removesuffix(".")
    exact, templates = _catalogue()
    if text in exact:
        return exact[text]
    found = (one.read(text, loose) for one in templates if one.anchor in text)
    return next((said for said in found if said is not None), None)


def _value(text: str) -> str:
    """A value: often a reason that is itself a sentence of ours."""
    for loose in (False, True):
        known = _known(text, loose)
        if known is not None:
            return known
    return text


def _joined(said: Sequence[str]) -> str:
    """A remedy ends as it is written: with a command, it may be."""
    *before, last = said
    return "".join([*map(_ended, before), last]) if before else _ended(last)


def _ended(text: str) -> str:
    return text if text.endswith(ENDS) else f"{text}。"


@cache
def _catalogue() -> tuple[dict[str, str], list[Template]]:
    """Sentences without values, and templates: those that say the most come first."""
    exact: dict[str, str] = {}
    templates: list[tuple[int, Template]] = []
    for english, chinese in _entries():
        literals, names = _parsed(english.removesuffix("."))
        if not names:
            exact[literals[0]] = chinese.format()
            continue
        template = Template(literals, names, max(literals, key=len), chinese)
        templates.append((len("".join(literals)), template))
    return exact, [one for _, one in sorted(templates, key=lambda pair: -pair[0])]


def _entries() -> Iterator[tuple[str, str]]:
    """Everything that is known, in English and Chinese."""
    path = Path(__file__).with_name("refusals.zh.json")
    yield from json.loads(path.read_text(encoding="utf-8")).items()
    yield texts("en")["fault"], texts(CHINESE)["fault"]
    english, chinese = diagnostics.texts("en"), diagnostics.texts(CHINESE)
    for code, entry in english.items():
        for part in ("message", "remedy"):
            if entry[part]:
                yield entry[part], chinese[code][part]


def _parsed(english: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What stands around the places, one more than there are places, and their names; those
    without one are counted."""
    literals, names = [""], list[str]()
    for literal, name, _, _ in Formatter().parse(english):
        literals[-1] += literal  # a brace that is meant ends a literal, too
        if name is not None:
            names.append(name or str(len(names)))
            literals.append("")
    return tuple(literals), tuple(names)
