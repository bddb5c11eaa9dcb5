"""The page's texts in English and Chinese, as data beside this file."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

LANGUAGES = {"en": "English", "zh": "中文"}
DEFAULT = "en"


@cache
def texts(language: str) -> dict[str, str]:
    """Every text by key, in `language` or in English where it is unknown."""
    known = language if language in LANGUAGES else DEFAULT
    path = Path(__file__).parent / f"{known}.json"
    table: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return table


def translate(language: str, key: str, **values: object) -> str:
    """The text `key` in `language`, with its {placeholders} filled in."""
    return texts(language)[key].format(**values)
