"""What is kept of ended sequences: the longest beginning, the last use, one copy of everything."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from model.engine.kv_cache import SequenceCache
from model.engine.prefix_cache import MIN_PREFIX, MAX_ENTRIES, PrefixCache, PrefixEntry, common_prefix
from model.layers.kv_layout import CacheFormat

FORM = CacheFormat(1, 1, 2, torch.float32, "cpu")
BASE = ("", 0.0)
ADAPTED = ("digest", 1.0)
A, B, C = (tuple(range(at, at + 40)) for at in (100, 200, 300))


def entry(tokens: Sequence[int], key: tuple[str, float] = BASE) -> PrefixEntry:
    cache = SequenceCache(FORM)
    cache.reserve(len(tokens))
    cache.length = len(tokens)
    return PrefixEntry(key, np.array(tokens, np.int32), cache)


def kept(*tokens: Sequence[int]) -> PrefixCache:
    made = PrefixCache()
    for each in tokens:
        made.put(entry(each))
    return made


def find(cache: PrefixCache, tokens: Sequence[int], key: tuple[str, float] = BASE) -> int:
    match = cache.find(key, np.array(tokens, np.int32))
    return match.length if match else 0


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [((), (), 0), ((1,), (), 0), ((1, 2), (1, 2), 2), ((1, 2, 3), (1, 2), 2), ((1, 2), (1, 3), 1),
     ((1, 2), (3, 2), 0), ((1, 2, 3, 4), (1, 2, 9, 4), 2)],
)  # fmt: skip
def test_common_prefix(one: tuple[int, ...], other: tuple[int, ...], length: int) -> None:
    assert common_prefix(np.array(one, np.int32), np.array(other, np.int32)) == length
    assert common_prefix(np.array(other, np.int32), np.array(one, np.int32)) == length


def test_longest_beginning_is_found() -> None:
    cache = kept(A + B, A + C, B)
    assert find(cache, (*A, *C[:20], 1, 2)) == 60
    assert find(cache, (*A, 1)) == 40
    assert find(cache, (*B, 1)) == 40
    assert find(cache, C) == 0


def test_last_token_is_never_taken() -> None:
    assert find(kept(A), A) == 39
    assert find(kept(A[:20]), A[:20]) == 19


def test_other_adapters_and_scales_are_not_looked_at() -> None:
    cache = PrefixCache()
    cache.put(entry(A, ADAPTED))
    prompt = (*A, 1)
    for key in (BASE, ("digest", 0.5), ("other", 1.0)):
        assert find(cache, prompt, key) == 0
    assert find(cache, prompt, ADAPTED) == 40


def test_short_beginnings_count_only_where_they_are_continued() -> None:
    cache = kept(A[:5], B)
    assert find(cache, A) == 5
    assert find(cache, (*A[:4], 1, 2)) == 0
    assert find(cache, (*B[: MIN_PREFIX - 1], 1)) == 0
    assert find(cache, (*B[:MIN_PREFIX], 1)) == MIN_PREFIX


def test_of_two_as_long_the_one_that_ends_there() -> None:
    """It need not be copied."""
    cache = kept(B)
    whole = entry(A)
    cache.put(whole)
    # The longer one would replace it: it can only come before.
    cache._entries.insert(0, entry(A + C))
    cache._entries.append(entry(A + B))
    match = cache.find(BASE, np.array((*A, 1), np.int32))
    assert match
    assert match.is_complete
    assert match.entry is whole


def test_least_recently_used_goes_first() -> None:
    first, second, third = entry(A), entry(B), entry(C)
    cache = PrefixCache()
    for each in (first, second, third):
        cache.put(each)
    cache.touch(first)
    cache.evict()
    assert [find(cache, (*t, 1)) for t in (A, B, C)] == [40, 0, 40]
    cache.evict()
    assert [find(cache, (*t, 1)) for t in (A, B, C)] == [40, 0, 0]


def test_what_another_holds_is_not_kept_twice() -> None:
    cache = kept(A, A + B)
    assert len(cache) == 1
    cache.put(entry(A[:30]))
    assert len(cache) == 1
    cache.put(entry(A[:30], ADAPTED))
    cache.put(entry(A + C))
    assert len(cache) == 3


def test_putting_what_is_there_counts_as_use() -> None:
    cache = kept(A, B)
    cache.put(entry(A))
    cache.evict()
    assert find(cache, (*A, 1)) == 40


def test_memory_is_counted() -> None:
    one, other = entry(A), entry(B + C)
    cache = PrefixCache()
    cache.put(one)
    cache.put(other)
    assert cache.nbytes == one.cache.nbytes + other.cache.nbytes
    assert cache.take(one) is one.cache
    assert cache.nbytes == other.cache.nbytes
    cache.clear()
    assert (cache.nbytes, len(cache)) == (0, 0)


def test_number_of_entries_is_bounded() -> None:
    cache = kept(*((i, *A) for i in range(MAX_ENTRIES + 1)))
    assert len(cache) == MAX_ENTRIES
    assert find(cache, (0, *A, 1)) == 0
    assert find(cache, (1, *A, 1)) == 41


def test_finding_among_many_long_ones_is_quick() -> None:
    """Token by token in Python it would take seconds."""
    long = tuple(range(4000))
    cache = kept(*((*long, i) for i in range(MAX_ENTRIES)))
    began = time.perf_counter()
    assert find(cache, (*long, 9, 9)) == 4001
    assert time.perf_counter() - began < 0.5


def test_what_an_entry_begins_with_is_held() -> None:
    cache = kept(A + B, C)
    for tokens, held in ((A, True), (A + B, True), (C[:3], True), ((*A, 1), False), (B, False)):
        assert cache.contains(BASE, np.array(tokens, np.int32)) is held
        assert not cache.contains(ADAPTED, np.array(tokens, np.int32))


def test_what_is_held_counts_as_used() -> None:
    cache = kept(A, B)
    assert cache.contains(BASE, np.array(A, np.int32))
    cache.evict()
    assert (find(cache, (*A, 1)), find(cache, (*B, 1))) == (40, 0)
