"""A sequence's cache: stored keys and values come back, in every layout and after every growth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.engine.kv_cache import GROWTH, SequenceCache
from model.layers.kv_layout import CacheFormat

LAYERS, KV_HEADS, HEAD_DIM = 3, 2, 4
PLAIN = CacheFormat(LAYERS, KV_HEADS, HEAD_DIM, torch.float32, "cpu")
BLOCKS = replace(PLAIN, block=16)

MakeCache = Callable[[], SequenceCache]


@pytest.fixture(params=[PLAIN, BLOCKS], ids=["plain", "keys in blocks"])
def cache(request: pytest.FixtureRequest) -> MakeCache:
    return lambda: SequenceCache(request.param)


def rows(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, KV_HEADS, HEAD_DIM, generator=generator)


def store(into: SequenceCache, count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Store `count` positions in every layer; returns the keys and values of each layer."""
    seen = [
        into.append(layer, rows(count, seed + layer), rows(count, seed + layer + 50))
        for layer in range(LAYERS)
    ]
    into.advance(count)
    return seen


def test_new_cache_is_empty(cache: MakeCache) -> None:
    assert (cache().length, cache().nbytes) == (0, 0)


@pytest.mark.parametrize(
    "counts",
    [
        [1],
        [7, 1, 1, 1],
        [GROWTH],
        [GROWTH - 1, 1, 1],
        [GROWTH, 1],
        [GROWTH + 1],
        [3 * GROWTH - 2, 5],
        [100] * 8,
    ],
    ids=str,
)
def test_everything_stored_comes_back_in_order(cache: MakeCache, counts: list[int]) -> None:
    made = cache()
    for step, count in enumerate(counts):
        seen = store(made, count, 1000 * step)
    for layer in range(LAYERS):
        keys = torch.cat([rows(n, 1000 * step + layer) for step, n in enumerate(counts)])
        values = torch.cat([rows(n, 1000 * step + layer + 50) for step, n in enumerate(counts)])
        assert torch.equal(seen[layer][0], keys.transpose(0, 1))
        assert torch.equal(seen[layer][1], values.transpose(0, 1))
    assert made.length == sum(counts)


def test_length_counts_only_what_every_layer_has(cache: MakeCache) -> None:
    made = cache()
    made.append(0, rows(3, 0), rows(3, 1))
    assert made.length == 0
    made.advance(3)
    assert made.length == 3


def test_first_layer_may_be_ahead_when_the_cache_grows(cache: MakeCache) -> None:
    """The first layer of a forward grows the cache; the others keep their positions."""
    made = cache()
    store(made, GROWTH, 0)
    made.append(0, rows(1, 7), rows(1, 8))
    keys, values = made.append(2, rows(1, 9), rows(1, 10))
    assert torch.equal(keys[:, :GROWTH], rows(GROWTH, 2).transpose(0, 1))
    assert torch.equal(values[:, :GROWTH], rows(GROWTH, 52).transpose(0, 1))
    assert torch.equal(keys[:, GROWTH], rows(1, 9)[0])


def test_positions_of_a_failed_step_are_overwritten(cache: MakeCache) -> None:
    """Without `advance` the same positions are stored again."""
    made = cache()
    store(made, 2, 0)
    made.append(0, rows(4, 30), rows(4, 31))
    keys, _ = made.append(0, rows(1, 40), rows(1, 41))
    assert keys.shape == (KV_HEADS, 3, HEAD_DIM)
    assert torch.equal(keys[:, 2], rows(1, 40)[0])


@pytest.mark.parametrize(
    ("positions", "capacity"), [(1, GROWTH), (GROWTH, GROWTH), (GROWTH + 1, 2 * GROWTH)]
)
def test_memory_grows_in_steps(cache: MakeCache, positions: int, capacity: int) -> None:
    made = cache()
    store(made, positions, 0)
    assert made.nbytes == 2 * LAYERS * KV_HEADS * capacity * HEAD_DIM * 4


def test_decoding_within_a_step_takes_no_more_memory(cache: MakeCache) -> None:
    made = cache()
    store(made, 5, 0)
    before = made.nbytes
    for step in range(20):
        store(made, 1, step)
    assert made.nbytes == before


def test_cache_has_the_type_of_its_format() -> None:
    made = SequenceCache(replace(PLAIN, dtype=torch.bfloat16))
    keys, values = made.append(0, rows(1, 0), rows(1, 1))
    assert keys.dtype == values.dtype == torch.bfloat16


def test_reserve_makes_room_beforehand(cache: MakeCache) -> None:
    made = cache()
    made.reserve(GROWTH + 1)
    assert (made.length, made.capacity) == (0, 2 * GROWTH)
    before = made.nbytes
    store(made, 2 * GROWTH, 0)
    made.reserve(GROWTH)
    assert made.nbytes == before


def test_shrink_frees_a_cache_that_is_mostly_empty(cache: MakeCache) -> None:
    made = cache()
    store(made, 20, 0)
    made.shrink()
    assert made.length == 20 <= made.capacity < 20 + BLOCKS.block
    keys, values = made.append(1, rows(1, 90), rows(1, 91))
    assert torch.equal(keys[:, :20], rows(20, 1).transpose(0, 1))
    assert torch.equal(values[:, :20], rows(20, 51).transpose(0, 1))


def test_shrink_does_not_copy_a_cache_that_is_mostly_full(cache: MakeCache) -> None:
    made = cache()
    store(made, GROWTH // 2, 0)
    made.shrink()
    assert made.capacity == GROWTH


def test_copied_prefix_is_independent(cache: MakeCache) -> None:
    source, copy = cache(), cache()
    store(source, 30, 0)
    copy.copy_from(source, 10)
    copy.copy_from(source, 25)
    assert copy.length == 25
    source.append(1, rows(0, 0), rows(0, 0))[1].zero_()
    keys, values = copy.append(1, rows(1, 90), rows(1, 91))
    assert torch.equal(keys[:, :25], rows(30, 1)[:25].transpose(0, 1))
    assert torch.equal(values[:, :25], rows(30, 51)[:25].transpose(0, 1))
    assert torch.equal(keys[:, 25], rows(1, 90)[0])


def test_cache_filled_in_inference_mode_can_be_copied_and_filled(cache: MakeCache) -> None:
    """Tensors made in inference mode cannot be written to outside of it."""
    with torch.inference_mode():
        source, copy = cache(), cache()
        store(source, 30, 0)
        store(copy, 5, 0)
    copy.copy_from(source, 30)
    assert copy.length == 30
