"""Findings about model folders and adapters: stable codes, with texts in every language.

`translations/<language>/diagnostics.toml` has a message and a remedy for every code, with
placeholders for facts. The level is in the English file: a folder with an "error" is not served,
one with a "warning" is, and a "note" needs no action. The check, the page and the errors use these
texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model.errors import (
    AdapterError,
    FolderError,
    ModelFolderError,
    lack_of_memory,
)
from model.translations import DEFAULT, LocalizedText, texts_by_code

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding(LocalizedText):
    """A text about a folder, with its level."""

    @property
    def level(self) -> Level:
        return texts_by_code(DEFAULT)[self.code].get("level", "error")  # type: ignore[return-value]


def finding(code: str, **facts: object) -> Finding:
    return Finding(code, facts)


def finding_of(error: FolderError) -> Finding:
    """An error about a folder as a finding.

    Raises:
        OutOfMemoryError: memory ran out, which says nothing about the folder.
    """
    if lack := lack_of_memory(error):
        raise lack from error
    return Finding(error.text.code, error.text.facts)


def folder_error(code: str, **facts: object) -> ModelFolderError:
    """An error about a base's folder, with the texts of `code`."""
    return ModelFolderError(finding(code, **facts))


def adapter_error(code: str, **facts: object) -> AdapterError:
    """An error about an adapter, with the texts of `code`."""
    return AdapterError(finding(code, **facts))
