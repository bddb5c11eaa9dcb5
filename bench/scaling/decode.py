"""Decoding steps of the loaded model: one user beside llama.cpp, contexts, users and adapters.

The forward alone is measured, without sampling and text. Keys and values of the context are random
numbers: reading them costs as much as real ones, and no prefill is needed to fill them.

The speed of decoding is bounded by how fast the machine reads memory. That is measured by compiled
loops over a buffer much larger than any cache, on as many threads as decode. On some machines a
core reads faster at several places at once, so each attempt tries that, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median

import numba
import numpy as np
import numpy.typing as npt
import torch

from bench.common import seconds_of
from bench.scaling.model import CONTEXT, LlamaCppBaseline
from model.engine.kv_cache import SequenceCache
from model.engine.step_runner import PREFILL_CHUNK
from model.layers.linear import Int8Linear
from model.layers.llama import Llama, SequenceSlice
from model.layers.lora import Lora

TURNS = 5  # of this program, of reading memory and of llama.cpp
CHUNKS = 3  # prefilled after each context
RANK = 16
SPREAD = 0.02  # of the adapters' weights
BUFFER_BYTES = 1 << 30
PLACES = (1, 3, 6)  # 2 and 4, at distances that are powers of two, were a fifth slower than 3

Row = dict[str, float]
Words = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SingleUser:
    """One user. A token reads `bytes_a_token` of weights and scales, `reads` bytes a second.

    `machine_reads` is the memory bandwidth: the best of several attempts between the turns, with
    as many threads; `share` is the part of it that decoding uses. `llama_cpp_ms` is None if
    llama.cpp was not measured; `llama_cpp` describes it, or says why not. `times_as_fast` compares
    this program with it.
    """

    ms: float
    bytes_a_token: int
    reads: float
    machine_reads: float
    share: float
    llama_cpp: str
    llama_cpp_ms: float | None = None
    times_as_fast: float | None = None


def measure_single_user(
    model: Llama, reader: MemoryReader, baseline: LlamaCppBaseline | None, about: str, steps: int
) -> SingleUser:
    """One user, turn by turn with reading memory and with llama.cpp, which `about` describes.

    Raises:
        PeerError: llama.cpp failed.
    """
    step = next_tokens(model, [random_cache(model, CONTEXT, 1)], 1)
    step()

    def decode() -> None:
        for _ in range(steps):
            step()

    own, bandwidths, others = [], [], []
    for _ in range(TURNS):
        own.append(seconds_of(decode) / steps)
        bandwidths.append(reader.bytes_per_second())
        if baseline:
            others.append(baseline.token_seconds())
    seconds, nbytes, bandwidth = median(own), bytes_per_token(model), max(bandwidths)
    other_ms = 1000 * median(others) if others else None
    return SingleUser(
        ms=1000 * seconds,
        bytes_a_token=nbytes,
        reads=nbytes / seconds,
        machine_reads=bandwidth,
        share=nbytes / seconds / bandwidth,
        llama_cpp=about,
        llama_cpp_ms=other_ms,
        times_as_fast=other_ms and other_ms / 1000 / seconds,
    )


def bytes_per_token(model: Llama) -> int:
    """Weights and scales of all linear layers; a token reads one row of the embedding only."""
    linears = [linear for linear in model.linears() if isinstance(linear, Int8Linear)]
    return sum(linear.packed.nbytes + linear.scale.nbytes for linear in linears)


def measure_contexts(model: Llama, contexts: Sequence[int], steps: int) -> list[Row]:
    """One user after each of these numbers of tokens."""
    caches = [random_cache(model, context, PREFILL_CHUNK) for context in contexts]
    decode = interleave([next_tokens(model, [cache], 1) for cache in caches], steps)
    chunks = [next_tokens(model, [cache], PREFILL_CHUNK) for cache in caches]
    prefill = interleave(chunks, min(CHUNKS, steps))
    return [
        {"context": context, "ms": 1000 * step, "prefill_tokens_per_second": PREFILL_CHUNK / chunk}
        for context, step, chunk in zip(contexts, decode, prefill, strict=True)
    ]


def measure_users(model: Llama, users: Sequence[int], steps: int) -> list[Row]:
    """Each of these numbers of users at the same time, on the base."""
    caches = [random_cache(model, CONTEXT, 1) for _ in range(max(users))]
    seconds = interleave([next_tokens(model, caches[:count], 1) for count in users], steps)
    return [
        {"users": count, "ms": 1000 * step, "tokens_per_second": count / step}
        for count, step in zip(users, seconds, strict=True)
    ]


def measure_adapters(model: Llama, adapters: Sequence[int], users: int, steps: int) -> list[Row]:
    """The same users on each of these numbers of adapters.

    Users of an adapter are neighbours in the batch, as in the engine. There are at least as many
    users as adapters.
    """
    users = max(users, *adapters)
    caches = [random_cache(model, CONTEXT, 1) for _ in range(users)]
    loras = [random_lora(model, seed) for seed in range(max(adapters))]
    selected = [
        [loras[user * count // users] if count else None for user in range(users)]
        for count in adapters
    ]
    seconds = interleave([next_tokens(model, caches, 1, each) for each in selected], steps)
    return [
        {"adapters": count, "users": users, "ms": 1000 * step, "tokens_per_second": users / step}
        for count, step in zip(adapters, seconds, strict=True)
    ]


@dataclass(frozen=True)
class ForwardStep:
    """A forward over the next tokens of some users; each call computes and then forgets them."""

    model: Llama
    slices: Sequence[SequenceSlice]

    def __call__(self) -> None:
        self.model.forward(self.slices)
        for part in self.slices:
            part.cache.length -= len(part.tokens)


def next_tokens(
    model: Llama,
    caches: Sequence[SequenceCache],
    tokens: int,
    loras: Sequence[Lora | None] | None = None,
) -> ForwardStep:
    """The next `tokens` of each of `caches`, with these adapters or on the base."""
    ids = torch.randint(model.shape.vocab_size, (len(caches), tokens)).tolist()
    users = zip(ids, caches, loras or [None] * len(caches), strict=True)
    return ForwardStep(model, [SequenceSlice(*user) for user in users])


def random_cache(model: Llama, length: int, room: int) -> SequenceCache:
    """Random keys and values of `length` positions, equal in all layers, and room for more."""
    cache, shape = SequenceCache(model.cache_format), model.shape
    cache.reserve(length + room)
    keys, values = torch.randn(2, length, shape.num_kv_heads, shape.head_dim)
    for layer in range(shape.num_layers):
        cache.append(layer, keys, values)
    cache.advance(length)
    return cache


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


def interleave(steps: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each step. They alternate, so that other load slows all of them alike."""
    for step in steps:
        step()  # the first time allocates memory
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for step, times in zip(steps, seconds, strict=True):
            times.append(seconds_of(step))
    return [median(times) for times in seconds]


