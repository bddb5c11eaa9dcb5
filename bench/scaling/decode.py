"""Decoding steps of the loaded model: one user beside llama.cpp, contexts, users and adapters.

The forward alone is measured, without sampling and text. Keys and values of the context are random
numbers: reading them costs as much as real ones, and no prefill is needed to fill them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import torch

from bench.errors import PeerError, PeerMissingError
from bench.peers.base import BenchFixtures
from bench.peers.llamacpp import LlamaCpp
from bench.scaling.memory_bandwidth import MemoryReader
from bench.scaling.model import CONTEXT, BenchModel, check_room_for_llama_cpp
from bench.scaling.report import Row, SingleUser
from model.engine.kv_cache import SequenceCache
from model.engine.step_runner import PREFILL_CHUNK
from model.layers.linear import Int8Linear
from model.layers.llama import Llama, SequenceSlice
from model.layers.lora import Lora

TURNS = 5  # of this program, of reading memory and of llama.cpp
CHUNKS = 3  # prefilled after each context
RANK = 16
SPREAD = 0.02  # of the adapters' weights
MAX_SECONDS = 600.0
FIRST_ID = 3  # after the control tokens


class LlamaCppBaseline(LlamaCpp):
    """llama.cpp's server with one slot, on the same weights in Q8_0."""

    def __init__(self, model: BenchModel, scratch: Path, threads: int, steps: int) -> None:
        folder = model.folder.path
        fixtures = BenchFixtures(folder, scratch, (), model.cache, scratch, threads)
        tokens = min(steps, CONTEXT) + 1  # few, because they lengthen the context
        super().__init__(fixtures, slots=1, context=CONTEXT + 2 * tokens)
        self._request = {
            "prompt": list(range(FIRST_ID, FIRST_ID + CONTEXT)),
            "n_predict": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "samplers": ["top_k"],
            "cache_prompt": True,
        }

    def token_seconds(self) -> float:
        """The server's own figure for a token after the first one, without the prompt and HTTP.

        Raises:
            PeerError: it did not answer, or with too few tokens.
        """
        self.resume()
        try:
            url = f"{self.address}/completion"
            answer = httpx.post(url, json=self._request, timeout=MAX_SECONDS)
        except httpx.TransportError as error:
            raise PeerError(f"it does not answer: {error}") from error
        finally:
            self.pause()
        if not answer.is_success:
            raise PeerError(f"it answers {answer.status_code}: {answer.text[:200]}")
        timings = answer.json()["timings"]
        count = timings["predicted_n"]
        if count != self._request["n_predict"]:
            raise PeerError(f"a reply ended after {count} tokens")
        return float(timings["predicted_ms"]) / 1000 / (count - 1)


@contextmanager
def started_llama_cpp(
    model: BenchModel, int8_bytes: int, own_bytes: int, scratch: Path, threads: int, steps: int
) -> Iterator[tuple[LlamaCppBaseline | None, str]]:
    """llama.cpp, warm and paused, and its description; or None, and why it is not measured.

    `own_bytes` is the memory that this program needs.

    Raises:
        PeerError: it does not start, or fails later.
    """
    baseline = LlamaCppBaseline(model, scratch, threads, steps)
    try:
        yield _start(baseline, model, int8_bytes, own_bytes)
    except PeerError as error:
        raise PeerError(f"llama.cpp: {error}. --no_llama_cpp leaves it out") from error
    finally:
        baseline.stop()


def _start(
    baseline: LlamaCppBaseline, model: BenchModel, int8_bytes: int, own_bytes: int
) -> tuple[LlamaCppBaseline | None, str]:
    try:
        check_room_for_llama_cpp(model, int8_bytes, own_bytes)
        about = baseline.start()
        baseline.token_seconds()
    except PeerMissingError as missing:
        return None, f"not measured, {missing}"
    return baseline, about


def measure_single_user(
    model: Llama, reader: MemoryReader, baseline: LlamaCppBaseline | None, about: str, steps: int
) -> SingleUser:
    """One user, turn by turn with reading memory and with llama.cpp, which `about` describes.

    Raises:
        PeerError: llama.cpp failed.
    """
    step = next_tokens(model, [random_cache(model, CONTEXT, 1)], 1)
    step()
    own, bandwidths, others = [], [], []
    for _ in range(TURNS):
        began = time.perf_counter()
        for _ in range(steps):
            step()
        own.append((time.perf_counter() - began) / steps)
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
            began = time.perf_counter()
            step()
            times.append(time.perf_counter() - began)
    return [median(times) for times in seconds]
