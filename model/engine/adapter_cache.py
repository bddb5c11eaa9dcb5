"""Cache of adapters' weights: loaded once, kept within a budget, never evicted while in use."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from model.errors import lacks_memory
from model.layers.lora import Lora
from model.types import PreparedAdapter

Key = tuple[str, str]  # name and digest


@dataclass(frozen=True, eq=False)
class LoadedAdapter(PreparedAdapter):
    """A handle that keeps an adapter's weights in memory until it is garbage-collected."""

    lora: Lora


class AdapterCache:
    """The weights in memory, by adapter name. Any thread may call it.

    Args:
        load: returns an adapter's weights by name and digest, or raises AdapterError. It is called
            on the threads that call `acquire`, for different adapters at the same time.
        budget: bytes; when they are exceeded after a load, unused adapters are evicted, the least
            recently acquired first. None: no bound.
    """

    def __init__(self, load: Callable[[str, str], Lora], budget: int | None) -> None:
        self._load = load
        self._budget = budget
        self._entries: OrderedDict[str, _CacheEntry] = OrderedDict()
        self._loading: dict[Key, Future[LoadedAdapter]] = {}
        self._lock = threading.Lock()  # never held during a load
        self.loads = 0
        self.evictions = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters in memory, the least recently acquired first."""
        with self._lock:
            return tuple(self._entries)

    @property
    def nbytes(self) -> int:
        """Memory of all cached weights, in bytes."""
        return sum(entry.lora.nbytes for entry in tuple(self._entries.values()))

    def acquire(self, name: str, digest: str) -> LoadedAdapter:
        """An adapter's weights as of `digest`; loads them, or waits for a load that is running.

        Raises:
            AdapterError: they cannot be loaded.
            OutOfMemoryError: there is not enough memory for them.
        """
        key = name, digest
        with self._lock:
            entry = self._entries.get(name)
            if entry and entry.digest == digest:
                self._entries.move_to_end(name)
                return entry.handle(name)
            loading = self._loading.get(key)
            is_loader = loading is None
            if loading is None:
                loading = self._loading[key] = Future()
        if is_loader:
            self._fill(key, loading)
        return loading.result()

    def evict(self, name: str) -> None:
        """Remove an adapter, if it is cached; replies that hold its weights keep them."""
        with self._lock:
            self._entries.pop(name, None)

    def _fill(self, key: Key, loading: Future[LoadedAdapter]) -> None:
        try:
            lora = self._load_with_room(key)
        except BaseException as error:  # the threads that wait for the future get any error
            with self._lock:
                del self._loading[key]
            loading.set_exception(error)
            return
        with self._lock:
            del self._loading[key]
            adapter = self._add(key, lora)
        loading.set_result(adapter)

    def _load_with_room(self, key: Key) -> Lora:
        """Loads weights; if memory runs out, once more without the adapters that are not in use."""
        try:
            return self._load(*key)
        except Exception as error:
            if not (lacks_memory(error) and self._evict_unused()):
                raise
        return self._load(*key)

    def _evict_unused(self) -> bool:
        """Removes all adapters that no reply uses; returns whether there was any."""
        with self._lock:
            unused = [name for name, entry in self._entries.items() if not entry.in_use]
            for name in unused:
                del self._entries[name]
            self.evictions += len(unused)
        return bool(unused)

    def _add(self, key: Key, lora: Lora) -> LoadedAdapter:
        name, digest = key
        self.loads += 1
        self._entries[name] = _CacheEntry(digest, lora)
        self._entries.move_to_end(name)
        adapter = self._entries[name].handle(name)
        for other in list(self._entries):
            if self._budget is None or self.nbytes <= self._budget:
                break
            if not self._entries[other].in_use:
                del self._entries[other]
                self.evictions += 1
        return adapter


class _CacheEntry:
    """Weights, and a weak reference to the handle that their users share."""

    def __init__(self, digest: str, lora: Lora) -> None:
        self.digest = digest
        self.lora = lora
        self._handle: weakref.ref[LoadedAdapter] | None = None

    @property
    def in_use(self) -> bool:
        return self._handle is not None and self._handle() is not None

    def handle(self, name: str) -> LoadedAdapter:
        """The one LoadedAdapter for all present users."""
        adapter = self._handle() if self._handle else None
        if adapter is None:
            adapter = LoadedAdapter(name, self.digest, self.lora)
            self._handle = weakref.ref(adapter)
        return adapter
