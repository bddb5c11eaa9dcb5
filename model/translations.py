"""Texts in every language: each language is a folder of TOML files, which needs no registration.

`translations/<tag>/` contains

    language.toml     the language's own name, and how it joins sentences and lists
    page.toml         texts of the page that Python renders
    scripts.toml      texts of the page that JavaScript renders
    errors.toml       a message and a remedy for each code of an error
    diagnostics.toml  the same for findings about model folders, with their level (in English)
    check.toml        other texts of the reports of `python -m model check`

A text or a file that a language lacks is English. Placeholders are those of `str.format`.
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
VERBATIM = "verbatim"  # the code of another program's text, which is not translated
FOLDERS = re.compile(r"(?<![\w:/])/(?:[^\s/:]+/)+")  # of a path, up to its last name
STOPS = (".", "?", "!", "。", "？", "！")
MAX_FACT = 1000  # characters: names and texts from a folder can have any length
MAX_FACTS = 20  # of a stored text
MAX_DEPTH = 3  # of texts within texts
MAX_STORED = 10_000  # characters


@cache
def languages() -> dict[str, str]:
    """Every language's own name by its tag, English first."""
    tags = sorted(path.parent.name for path in FOLDER.glob("*/language.toml"))
    tags.sort(key=lambda tag: tag != DEFAULT)
    return {tag: table(tag, "language")["name"] for tag in tags}


def supported_language(tag: str | None) -> str:
    """The language with texts for `tag`, for example "zh" for "zh-CN"; else English."""
    candidates = (tag or "", (tag or "").partition("-")[0].lower())
    return next((candidate for candidate in candidates if candidate in languages()), DEFAULT)


@cache
def table(language: str, name: str) -> Mapping[str, Any]:
    """The file `name`.toml of a language, completed with English texts."""
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
    """Every text of the page by key, in `language`, or in English if that has no texts."""
    return table(supported_language(language), "page")


def translate(language: str, key: str, **values: object) -> str:
    """The text `key` of the page in `language`, with its {placeholders} filled in."""
    return texts(language)[key].format(**values)


@cache
def texts_by_code(language: str) -> Mapping[str, Mapping[str, str]]:
    """The texts of errors and diagnostics by code."""
    return {**table(language, "errors"), **table(language, "diagnostics")}


@dataclass(frozen=True)
class LocalizedText:
    """A message with its remedy in every language: a code, and facts for the text's placeholders.

    A fact is a number, a text, another LocalizedText, an error that has one, or a sequence of
    these. Facts can come from untrusted folders: they are cleaned when they are formatted.
    """

    code: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Replaces errors by their texts, because an error keeps its stack frames in memory."""
        facts = {key: _without_error(fact) for key, fact in self.facts.items()}
        object.__setattr__(self, "facts", facts)

    def message(self, language: str = DEFAULT) -> str:
        """What is wrong: a sentence or two, in English without the last full stop."""
        return self._format("message", language)

    def remedy(self, language: str = DEFAULT) -> str:
        """What to do about it; empty if the user can do nothing."""
        return self._format("remedy", language)

    def full(self, language: str = DEFAULT) -> str:
        """Message and remedy."""
        message, remedy = self.message(language), self.remedy(language)
        if not remedy:
            return message
        return f"{message.rstrip('.。')}{table(language, 'language')['sentence_end']}{remedy}"

    def sentence(self, language: str = DEFAULT) -> str:
        """Message and remedy, with a full stop at the end."""
        text = self.full(language)
        return text if text.endswith(STOPS) else text + table(language, "language")["full_stop"]

    def __str__(self) -> str:
        return self.full()

    def _format(self, part: str, language: str) -> str:
        template = texts_by_code(language)[self.code].get(part, "")
        return template.format_map(
            {key: _format_value(fact, language) for key, fact in self.facts.items()}
        )

    def dump(self) -> str:
        """The text as JSON, to store it or send it to another process."""
        return json.dumps(_to_json(self), ensure_ascii=False)


@dataclass(frozen=True)
class _Nested:
    """A text as a fact of another: formats as its message, or with {name.remedy} or {name.full}."""

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
    """A text that is not translated."""
    return LocalizedText(VERBATIM, {"text": text, "remedy": remedy})


def load_text(stored: str) -> LocalizedText:
    """Reads the result of `dump`; anything else becomes a text that is not translated.

    `stored` is untrusted: it can come from an imported file or an old database.
    """
    try:
        text = _from_json(json.loads(stored), MAX_DEPTH) if stored[:1] == "{" else None
        if isinstance(text, LocalizedText) and len(stored) <= MAX_STORED:
            text.full()  # fails if a fact is missing, or has a type that its placeholder rejects
            return text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return verbatim(stored)


def _from_json(value: Any, depth: int) -> Any:
    """A fact from JSON. Raises ValueError if `dump` cannot have written it."""
    if isinstance(value, list) and len(value) <= MAX_FACTS:
        return tuple(_from_json(item, depth) for item in value)
    if not isinstance(value, dict):
        return value
    code, facts = value["code"], value["facts"]
    if not depth or code not in texts_by_code(DEFAULT) or len(facts) > MAX_FACTS:
        raise ValueError("not a text of this program")
    return LocalizedText(code, {key: _from_json(fact, depth - 1) for key, fact in facts.items()})


def redact_paths(text: LocalizedText) -> LocalizedText:
    """The text with file names instead of paths, which only the operator may see."""
    return LocalizedText(text.code, {key: _redact(fact) for key, fact in text.facts.items()})


def _redact(fact: Any) -> Any:
    text = _text_of(fact)
    if text:
        return redact_paths(text)
    if isinstance(fact, bool | int | float):
        return fact
    if isinstance(fact, Sequence) and not isinstance(fact, str):
        return tuple(map(_redact, fact))
    return FOLDERS.sub("", str(fact))


def _text_of(fact: object) -> LocalizedText | None:
    """The LocalizedText of a fact: the fact itself or its attribute `text`, as errors have; or
    None."""
    text = getattr(fact, "text", fact)
    return text if isinstance(text, LocalizedText) else None


def _without_error(fact: object) -> object:
    if isinstance(fact, BaseException):
        return _text_of(fact) or str(fact)
    return fact


def _format_value(fact: object, language: str) -> object:
    """The value for a fact's placeholder. Numbers stay numbers, for their formats."""
    if isinstance(fact, bool | int | float | None):
        return fact
    text = _text_of(fact)
    if text:
        return _Nested(text, language)
    if isinstance(fact, Sequence) and not isinstance(fact, str):
        return "".join(_with_separators(fact, language))
    return clean_text(str(fact), MAX_FACT)


def _with_separators(facts: Iterable[object], language: str) -> Iterator[str]:
    separators = table(language, "language")
    for index, fact in enumerate(facts):
        nested = _text_of(fact) is not None
        if index:
            yield separators["reason_separator" if nested else "list_separator"]
        yield str(_format_value(fact, language))


def _to_json(fact: object) -> Any:
    """A fact as a JSON value."""
    text = _text_of(fact)
    if text:
        facts = {key: _to_json(inner) for key, inner in text.facts.items()}
        return {"code": text.code, "facts": facts}
    if isinstance(fact, bool | int | float) or fact is None:
        return fact
    if isinstance(fact, Sequence) and not isinstance(fact, str):
        return [_to_json(item) for item in fact]
    return clean_text(str(fact), MAX_FACT)
