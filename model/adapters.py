"""The registry of adapters: names to what lies in `--adapters_dir`, with a verdict on each.

Whoever starts the program can add folders that lie elsewhere; each is known by its last name.

A client only ever sends a name; paths never come from outside. A broken adapter is listed with
its reason and never loaded, and the others serve.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from model.doctor.adapter import check_adapter, usual_template
from model.doctor.vocabulary import own_tokenizer
from model.findings import Finding, finding
from model.folders import adapter_files
from model.folders.adapter_files import CONFIG, FILES
from model.folders.base_facts import BaseFacts
from model.folders.tokenizer_files import TOKENIZER
from model.tokenizer import Tokenizer
from model.types import AdapterError, UnknownModelError

if TYPE_CHECKING:
    from model.layers.lora import Lora, LoraMaker


WITHDRAWN = "adapter_withdrawn"


@dataclass(frozen=True)
class Adapter:
    """An adapter folder as it was found. `problem` says why it cannot be used, if it cannot, and
    `warnings` what is to be known before it is. `tokenizer` comes with a vocabulary of its own."""

    name: str
    path: Path
    description: str = ""
    template: str | None = None
    digest: str = ""
    problem: Finding | None = None
    warnings: tuple[Finding, ...] = ()
    tokenizer: Tokenizer | None = None

    @property
    def ready(self) -> bool:
        return self.problem is None


class AdapterRegistry:
    """What lies in `folder`, checked against the `base` and the known `templates`.

    `others` are adapters elsewhere. Each was asked for, so it wins over its namesake in `folder`.
    """

    def __init__(
        self,
        folder: Path,
        base: BaseFacts | None,
        templates: Collection[str],
        others: Sequence[Path] = (),
    ) -> None:
        self._folder = folder
        self._others = others
        self._base = base
        self._templates = templates
        self._found: dict[str, Adapter] = {}
        self._stamps: dict[str, tuple[float, ...]] = {}
        self._looked = -math.inf  # when, by the monotonic clock
        self._lock = threading.Lock()
        self._withdrawn: frozenset[str] = frozenset()

    def withdraw(self, name: str) -> None:
        """Serve an adapter no more, whatever happens to its files, until `serve` is asked for.

        Raises:
            UnknownModelError: there is none of that name.
        """
        self._there(name)
        with self._lock:
            self._withdrawn |= {name}

    def serve(self, name: str) -> None:
        """Take a withdrawal back.

        Raises:
            UnknownModelError: there is none of that name.
        """
        self._there(name)
        with self._lock:
            self._withdrawn -= {name}

    def known(self) -> list[Adapter]:
        """What the last look has found, without another; the first one is taken now."""
        return self.scan(math.inf)

    def scan(self, fresh: float = 0.0) -> list[Adapter]:
        """Look at the folder again; only what has changed is read. Sorted by name.

        Args:
            fresh: seconds for which a look is as good as a new one.
        """
        if time.monotonic() - self._looked < fresh:
            return self._listed()
        with self._lock:
            if time.monotonic() - self._looked < fresh:  # somebody has looked meanwhile
                return self._listed()
            paths = self._folders()
            stamps = {path.name: _stamp(path) for path in paths}
            known = {n: a for n, a in self._found.items() if self._stamps.get(n) == stamps.get(n)}
            here = {p.name: known.get(p.name) or self._examine(p) for p in paths}
            every = {**self._elsewhere(), **here}
            self._found = {name: every[name] for name in sorted(every)}
            self._stamps = stamps
            self._looked = time.monotonic()
            return self._listed()

    def _listed(self) -> list[Adapter]:
        return [self._verdict(adapter) for adapter in self._found.values()]

    def _verdict(self, adapter: Adapter) -> Adapter:
        if adapter.problem is None and adapter.name in self._withdrawn:
            return replace(adapter, problem=finding("adapter_withdrawn"))
        return adapter

    def _elsewhere(self) -> dict[str, Adapter]:
        """Adapters by name that have no folder here."""
        return {}

    def _folders(self) -> list[Path]:
        inside = self._folder.iterdir() if self._folder.is_dir() else ()
        found = {p.name: p for p in (*inside, *self._others) if (p / CONFIG).is_file()}
        return [found[name] for name in sorted(found)]

    def get(self, name: str) -> Adapter:
        """A healthy adapter by name, as its folder is now.

        Raises:
            UnknownModelError: there is none of that name.
            AdapterError: it is broken.
        """
        adapter = self._verdict(self._there(name))
        if adapter.problem and adapter.problem.code == WITHDRAWN:
            message = f"The adapter {name!r} is not served at present"
            raise AdapterError(message, "Choose another one.", adapter.problem)
        if adapter.problem:
            message = f"The adapter {name!r} is broken: {adapter.problem.message()}"
            raise AdapterError(message, adapter.problem.remedy(), adapter.problem)
        return adapter

    def _there(self, name: str) -> Adapter:
        """The adapter of that name as its folder is now, healthy or not."""
        self.scan()
        adapter = self._found.get(name)
        if adapter is None:
            close = difflib.get_close_matches(name, self._found, n=1)
            remedy = (
                f"Did you mean {close[0]!r}?" if close else "Choose one of those that are listed."
            )
            raise UnknownModelError(f"There is no model or adapter {name!r}", remedy)
        return adapter

    def load(self, name: str, digest: str, maker: LoraMaker) -> Lora:
        """The weights of a healthy adapter as of `digest`; see `adapter_files.load`.

        Raises:
            AdapterError: they cannot be read after all, or are others by now.
        """
        path = self.get(name).path
        try:
            lora = adapter_files.load(path, maker)
        except AdapterError as error:
            message = f"The adapter {name!r} cannot be read: {error.message}"
            raise AdapterError(message, error.remedy, error.finding) from error
        # Looked at afterwards: whoever trains may write while this reads.
        if self.get(name).digest != digest:
            raise AdapterError(f"The adapter {name!r} has just changed", "Ask again.")
        return lora

    def _examine(self, path: Path) -> Adapter:
        try:
            found = tuple(check_adapter(path, self._base, self._templates))
            card = adapter_files.read_card(path)
            digest = adapter_files.digest(path)
            own = any(one.code == "adapter_vocabulary" for one in found)
            tokenizer = own_tokenizer(path) if own else None
        except AdapterError as error:
            return Adapter(path.name, path, problem=_finding(error))
        except Exception as error:  # a file that is being written can be anything
            said = (str(error).splitlines() or [type(error).__name__])[0]
            return Adapter(path.name, path, problem=finding("adapter_unreadable", said=said))
        return Adapter(
            path.name,
            path,
            description=str(card.get("description", "")),
            template=card.get("template") or usual_template(own, self._templates),
            digest=digest,
            warnings=tuple(warning for warning in found if warning.level == "warning"),
            tokenizer=tokenizer,
        )


def _finding(error: AdapterError) -> Finding:
    if isinstance(error.finding, Finding):
        return error.finding
    return finding("adapter_unreadable", said=error.message)


def _stamp(path: Path) -> tuple[float, ...]:
    """Changes when any of the files that matter does, or comes, or goes."""
    stamp: list[float] = []
    for name in (*FILES, *TOKENIZER):
        with contextlib.suppress(OSError):
            status = (path / name).stat()
            stamp += [status.st_mtime, status.st_size]
    return tuple(stamp)
