"""The registry of adapters: names to what lies in `--adapters_dir`, with a verdict on each.

Whoever starts the program can add folders that lie elsewhere; each is known by its last name.

A client only ever sends a name; paths never come from outside. A broken adapter is listed with
its reason and never loaded, and the others serve. Folders are foreign input: what fails in one,
or takes too long, is the verdict of that folder alone.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import stat
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from model.diagnostics import Finding, finding
from model.display import MAX_NAME, clean_description, is_plain_name, printable_name
from model.doctor.check_adapter import check_adapter, default_template
from model.doctor.vocabulary import adapter_tokenizer
from model.errors import AdapterError, UnknownModelError
from model.folders import adapter_files
from model.folders.adapter_files import CONFIG, FILES
from model.folders.base_info import BaseInfo
from model.serving.folder_checks import FolderChecks
from model.suggestions import did_you_mean
from model.text.tokenizer import Tokenizer
from model.text.tokenizer_files import TOKENIZER_FILES

if TYPE_CHECKING:
    from model.layers.lora import Lora, LoraMaker

WITHDRAWN = "adapter_withdrawn"
MAX_ADAPTERS = 2000  # folders that are looked at; a look at one that has not changed takes 20 µs
MAX_ENTRIES = 100_000  # of the folder that they lie in
PATIENCE = 10.0  # seconds for the look at one folder
PATIENCE_ASKED_FOR = 300.0  # for one that was named when the program was started
BUSY_SECONDS = 1.0  # to wait for a look that goes on, before what is known has to do
MAX_QUICK_SCAN = 500  # folders that can be scanned for each request
SECONDS_A_FOLDER = 0.002  # with more of them, between two looks at all: 20 times what one takes
LISTING = ""  # the key of the look at the whole folder

Stamp = tuple[float, ...]
log = logging.getLogger(__name__)


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
    `patience` are the seconds that the look at one folder may take.
    """

    def __init__(
        self,
        folder: Path,
        base: BaseInfo | None,
        templates: Collection[str],
        others: Sequence[Path] = (),
        patience: float = PATIENCE,
    ) -> None:
        self._folder = folder
        self._others = others
        self._base = base
        self._templates = templates
        self._found: dict[str, Adapter] = {}
        self._stamps: dict[str, Stamp] = {}
        self._listings = FolderChecks[list[Path]](patience)
        self._looks = FolderChecks[_Look](patience)
        self._paths: list[Path] = []
        self._left_out = False  # whether it was logged that there are too many
        self._looked = -math.inf  # when, by the monotonic clock
        self._lock = threading.Lock()
        self._withdrawn: frozenset[str] = frozenset()

    def disable(self, name: str) -> None:
        """Serve an adapter no more, whatever happens to its files, until `serve` is asked for.

        Raises:
            UnknownModelError: there is none of that name.
        """
        self._lookup(name)
        with self._lock:
            self._withdrawn |= {name}

    def enable(self, name: str) -> None:
        """Take a withdrawal back.

        Raises:
            UnknownModelError: there is none of that name.
        """
        self._lookup(name)
        with self._lock:
            self._withdrawn -= {name}

    def cached(self) -> list[Adapter]:
        """What the last look has found, without another; the first one is taken now."""
        return self.scan(math.inf)

    def scan(self, fresh: float = 0.0) -> list[Adapter]:
        """Look at the folder again; only what has changed is read. Sorted by name.

        Args:
            fresh: seconds for which a look is as good as a new one; with very many folders it is so
                for some seconds in any case.
        """
        fresh = max(fresh, self._least())
        if time.monotonic() - self._looked < fresh:
            return self._listed()
        with self._turn() as mine:
            if mine and time.monotonic() - self._looked >= fresh:  # else it was done meanwhile
                self._scan()
        return self._listed()

    def _least(self) -> float:
        """Seconds between two looks at all folders."""
        count = len(self._paths)
        return count * SECONDS_A_FOLDER if count > MAX_QUICK_SCAN else 0.0

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """The right to look; False where another look takes long, and what is known has to do."""
        known = self._looked > -math.inf
        mine = self._lock.acquire(timeout=BUSY_SECONDS if known else -1)
        try:
            yield mine
        finally:
            if mine:
                self._lock.release()

    def _scan(self) -> None:
        listed = self._listings.run({LISTING: self._folders})
        self._paths = listed.get(LISTING, self._paths)
        here = self._look_at(self._paths)
        every = {**self._elsewhere(), **{name: one.adapter for name, one in here.items()}}
        self._found = {name: every[name] for name in sorted(every)}
        self._stamps = {name: one.stamp for name, one in here.items()}
        self._looked = time.monotonic()

    def _look_at(self, paths: Sequence[Path]) -> dict[str, _Look]:
        """What is at `paths`, by name; only what has changed is read."""
        plain = {path.name: path for path in paths if is_plain_name(path.name)}
        odd = [path for path in paths if path.name not in plain]
        found = {printable_name(path.name): _Look((), _unfit(path)) for path in odd}
        looks = {str(path): partial(self._look, path) for path in plain.values()}
        asked_for = any(path in self._others for path in paths) and self._looked == -math.inf
        seen = self._looks.run(looks, PATIENCE_ASKED_FOR if asked_for else 0.0)
        for name, path in plain.items():
            one = seen.get(str(path)) or _Look((), Adapter(name, path, problem=SLOW))
            if one.is_there:
                found[name] = one
        return found

    def _look(self, path: Path) -> _Look:
        stamp = _stamp(path)
        known = self._found.get(path.name)
        if known and known.path == path and stamp and self._stamps.get(path.name) == stamp:
            return _Look(stamp, known)
        return _Look(stamp, self._examine(path), bool(stamp))

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
        inside: list[Path] = []
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            inside = [self._folder / entry.name for entry in islice(entries, MAX_ENTRIES)]
        found: dict[str, Path] = {}
        for path in sorted(inside):
            if len(found) >= MAX_ADAPTERS:
                self._tell_left_out()
                break
            if _has_config(path):
                found[path.name] = path
        found |= {path.name: path for path in self._others if _has_config(path)}
        return [found[name] for name in sorted(found)]

    def _tell_left_out(self) -> None:
        if not self._left_out:
            log.warning("Only the first %d adapters of %s are served", MAX_ADAPTERS, self._folder)
        self._left_out = True

    def get(self, name: str) -> Adapter:
        """A healthy adapter by name, as its folder is now.

        Raises:
            UnknownModelError: there is none of that name.
            AdapterError: it is broken.
        """
        adapter = self._verdict(self._lookup(name))
        if adapter.problem and adapter.problem.code == WITHDRAWN:
            raise AdapterError("adapter_disabled", name=name)
        if adapter.problem:
            raise AdapterError("adapter_broken", name=name, problem=adapter.problem)
        return adapter

    def _lookup(self, name: str) -> Adapter:
        """The adapter of that name as its folder is now, healthy or not."""
        with self._turn() as mine:
            if mine and not self._refreshed(name) and self._is_due():
                self._scan()
        adapter = self._found.get(name)
        if adapter is None:
            names = self._found if len(name) <= MAX_NAME else ()
            remedy = did_you_mean(name, names, "choose_listed")
            raise UnknownModelError("unknown_model", name=name, remedy=remedy)
        return adapter

    def _is_due(self) -> bool:
        return time.monotonic() - self._looked >= self._least()

    def _refreshed(self, name: str) -> bool:
        """Look at one folder alone; False if that does not tell all, because it has gone or is
        new. A request need not pay for the other folders."""
        known = self._found.get(name)
        if known is None or not self._stamps.get(name):
            return False
        seen = self._look_at([known.path]).get(name)
        if seen is None:
            return False
        self._found[name], self._stamps[name] = seen.adapter, seen.stamp
        return True

    def load(self, name: str, digest: str, maker: LoraMaker) -> Lora:
        """The weights of a healthy adapter as of `digest`; see `adapter_files.load`.

        Raises:
            AdapterError: they cannot be read after all, or are others by now.
        """
        path = self.get(name).path
        try:
            lora = adapter_files.load(path, maker)
        except AdapterError as error:
            raise AdapterError("adapter_not_read", name=name, problem=error) from error
        # Looked at afterwards: whoever trains may write while this reads.
        if self.get(name).digest != digest:
            raise AdapterError("adapter_changed", name=name)
        return lora

    def _examine(self, path: Path) -> Adapter:
        try:
            found = tuple(check_adapter(path, self._base, self._templates))
            card = adapter_files.read_card(path)
            digest = adapter_files.digest(path)
            own = any(one.code == "adapter_vocabulary" for one in found)
            tokenizer = adapter_tokenizer(path) if own else None
        except AdapterError as error:
            return Adapter(path.name, path, problem=_finding(error))
        except BaseException as error:  # of Rust libraries too, whose panics are no Exceptions
            said = (str(error).splitlines() or [type(error).__name__])[0]
            return Adapter(path.name, path, problem=finding("adapter_unreadable", said=said))
        return Adapter(
            path.name,
            path,
            description=clean_description(card.get("description")),
            template=card.get("template") or default_template(own, self._templates),
            digest=digest,
            warnings=tuple(warning for warning in found if warning.level == "warning"),
            tokenizer=tokenizer,
        )


@dataclass(frozen=True)
class _Look:
    """What was found at a folder, and the state of its files before that."""

    stamp: Stamp
    adapter: Adapter
    is_there: bool = True


SLOW = finding("adapter_slow")


def _unfit(path: Path) -> Adapter:
    """One whose name cannot be sent or shown; its folder stays unopened."""
    return Adapter(printable_name(path.name), path, problem=finding("adapter_name_unfit"))


def _has_config(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.stat(f"{os.fspath(path)}/{CONFIG}").st_mode)  # noqa: PTH116 -- as above
    except OSError:
        return False


def _finding(error: AdapterError) -> Finding:
    if isinstance(error.text, Finding):
        return error.text
    return finding("adapter_unreadable", said=error)


def _stamp(path: Path) -> Stamp:
    """Changes when any of the files that matter does, or comes, or goes."""
    stamp: list[float] = []
    folder = os.fspath(path)
    for name in (*FILES, *TOKENIZER_FILES):
        try:
            status = os.stat(f"{folder}/{name}")  # noqa: PTH116 -- a third of Path's time, each second
        except OSError:
            continue
        stamp += [status.st_mtime_ns, status.st_size]
    return tuple(stamp)
