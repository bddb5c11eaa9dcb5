"""The report of a check: as text for a user, or as JSON for a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from model.diagnostics import Finding
from model.display import clean_text, printable_name
from model.translations import MAX_FACT, table


@dataclass(frozen=True)
class FileSize:
    """A file of a folder, and its size in bytes."""

    name: str
    size: int

    def role(self, language: str) -> str:
        """The file's purpose, in one line."""
        roles: dict[str, str] = table(language, "check")["files"]
        return next(text for pattern, text in roles.items() if fnmatch(self.name, pattern))


def files_of(folder: Path) -> list[FileSize]:
    """The visible files of `folder`, by name."""
    paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return [FileSize(printable_name(path.name), path.stat().st_size) for path in paths]


@dataclass(frozen=True)
class Report:
    """A folder, its kind ("base", "adapter" or "unknown"), its files, and the findings about it."""

    folder: Path
    kind: str
    files: Sequence[FileSize]
    findings: Sequence[Finding]

    @property
    def ok(self) -> bool:
        return not self.errors

    @property
    def errors(self) -> list[Finding]:
        return [found for found in self.findings if found.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [found for found in self.findings if found.level == "warning"]

    @property
    def notes(self) -> list[Finding]:
        return [found for found in self.findings if found.level == "note"]

    def to_json(self, language: str = "en") -> dict[str, Any]:
        """The report as JSON: `problems` are errors and warnings, `notes` need no action."""
        return {
            "ok": self.ok,
            "kind": self.kind,
            "files": [
                {"name": file.name, "role": file.role(language), "size": file.size}
                for file in self.files
            ],
            "problems": [
                {
                    "level": found.level,
                    "code": found.code,
                    "message": found.message(language),
                    "remedy": found.remedy(language),
                }
                for found in [*self.errors, *self.warnings]
            ],
            "notes": [
                {"code": found.code, "message": found.message(language)} for found in self.notes
            ],
        }

    def to_text(self, language: str = "en") -> str:
        words = table(language, "check")["words"]
        colon = table(language, "language")["colon"]
        lines = [f"{clean_text(str(self.folder), MAX_FACT)}{colon}{words[self.kind]}"]
        width = max((len(file.name) for file in self.files), default=0)
        for file in self.files:
            size = format_bytes(file.size)
            lines.append(f"  {file.name:{width}}  {size:>8}  {file.role(language)}")
        lines += [f"  {capitalize(found.message(language))}" for found in self.notes]
        for found in [*self.errors, *self.warnings]:
            text = capitalize(found.full(language))
            lines.append(f"{words[found.level]} [{found.code}]{colon}{text}")
        lines.append(self._summary(words))
        return "\n".join(lines)

    def _summary(self, words: dict[str, str]) -> str:
        if not self.errors and not self.warnings:
            return words["sound"]
        counts = {"errors": len(self.errors), "warnings": len(self.warnings)}
        text = words["problems"].format(**counts)
        if counts["errors"] == 1:
            text = text.replace("errors", "error")
        return text.replace("warnings", "warning") if counts["warnings"] == 1 else text


def format_bytes(nbytes: float) -> str:
    """A size with a unit, for example "26.4 GB"."""
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} GB"


def capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]
