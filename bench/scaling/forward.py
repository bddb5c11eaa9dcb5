"""Steps of the loaded model in every shape: alone, after long contexts, with users and adapters.

What is measured is the forward, without sampling and text. Keys and values of what lies behind are
random numbers: reading them costs what real ones cost, and filling them takes no prefill.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from bench.scaling.figures import AtContext, WithAdapters, WithUsers
from bench.scaling.options import BEHIND
from model.engine.kv_cache import SequenceCache
from model.engine.local_engine import PREFILL_CHUNK
from model.layers.llama import Llama, SequenceSlice
from model.layers.lora import Lora

CHUNKS = 3  # prefilled at each context
RANK = 16
SPREAD = 0.02  # of the adapters' weights


@dataclass(frozen=True)
class Batch:
    """The next tokens of some users. To call it computes them, and then forgets them."""

    model: Llama
    spans: Sequence[SequenceSlice]

    def __call__(self) -> None:
        self.model.forward(self.spans)
        for span in self.spans:
            span.cache.length -= len(span.tokens)


def measure_contexts(model: Llama, contexts: Sequence[int], steps: int) -> list[AtContext]:
    """One user, behind each of `contexts` tokens."""
    caches = [filled(model, context, PREFILL_CHUNK) for context in contexts]
    decode = [batch(model, [cache], 1) for cache in caches]
    prefill = [batch(model, [cache], PREFILL_CHUNK) for cache in caches]
    seconds = in_turn(decode, steps)
    chunks = in_turn(prefill, min(CHUNKS, steps))
    return [
        AtContext(context, 1000 * step, PREFILL_CHUNK / chunk)
        for context, step, chunk in zip(contexts, seconds, chunks, strict=True)
    ]


def measure_users(model: Llama, users: Sequence[int], steps: int) -> list[WithUsers]:
    """So many users at the same time, on the base."""
    caches = [filled(model, BEHIND, 1) for _ in range(max(users))]
    batches = [batch(model, caches[:count], 1) for count in users]
    seconds = in_turn(batches, steps)
    return [
        WithUsers(count, 1000 * step, count / step)
        for count, step in zip(users, seconds, strict=True)
    ]


def measure_adapters(
    model: Llama, adapters: Sequence[int], users: int, steps: int
) -> list[WithAdapters]:
    """The same users on so many adapters, those on the same one side by side, as the engine does.

    Where there are more adapters than users, as many users as adapters.
    """
    users = max(users, *adapters)
    caches = [filled(model, BEHIND, 1) for _ in range(users)]
    loras = [random_lora(model, seed) for seed in range(max(adapters))]
    chosen = [
        [loras[user * count // users] if count else None for user in range(users)]
        for count in adapters
    ]
    seconds = in_turn([batch(model, caches, 1, each) for each in chosen], steps)
    return [
        WithAdapters(count, users, 1000 * step, users / step)
        for count, step in zip(adapters, seconds, strict=True)
    ]


def filled(model: Llama, length: int, room: int) -> SequenceCache:
    """Random keys and values of `length` positions, the same in all layers, and room for more."""
    cache, shape = SequenceCache(model.cache_format), model.shape
    cache.reserve(length + room)
    keys, values = torch.randn(2, length, shape.num_kv_heads, shape.head_dim)
    for layer in range(shape.num_layers):
        cache.append(layer, keys, values)
    cache.advance(length)
    return cache


def batch(
    model: Llama,
    caches: Sequence[SequenceCache],
    tokens: int,
    loras: Sequence[Lora | None] | None = None,
) -> Batch:
    """The next `tokens` over each of `caches`, with these adapters or on the base."""
    ids = torch.randint(model.shape.vocab_size, (len(caches), tokens)).tolist()
    chosen = loras or [None] * len(caches)
    return Batch(
        model, [SequenceSlice(i, c, lora) for i, c, lora in zip(ids, caches, chosen, strict=True)]
    )


def random_lora(model: Llama, seed: int) -> Lora:
    """An adapter of rank RANK on all seven modules of every layer."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for layer in range(model.shape.num_layers):
        for name, (inputs, outputs) in model.shape.linear_sizes.items():
            a = torch.randn(RANK, inputs, generator=generator) * SPREAD
            b = torch.randn(outputs, RANK, generator=generator) * SPREAD
            pairs[layer, name] = model.make_lora_pair(a, b, 1.0)
    return Lora(pairs)


def in_turn(turns: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each. They alternate, so that what else runs here falls on all alike."""
    for turn in turns:
        turn()  # the first time memory is taken
    seconds: list[list[float]] = [[] for _ in turns]
    for _ in range(rounds):
        for turn, taken in zip(turns, seconds, strict=True):
            began = time.perf_counter()
            turn()
            taken.append(time.perf_counter() - began)
    return [median(taken) for taken in seconds]
