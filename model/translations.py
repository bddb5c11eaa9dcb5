"""Texts in every language: one folder of TOML files for each, found by itself.

`translations/<tag>/` holds

    language.toml     the language's own name, and how it joins sentences and lists
    page.toml         the page's texts that Python draws
    scripts.toml      those that the page's JavaScript draws
    errors.toml       a message and a remedy for each code of an error
    diagnostics.toml  the same for faults of model folders, with their level (in English)
    check.toml        what `python -m model check` says around them

A text or a file that a language lacks is English. Places for values are those of `str.format`.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from model.display import clean_text

FOLDER = Path(__file__).parents[1] / "translations"
DEFAULT = "en"
VERBATIM = "verbatim"  # the code of a text that comes from elsewhere, in whatever language it is
FOLDERS = re.compile(r"(?<![\w:/])/(?:[^\s/:]+/)+")  # of a path, up to its last name
STOPS = (".", "?", "!", "。", "？", "！")
MAX_FACT = 1000  # characters: names and texts out of a folder can have any length
MAX_FACTS = 20  # of a text that is read back
MAX_DEPTH = 3  # of texts within texts
MAX_STORED = 10_000  # characters


@cache
def languages() -> dict[str, str]:
    """Every language's own name by its tag, English first."""
    found = sorted(path.parent.name for path in FOLDER.glob("*/language.toml"))
    tags = [DEFAULT, *(tag for tag in found if tag != DEFAULT)]
    return {tag: table(tag, "language")["name"] for tag in tags}


def known_language(tag: str | None) -> str:
    """`tag` if there are texts in that language, also for "zh-CN"; else English."""
    tags = (tag or "", (tag or "").partition("-")[0].lower())
    return next((one for one in tags if one in languages()), DEFAULT)


@cache
def table(language: str, name: str) -> Mapping[str, Any]:
    """The file `name`.toml of a language over the English one."""
    path = FOLDER / language / f"{name}.toml"
    texts = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if language == DEFAULT:
        return texts
    english = table(DEFAULT, name)
    return {key: _merged(english[key], texts.get(key)) for key in english}


def _merged(english: Any, text: Any) -> Any:
    if isinstance(english, dict):
        return english | (text or {})
    return english if text is None else text


def texts(language: str) -> Mapping[str, str]:
    """Every text of the page by key, in `language` or in English where it is unknown."""
    return table(known_language(language), "page")


def translate(language: str, key: str, **values: object) -> str:
    """The text `key` of the page in `language`, with its {placeholders} filled in."""
    return texts(language)[key].format(**values)


@cache
def coded(language: str) -> Mapping[str, Mapping[str, str]]:
    """The errors' and the diagnostics' texts by code."""
    return {**table(language, "errors"), **table(language, "diagnostics")}


@dataclass(frozen=True)
class LocalizedText:
    """A message with its remedy in every language: a code, and the facts for its text's places.

    A fact is a number, a text, another LocalizedText, an error that holds one, or several of them.
    Facts can come out of folders that anybody may have made: they are cleaned where they are shown.
    """

    code: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """An error would keep its whole stack alive: what is kept of it is its text."""
        facts = {key: _kept(fact) for key, fact in self.facts.items()}
        object.__setattr__(self, "facts", facts)

    def message(self, language: str = DEFAULT) -> str:
        """What is wrong: a sentence or two, without the last full stop in English."""
        return self._filled("message", language)

    def remedy(self, language: str = DEFAULT) -> str:
        """What to do about it; empty where nothing can be done."""
        return self._filled("remedy", language)

    def full(self, language: str = DEFAULT) -> str:
        """Message and remedy."""
        message, remedy = self.message(language), self.remedy(language)
        if not remedy:
            return message
        return f"{message.rstrip('.。')}{table(language, 'language')['sentence_end']}{remedy}"

    def sentence(self, language: str = DEFAULT) -> str:
        """Message and remedy, with a stop at the end."""
        text = self.full(language)
        return text if text.endswith(STOPS) else text + table(language, "language")["full_stop"]

    def __str__(self) -> str:
        return self.full()

    def _filled(self, part: str, language: str) -> str:
        template = coded(language)[self.code].get(part, "")
        return template.format_map(
            {key: _shown(fact, language) for key, fact in self.facts.items()}
        )

    def dump(self) -> str:
        """As JSON, to be kept or sent to another process."""
        return json.dumps(_plain(self), ensure_ascii=False)