class MemoryReader:
    """Reads a buffer of BUFFER_BYTES, which is divided among so many `threads`."""

    def __init__(self, threads: int) -> None:
        self._parts = np.array_split(np.ones(BUFFER_BYTES // 8, np.int64), threads)
        self._nbytes = sum(part.nbytes for part in self._parts)
        self._pool = ThreadPoolExecutor(threads)
        self._loops = [read_loop(places) for places in PLACES]
        for read in self._loops:
            read(self._parts[0][:64])  # compiles it

    def bytes_per_second(self) -> float:
        """The speed of the fastest loop, now."""
        return self._nbytes / min(seconds_of(partial(self._read, read)) for read in self._loops)

    def close(self) -> None:
        """Free the buffer and end the threads."""
        self._parts.clear()
        self._pool.shutdown()

    def _read(self, read: Callable[[Words], int]) -> None:
        list(self._pool.map(read, self._parts))


def read_loop(places: int) -> Callable[[Words], int]:
    """A function that reads words at so many places at once, and returns the xor of all words."""

    def read(words: Words) -> int:
        length = len(words) // places
        total = 0
        for at in range(length):
            for place in range(places):
                total ^= words[place * length + at]
        return total

    compiled: Callable[[Words], int] = numba.njit(nogil=True)(read)
    return compiled
