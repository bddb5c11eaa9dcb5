"""The registry of adapters: names to what lies in `--adapters_dir`, with a verdict on each.

A client only ever sends a name; paths never come from outside. A broken adapter is listed with
its reason and never loaded, and the others serve.
"""

from __future__ import annotations

import contextlib
import difflib
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model import adapter_files
from model.adapter_files import CONFIG, FILES
from model.types import AdapterError, UnknownModelError

if TYPE_CHECKING:
    from model.layers.llama import LlamaShape
    from model.layers.lora import Lora, LoraMaker


@dataclass(frozen=True)
class Adapter:
    """An adapter folder as it was found. `reason` says why it cannot be used, if it cannot."""

    name: str
    path: Path
    description: str = ""
    template: str | None = None
    digest: str = ""
    reason: str | None = None

    @property
    def ready(self) -> bool:
        return self.reason is None


class AdapterRegistry:
    """What lies in `folder`, checked against the base's `shape` and the known `templates`."""

    def __init__(self, folder: Path, shape: LlamaShape | None, templates: Collection[str]) -> None:
        self._folder = folder
        self._shape = shape
        self._templates = templates
        self._found: dict[str, Adapter] = {}
        self._stamps: dict[str, tuple[float, ...]] = {}
        self._lock = threading.Lock()

    def scan(self) -> list[Adapter]:
        """Look at the folder again; only what has changed is read. Sorted by name."""
        with self._lock:
            paths = self._folders()
            stamps = {path.name: _stamp(path) for path in paths}
            known = {n: a for n, a in self._found.items() if self._stamps.get(n) == stamps.get(n)}
            self._found = {p.name: known.get(p.name) or self._examine(p) for p in paths}
            self._stamps = stamps
            return list(self._found.values())

    def _folders(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if (path / CONFIG).is_file())

    def get(self, name: str) -> Adapter:
        """A healthy adapter by name, as its folder is now.

        Raises:
            UnknownModelError: there is none of that name.
            AdapterError: it is broken.
        """
        self.scan()
        adapter = self._found.get(name)
        if adapter is None:
            close = difflib.get_close_matches(name, self._found, n=1)
            remedy = f"Did you mean {close[0]!r}?" if close else "GET /v1/models lists them."
            raise UnknownModelError(f"There is no model or adapter {name!r}", remedy)
        if adapter.reason:
            raise AdapterError(f"The adapter {name!r} is broken: {adapter.reason}")
        return adapter

    def load(self, name: str, digest: str, maker: LoraMaker) -> Lora:
        """The weights of a healthy adapter as of `digest`; see `adapter_files.load`.

        Raises:
            AdapterError: they cannot be read after all, or are others by now.
        """
        path = self.get(name).path
        try:
            lora = adapter_files.load(path, maker)
            # Looked at afterwards: whoever trains may write while this reads.
            if self.get(name).digest != digest:
                raise AdapterError(f"The adapter {name!r} has just changed", "Ask again.")
            return lora
        except AdapterError:
            raise
        except Exception as error:  # as in `_examine`
            raise AdapterError(f"The adapter {name!r} cannot be read: {_said(error)}") from error

    def _examine(self, path: Path) -> Adapter:
        try:
            card = adapter_files.read_card(path)
            adapter_files.check(path, self._shape)
            template = card.get("template")
            if template is not None and template not in self._templates:
                raise AdapterError(f"its template {template!r} is not in the prompts folder")
            digest = adapter_files.digest(path)
        except AdapterError as error:
            return Adapter(path.name, path, reason=error.message)
        except Exception as error:  # a torn file makes the parsers raise anything
            return Adapter(path.name, path, reason=f"it cannot be read: {_said(error)}")
        return Adapter(path.name, path, str(card.get("description", "")), template, digest)


def _said(error: Exception) -> str:
    """The parser's own words, without the paths that the loader puts around them."""
    cause = error.__cause__ or error
    return (str(cause).splitlines() or [type(cause).__name__])[0]


def _stamp(path: Path) -> tuple[float, ...]:
    """Changes when any of the files that matter does, or comes, or goes."""
    stamp: list[float] = []
    for name in FILES:
        with contextlib.suppress(FileNotFoundError):
            status = (path / name).stat()
            stamp += [status.st_mtime, status.st_size]
    return tuple(stamp)
