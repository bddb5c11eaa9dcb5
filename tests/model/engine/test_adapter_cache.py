"""The adapter cache: one load each, eviction by last use, and never while a reply uses it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from model.engine.adapter_cache import AdapterCache
from model.errors import AdapterError
from model.layers.lora import FloatPair, Lora
from model.translations import verbatim

SIZE = 64  # bytes of each adapter here


class Loader:
    """Makes adapters and records their names; blocks a load whose name is in `gates`."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        self.started: dict[str, threading.Event] = {}
        self.fails = False

    def hold(self, name: str) -> None:
        self.gates[name], self.started[name] = threading.Event(), threading.Event()

    def __call__(self, name: str, _: str) -> Lora:
        self.loads.append(name)
        if name in self.gates:
            self.started[name].set()
            assert self.gates[name].wait(20)
        if self.fails:
            raise AdapterError(verbatim("torn"))
        return Lora({(0, "q_proj"): FloatPair(torch.zeros(2, 4), torch.zeros(4, 2), 1.0)})


@pytest.fixture
def load() -> Loader:
    return Loader()


def test_cached_adapter_is_not_loaded_again(load: Loader) -> None:
    cache = AdapterCache(load, None)
    assert cache.acquire("a", "1").lora is cache.acquire("a", "1").lora
    assert load.loads == ["a"]
    assert cache.nbytes == SIZE


def test_least_recently_acquired_is_evicted_first(load: Loader) -> None:
    cache = AdapterCache(load, 2 * SIZE)
    for name in "abacab":
        cache.acquire(name, "1")
    # c replaced b, as a had been acquired in between; then b replaced c.
    assert load.loads == ["a", "b", "c", "b"]
    assert cache.nbytes == 2 * SIZE


def test_without_a_budget_nothing_is_evicted(load: Loader) -> None:
    cache = AdapterCache(load, None)
    for name in "abcabc":
        cache.acquire(name, "1")
    assert load.loads == ["a", "b", "c"]


def test_adapter_in_use_is_not_evicted(load: Loader) -> None:
    cache = AdapterCache(load, SIZE)
    handle = cache.acquire("a", "1")
    cache.acquire("b", "1")
    cache.acquire("c", "1")
    assert cache.acquire("a", "1").lora is handle.lora
    assert load.loads == ["a", "b", "c"]
    del handle
    cache.acquire("b", "1")
    cache.acquire("a", "1")
    assert load.loads == ["a", "b", "c", "b", "a"]


def test_adapter_larger_than_the_budget_is_served(load: Loader) -> None:
    cache = AdapterCache(load, SIZE - 1)
    handle = cache.acquire("a", "1")
    assert handle.lora.nbytes == SIZE
    assert cache.acquire("a", "1") is handle


def test_changed_files_are_loaded_again_and_the_old_weights_go(load: Loader) -> None:
    cache = AdapterCache(load, None)
    before = cache.acquire("a", "1")
    after = cache.acquire("a", "2")
    assert (before.digest, after.digest) == ("1", "2")
    assert after.lora is not before.lora
    assert cache.nbytes == SIZE


def test_two_requests_at_once_load_once(load: Loader) -> None:
    cache = AdapterCache(load, None)
    load.hold("a")
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(cache.acquire, "a", "1") for _ in range(2)]
        assert load.started["a"].wait(20)
        load.gates["a"].set()
        first, second = (future.result(20) for future in both)
    assert first.lora is second.lora
    assert load.loads == ["a"]


def test_load_does_not_block_other_requests(load: Loader) -> None:
    """Neither a request for cached weights, nor another load."""
    cache = AdapterCache(load, None)
    cache.acquire("resident", "1")
    load.hold("slow")
    with ThreadPoolExecutor(3) as pool:
        slow = pool.submit(cache.acquire, "slow", "1")
        assert load.started["slow"].wait(20)
        try:
            assert pool.submit(cache.acquire, "resident", "1").result(20)
            assert pool.submit(cache.acquire, "other", "1").result(20)
            assert not slow.done()
        finally:
            load.gates["slow"].set()
        assert slow.result(20)


def test_failed_load_raises_for_all_waiting_and_can_be_retried(load: Loader) -> None:
    cache = AdapterCache(load, None)
    load.hold("a")
    load.fails = True
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(cache.acquire, "a", "1") for _ in range(2)]
        assert load.started["a"].wait(20)
        load.gates["a"].set()
        for future in both:
            with pytest.raises(AdapterError, match="torn"):
                future.result(20)
    load.fails = False
    assert cache.acquire("a", "1").name == "a"


def test_unused_adapters_make_room_for_one_that_lacks_memory(load: Loader) -> None:
    """Otherwise it could never be loaded, however few replies run."""
    cache = AdapterCache(lambda name, digest: load_if_alone(name, digest), None)

    def load_if_alone(name: str, digest: str) -> Lora:
        if len(cache.names) > 1:
            raise MemoryError
        return load(name, digest)

    in_use = cache.acquire("a", "1")
    cache.acquire("b", "1")
    cache.acquire("c", "1")
    assert in_use.lora
    assert (cache.names, cache.evictions) == (("a", "c"), 1)


def test_lack_of_memory_is_an_error_if_all_adapters_are_in_use(load: Loader) -> None:
    def fail(name: str, digest: str) -> Lora:
        if name == "b":
            load.loads.append(name)
            raise MemoryError
        return load(name, digest)

    cache = AdapterCache(fail, None)
    in_use = cache.acquire("a", "1")
    with pytest.raises(MemoryError):
        cache.acquire("b", "1")
    assert load.loads == ["a", "b"]
    assert cache.acquire("a", "1") is in_use
