"""The prefix cache: the longest match, the order of use, and no tokens kept twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from model.engine.kv_cache import SequenceCache
from model.engine.prefix_cache import (
    MAX_ENTRIES,
    MIN_PREFIX,
    PrefixCache,
    PrefixEntry,
    common_prefix,
)
from model.layers.kv_layout import CacheFormat

FORMAT = CacheFormat(1, 1, 2, torch.float32, "cpu")
BASE = ("", 0.0)
ADAPTED = ("digest", 1.0)
A, B, C = (tuple(range(at, at + 40)) for at in (100, 200, 300))


def entry(tokens: Sequence[int], key: tuple[str, float] = BASE) -> PrefixEntry:
    cache = SequenceCache(FORMAT)
    cache.reserve(len(tokens))
    cache.length = len(tokens)
    return PrefixEntry(key, np.array(tokens, np.int32), cache)


def cache_of(*entries: Sequence[int]) -> PrefixCache:
    made = PrefixCache()
    for tokens in entries:
        made.put(entry(tokens))
    return made


def match_length(cache: PrefixCache, tokens: Sequence[int], key: tuple[str, float] = BASE) -> int:
    match = cache.find(key, np.array(tokens, np.int32))
    return match.length if match else 0


@pytest.mark.parametrize(
    ("a", "b", "length"),
    [((), (), 0), ((1,), (), 0), ((1, 2), (1, 2), 2), ((1, 2, 3), (1, 2), 2), ((1, 2), (1, 3), 1),
     ((1, 2), (3, 2), 0), ((1, 2, 3, 4), (1, 2, 9, 4), 2)],
)  # fmt: skip
def test_common_prefix(a: tuple[int, ...], b: tuple[int, ...], length: int) -> None:
    assert common_prefix(np.array(a, np.int32), np.array(b, np.int32)) == length
    assert common_prefix(np.array(b, np.int32), np.array(a, np.int32)) == length


class WithoutSingleTokens(np.ndarray):
    """An array that refuses to be read token by token."""

    def __getitem__(self, key: Any) -> Any:
        assert isinstance(key, slice)
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("the tokens are compared one by one")


def test_longest_prefix_is_found() -> None:
    cache = cache_of(A + B, A + C, B)
    assert match_length(cache, (*A, *C[:20], 1, 2)) == 60
    assert match_length(cache, (*A, 1)) == 40
    assert match_length(cache, (*B, 1)) == 40
    assert match_length(cache, C) == 0


def test_last_token_never_matches() -> None:
    assert match_length(cache_of(A), A) == 39
    assert match_length(cache_of(A[:20]), A[:20]) == 19


def test_entries_of_other_adapters_and_scales_do_not_match() -> None:
    cache = PrefixCache()
    cache.put(entry(A, ADAPTED))
    prompt = (*A, 1)
    for key in (BASE, ("digest", 0.5), ("other", 1.0)):
        assert match_length(cache, prompt, key) == 0
    assert match_length(cache, prompt, ADAPTED) == 40


def test_short_prefixes_match_only_as_complete_entries() -> None:
    cache = cache_of(A[:5], B)
    assert match_length(cache, A) == 5
    assert match_length(cache, (*A[:4], 1, 2)) == 0
    assert match_length(cache, (*B[: MIN_PREFIX - 1], 1)) == 0
    assert match_length(cache, (*B[:MIN_PREFIX], 1)) == MIN_PREFIX


def test_complete_entry_wins_over_a_longer_one() -> None:
    """A complete entry need not be copied."""
    cache = cache_of(B)
    complete = entry(A)
    cache.put(complete)
    # Not by `put`, which keeps only the longer one of two with the same beginning.
    cache._entries.insert(0, entry(A + C))
    cache._entries.append(entry(A + B))
    match = cache.find(BASE, np.array((*A, 1), np.int32))
    assert match
    assert match.is_complete
    assert match.entry is complete


def test_least_recently_used_entry_is_evicted_first() -> None:
    first, second, third = entry(A), entry(B), entry(C)
    cache = PrefixCache()
    for added in (first, second, third):
        cache.put(added)
    cache.touch(first)
    cache.evict()
    assert [match_length(cache, (*t, 1)) for t in (A, B, C)] == [40, 0, 40]
    cache.evict()
    assert [match_length(cache, (*t, 1)) for t in (A, B, C)] == [40, 0, 0]


def test_tokens_of_another_entry_are_not_kept_twice() -> None:
    cache = cache_of(A, A + B)
    assert len(cache) == 1
    cache.put(entry(A[:30]))
    assert len(cache) == 1
    cache.put(entry(A[:30], ADAPTED))
    cache.put(entry(A + C))
    assert len(cache) == 3


def test_putting_known_tokens_counts_as_use() -> None:
    cache = cache_of(A, B)
    cache.put(entry(A))
    cache.evict()
    assert match_length(cache, (*A, 1)) == 40


def test_memory_is_counted() -> None:
    first, second = entry(A), entry(B + C)
    cache = PrefixCache()
    cache.put(first)
    cache.put(second)
    assert cache.nbytes == first.cache.nbytes + second.cache.nbytes
    assert cache.take(first) is first.cache
    assert cache.nbytes == second.cache.nbytes
    cache.clear()
    assert (cache.nbytes, len(cache)) == (0, 0)


def test_number_of_entries_is_bounded() -> None:
    cache = cache_of(*((i, *A) for i in range(MAX_ENTRIES + 1)))
    assert len(cache) == MAX_ENTRIES
    assert match_length(cache, (0, *A, 1)) == 0
    assert match_length(cache, (1, *A, 1)) == 41


def test_finding_compares_arrays_and_no_single_tokens() -> None:
    """Token by token in Python, a search among many long entries would take seconds."""
    long = tuple(range(4000))
    cache = cache_of(*((*long, i) for i in range(MAX_ENTRIES)))
    tokens = np.array((*long, 9, 9), np.int32).view(WithoutSingleTokens)
    match = cache.find(BASE, tokens)
    assert match
    assert match.length == 4001


def test_prefixes_of_an_entry_are_contained() -> None:
    cache = cache_of(A + B, C)
    cases = ((A, True), (A + B, True), (C[:3], True), ((*A, 1), False), (B, False))
    for tokens, expected in cases:
        assert cache.contains(BASE, np.array(tokens, np.int32)) is expected
        assert not cache.contains(ADAPTED, np.array(tokens, np.int32))


def test_contains_counts_as_use() -> None:
    cache = cache_of(A, B)
    assert cache.contains(BASE, np.array(A, np.int32))
    cache.evict()
    assert (match_length(cache, (*A, 1)), match_length(cache, (*B, 1))) == (40, 0)
