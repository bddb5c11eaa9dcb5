"""What can be said about a model folder or an adapter: stable codes, and texts in two languages.

`en.toml` and `zh.toml` hold, for every code, a message and a remedy with places for facts; the
level stands in `en.toml`: an "error" keeps a folder from being served, a "warning" does not, a
"note" is merely told. The check, the page and every refusal draw on the same texts.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

from model.display import clean_text
from model.types import AdapterError, FolderError, ModelFolderError

Level = Literal["error", "warning", "note"]
LANGUAGES = ("en", "zh")
MAX_FACT = 1000  # characters: names and texts out of a folder can have any length
E = TypeVar("E", bound=FolderError)


@dataclass(frozen=True)
class Finding:
    """A code with the facts that its text has places for.

    Facts come out of folders that anybody may have made: their text is cleaned where it is shown.
    """

    code: str
    facts: Mapping[str, object]

    @property
    def level(self) -> Level:
        return texts("en")[self.code]["level"]  # type: ignore[return-value]

    def message(self, language: str = "en") -> str:
        """One sentence or two, without the last full stop in English."""
        return texts(language)[self.code]["message"].format_map(self._shown())

    def remedy(self, language: str = "en") -> str:
        """What to do about it; empty where nothing needs to be done."""
        return texts(language)[self.code].get("remedy", "").format_map(self._shown())

    def _shown(self) -> dict[str, object]:
        return {name: _cleaned(fact) for name, fact in self.facts.items()}


def finding(code: str, **facts: object) -> Finding:
    return Finding(code, facts)


def _cleaned(fact: object) -> object:
    """Numbers stay what they are, for the sake of their formats."""
    if isinstance(fact, int | float):
        return fact
    return clean_text(str(fact), MAX_FACT)


def folder_error(code: str, **facts: object) -> ModelFolderError:
    """The refusal of a base's folder with the texts of `code`."""
    return _error(ModelFolderError, code, facts)


def to_error(found: Finding) -> ModelFolderError:
    """The refusal of a base's folder for what was found."""
    return ModelFolderError(found.message(), found.remedy(), found)


def adapter_error(code: str, **facts: object) -> AdapterError:
    """The refusal of an adapter with the texts of `code`."""
    return _error(AdapterError, code, facts)


def _error(kind: type[E], code: str, facts: Mapping[str, object]) -> E:
    found = Finding(code, facts)
    return kind(found.message(), found.remedy(), found)


@cache
def texts(language: str) -> dict[str, dict[str, str]]:
    """Every code's entry in one of LANGUAGES."""
    file = Path(__file__).with_name(f"{language}.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))