@dataclass(frozen=True)
class _Nested:
    """A text within another: its message, or {name.remedy} or {name.full}."""

    text: LocalizedText
    language: str

    def __str__(self) -> str:
        return self.text.message(self.language)

    @property
    def remedy(self) -> str:
        return self.text.remedy(self.language)

    @property
    def full(self) -> str:
        return self.text.full(self.language)


def verbatim(text: str, remedy: str = "") -> LocalizedText:
    """A text that is shown as it is."""
    return LocalizedText(VERBATIM, {"text": text, "remedy": remedy})


def load_text(stored: str) -> LocalizedText:
    """What `dump` has made; anything else is a text that is shown as it is.

    `stored` may come from anywhere: a file that somebody imports, or a database of years ago.
    """
    try:
        text = _read(json.loads(stored), MAX_DEPTH) if stored[:1] == "{" else None
        if isinstance(text, LocalizedText) and len(stored) <= MAX_STORED:
            text.full()  # whether every fact is there, and of the type that its place takes
            return text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return verbatim(stored)


def _read(value: Any, depth: int) -> Any:
    """A fact out of JSON. Raises ValueError where it is none of those that `dump` writes."""
    if isinstance(value, list) and len(value) <= MAX_FACTS:
        return tuple(_read(one, depth) for one in value)
    if not isinstance(value, dict):
        return value
    code, facts = value["code"], value["facts"]
    if not depth or code not in coded(DEFAULT) or len(facts) > MAX_FACTS:
        raise ValueError("no text of this program's")
    return LocalizedText(code, {key: _read(fact, depth - 1) for key, fact in facts.items()})


def without_folders(text: LocalizedText) -> LocalizedText:
    """The same with files by their names alone: where they are is for the operator to know."""
    return LocalizedText(text.code, {key: _hidden(fact) for key, fact in text.facts.items()})


def _hidden(fact: Any) -> Any:
    text = _text_of(fact)
    if text:
        return without_folders(text)
    if isinstance(fact, bool | int | float):
        return fact
    if isinstance(fact, Sequence) and not isinstance(fact, str):
        return tuple(map(_hidden, fact))
    return FOLDERS.sub("", str(fact))


def _text_of(fact: object) -> LocalizedText | None:
    """A fact that has its own translations, itself or in its attribute `text`, as errors do."""
    text = getattr(fact, "text", fact)
    return text if isinstance(text, LocalizedText) else None


def _kept(fact: object) -> object:
    if isinstance(fact, BaseException):
        return _text_of(fact) or str(fact)
    return fact


def _shown(fact: object, language: str) -> object:
    """A fact as its place is filled with it. Numbers stay numbers, for their formats."""
    if isinstance(fact, bool | int | float | None):
        return fact
    text = _text_of(fact)
    if text:
        return _Nested(text, language)
    if isinstance(fact, Sequence) and not isinstance(fact, str):
        return "".join(_joined(fact, language))
    return clean_text(str(fact), MAX_FACT)


def _joined(facts: Iterable[object], language: str) -> Iterator[str]:
    words = table(language, "language")
    for index, fact in enumerate(facts):
        nested = _text_of(fact) is not None
        if index:
            yield words["reason_separator" if nested else "list_separator"]
        yield str(_shown(fact, language))


def _plain(fact: object) -> Any:
    """A fact as JSON has it."""
    text = _text_of(fact)
    if text:
        return {"code": text.code, "facts": {key: _plain(one) for key, one in text.facts.items()}}
    if isinstance(fact, bool | int | float) or fact is None:
        return fact
    if isinstance(fact, Sequence) and not isinstance(fact, str):
        return [_plain(one) for one in fact]
    return clean_text(str(fact), MAX_FACT)
