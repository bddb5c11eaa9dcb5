"""Adapters' weights: loaded once, kept within a budget, never taken from whoever uses them."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from model.layers.lora import Lora
from model.types import PreparedAdapter

Key = tuple[str, str]  # name and digest


@dataclass(frozen=True, eq=False)
class LoadedAdapter(PreparedAdapter):
    """A prepared adapter with its weights. Whoever holds it uses them."""

    lora: Lora


class AdapterCache:
    """The weights in memory, by name. Any thread may ask.

    Args:
        load: gives an adapter's weights by name and digest, or raises AdapterError. It is called
            on the threads that ask, for different adapters at the same time.
        budget: bytes; beyond them, whenever another is loaded, those that nobody uses leave, the
            least recently asked for first. None: all stay.
    """

    def __init__(self, load: Callable[[str, str], Lora], budget: int | None) -> None:
        self._load = load
        self._budget = budget
        self._resident: OrderedDict[str, _Resident] = OrderedDict()
        self._loading: dict[Key, Future[LoadedAdapter]] = {}
        self._lock = threading.Lock()  # never held while something loads
        self.loads = 0
        self.evictions = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are resident, the least recently asked for first."""
        with self._lock:
            return tuple(self._resident)

    @property
    def nbytes(self) -> int:
        """Memory of what is resident, in bytes."""
        return sum(resident.lora.nbytes for resident in tuple(self._resident.values()))

    def acquire(self, name: str, digest: str) -> LoadedAdapter:
        """An adapter's weights as of `digest`; loads them, or waits for whoever does.

        Raises:
            AdapterError: they cannot be loaded.
        """
        key = name, digest
        with self._lock:
            resident = self._resident.get(name)
            if resident and resident.digest == digest:
                self._resident.move_to_end(name)
                return resident.handle(name)
            loading = self._loading.get(key)
            if loading:
                mine = False
            else:
                mine, loading = True, self._loading.setdefault(key, Future())
        if mine:
            self._fill(key, loading)
        return loading.result()

    def evict(self, name: str) -> None:
        """Let an adapter's weights go, if they are here; whoever holds them keeps them."""
        with self._lock:
            self._resident.pop(name, None)

    def _fill(self, key: Key, loading: Future[LoadedAdapter]) -> None:
        try:
            lora = self._load(*key)
        except BaseException as error:  # those who wait for it must hear of any
            with self._lock:
                del self._loading[key]
            loading.set_exception(error)
            return
        with self._lock:
            del self._loading[key]
            adapter = self._keep(key, lora)
        loading.set_result(adapter)

    def _keep(self, key: Key, lora: Lora) -> LoadedAdapter:
        name, digest = key
        self.loads += 1
        self._resident[name] = _Resident(digest, lora)
        self._resident.move_to_end(name)
        adapter = self._resident[name].handle(name)
        for other in list(self._resident):
            if self._budget is None or self.nbytes <= self._budget:
                break
            if not self._resident[other].used:
                del self._resident[other]
                self.evictions += 1
        return adapter


class _Resident:
    """Weights, and whether somebody holds them."""

    def __init__(self, digest: str, lora: Lora) -> None:
        self.digest = digest
        self.lora = lora
        self._lent: weakref.ref[LoadedAdapter] | None = None

    @property
    def used(self) -> bool:
        return self._lent is not None and self._lent() is not None

    def handle(self, name: str) -> LoadedAdapter:
        """The one LoadedAdapter for all who use it now."""
        adapter = self._lent() if self._lent else None
        if adapter is None:
            adapter = LoadedAdapter(name, self.digest, self.lora)
            self._lent = weakref.ref(adapter)
        return adapter
