"""What can be said about a model folder or an adapter: stable codes, and texts in every language.

`translations/<language>/diagnostics.toml` holds, for every code, a message and a remedy with places
for facts. The level is in the English file: an "error" keeps a folder from being served, a
"warning" does not, a "note" is only shown. The check, the page and the errors use the same texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model.errors import AdapterError, FolderError, ModelFolderError
from model.translations import DEFAULT, LocalizedText, coded

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding(LocalizedText):
    """A text about a folder, with its level."""

    @property
    def level(self) -> Level:
        return coded(DEFAULT)[self.code].get("level", "error")  # type: ignore[return-value]


def finding(code: str, **facts: object) -> Finding:
    return Finding(code, facts)


def finding_of(error: FolderError) -> Finding:
    """What an error says about a folder."""
    return Finding(error.text.code, error.text.facts)


def folder_error(code: str, **facts: object) -> ModelFolderError:
    """The refusal of a base's folder with the texts of `code`."""
    return ModelFolderError(finding(code, **facts))


def to_error(found: Finding) -> ModelFolderError:
    """The refusal of a base's folder for what was found."""
    return ModelFolderError(found)


def adapter_error(code: str, **facts: object) -> AdapterError:
    """The refusal of an adapter with the texts of `code`."""
    return AdapterError(finding(code, **facts))
