"""The registry of adapters: maps the names that clients send to checked adapter folders.

Paths never come from a client. A broken adapter is listed with its problem and never loaded; the
other adapters are served.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from model.diagnostics import finding
from model.display import MAX_NAME
from model.errors import AdapterError, OutOfMemoryError, UnknownModelError, lacks_memory
from model.folders import adapter_files
from model.folders.base_info import BaseInfo
from model.serving.adapter_folders import CHECK_TIMEOUT, OUT_OF_MEMORY, Adapter, AdapterFolders
from model.suggestions import did_you_mean

if TYPE_CHECKING:
    from model.layers.lora import Lora, LoraMaker

DISABLED = "adapter_withdrawn"  # code of the finding
LOCK_SECONDS = 1.0  # to wait for a scan on another thread, before the known state is used
MAX_QUICK_SCAN = 500  # folders that can be scanned for each request
SECONDS_A_FOLDER = 0.002  # with more of them, between two scans: 20 times what a scan takes


class AdapterRegistry:
    """The adapters in `directory` and `extra_folders`; `AdapterFolders` explains the arguments."""

    def __init__(
        self,
        directory: Path,
        base: BaseInfo | None,
        templates: Collection[str],
        extra_folders: Sequence[Path] = (),
        timeout: float = CHECK_TIMEOUT,
    ) -> None:
        self._folders = AdapterFolders(directory, base, templates, extra_folders, timeout)
        self._adapters: dict[str, Adapter] = {}
        self._scanned_at = -math.inf  # by the monotonic clock
        self._lock = threading.Lock()
        self._disabled: frozenset[str] = frozenset()

    def disable(self, name: str) -> None:
        """Stops serving an adapter, whatever happens to its files, until `enable` is called.

        Raises:
            UnknownModelError: there is none of that name.
        """
        self._find(name)
        with self._lock:
            self._disabled |= {name}

    def enable(self, name: str) -> None:
        """Serves an adapter again after `disable`.

        Raises:
            UnknownModelError: there is none of that name.
        """
        self._find(name)
        with self._lock:
            self._disabled -= {name}

    def cached(self) -> list[Adapter]:
        """The adapters as of the last scan; scans only if there was none yet."""
        return self.scan(math.inf)

    def scan(self, max_age: float = 0.0) -> list[Adapter]:
        """Returns the adapters, sorted by name; reads the folders that have changed.

        Args:
            max_age: seconds for which the last scan is used instead of a new one; with very many
                folders it is used for some seconds in any case.
        """
        max_age = max(max_age, self._min_interval())
        if time.monotonic() - self._scanned_at < max_age:
            return self._listed()
        with self._locked() as has_lock:
            # Another thread may have scanned while this one waited for the lock.
            if has_lock and time.monotonic() - self._scanned_at >= max_age:
                self._scan()
        return self._listed()

    def get(self, name: str) -> Adapter:
        """A healthy adapter by name, as its folder is now.

        Raises:
            UnknownModelError: there is none of that name.
            AdapterError: it is broken or disabled.
            OutOfMemoryError: there was not enough memory to read it.
        """
        adapter = self._with_availability(self._find(name))
        if adapter.problem and adapter.problem.code == DISABLED:
            raise AdapterError("adapter_disabled", name=name)
        if adapter.problem == OUT_OF_MEMORY:
            raise OutOfMemoryError("adapter_lacks_memory", name=name)
        if adapter.problem:
            raise AdapterError("adapter_broken", name=name, problem=adapter.problem)
        return adapter

    def load(self, name: str, digest: str, maker: LoraMaker) -> Lora:
        """The weights of a healthy adapter as of `digest`; see `adapter_files.load`.

        Raises:
            AdapterError: they cannot be read, or have changed.
            OutOfMemoryError: there is not enough memory for them.
        """
        path = self.get(name).path
        try:
            lora = adapter_files.load(path, maker)
        except Exception as error:
            if lacks_memory(error):
                raise OutOfMemoryError("adapter_lacks_memory", name=name) from error
            if isinstance(error, AdapterError):
                raise AdapterError("adapter_not_read", name=name, problem=error) from error
            raise
        # The digest is checked after the read: a training may write while this reads.
        if self.get(name).digest != digest:
            raise AdapterError("adapter_changed", name=name)
        return lora

    def _remote_adapters(self) -> dict[str, Adapter]:
        """Adapters by name that have no folder on this machine."""
        return {}

    def _with_availability(self, adapter: Adapter) -> Adapter:
        """Returns `adapter`, with a problem if it is not served although it is healthy."""
        if adapter.problem is None and adapter.name in self._disabled:
            return replace(adapter, problem=finding("adapter_withdrawn"))
        return adapter

    def _min_interval(self) -> float:
        """Seconds between two scans."""
        count = self._folders.count
        return count * SECONDS_A_FOLDER if count > MAX_QUICK_SCAN else 0.0

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Yields whether this thread has the lock: not if another scan takes long, and there is an
        earlier one whose result can be used."""
        has_scan = self._scanned_at > -math.inf
        has_lock = self._lock.acquire(timeout=LOCK_SECONDS if has_scan else -1)
        try:
            yield has_lock
        finally:
            if has_lock:
                self._lock.release()

    def _scan(self) -> None:
        local = self._folders.scan()
        adapters = {**self._remote_adapters(), **local}
        self._adapters = {name: adapters[name] for name in sorted(adapters)}
        self._scanned_at = time.monotonic()

    def _listed(self) -> list[Adapter]:
        return [self._with_availability(adapter) for adapter in self._adapters.values()]

    def _find(self, name: str) -> Adapter:
        """The adapter of that name as its folder is now, healthy or not.

        Raises:
            UnknownModelError: there is none of that name.
        """
        with self._locked() as has_lock:
            if has_lock:
                self._refresh(name)
        adapter = self._adapters.get(name)
        if adapter is None:
            names = self._adapters if len(name) <= MAX_NAME else ()
            remedy = did_you_mean(name, names, "choose_listed")
            raise UnknownModelError("unknown_model", name=name, remedy=remedy)
        return adapter

    def _refresh(self, name: str) -> None:
        """Reads the folder of one adapter again; scans if that is not enough and a scan is due."""
        refreshed = self._folders.refresh(name)
        if refreshed:
            self._adapters[name] = refreshed
        elif time.monotonic() - self._scanned_at >= self._min_interval():
            self._scan()
