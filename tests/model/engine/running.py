"""Helpers: an engine without prompts and text, with token ids in and token ids out."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from model.engine.local_engine import LocalEngine
from model.engine.sampler import Floats
from model.folders.base_info import read_base_info
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.layers.llama import Llama, SequenceSlice
from model.sampling import Sampling
from model.serving.adapter_registry import AdapterRegistry
from model.types import Delta, EngineRequest
from model.weight_loader import load_model

CACHE_BYTES = 1 << 26  # more than any test fills
Ids = tuple[int, ...]


class NumberDetokenizer:
    """Writes ids as numbers, so that a reply's text shows its ids."""

    def push(self, token_id: int) -> str:
        return f"{token_id} "

    def flush(self) -> str:
        return ""

    def token_bytes(self, token_id: int) -> bytes:
        return str(token_id).encode()


@dataclass
class RunningReply:
    """A request's deltas as they arrive; `done` is set by the last one."""

    id: str
    on_delta: Callable[[Delta], None] | None = None
    deltas: list[Delta] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def emit(self, delta: Delta) -> None:
        self.deltas.append(delta)
        if self.on_delta:
            self.on_delta(delta)
        if delta.finish_reason:
            self.done.set()

    def wait(self) -> RunningReply:
        assert self.done.wait(120), "the reply never ended"
        return self

    @property
    def ids(self) -> Ids:
        return tuple(int(word) for delta in self.deltas for word in delta.text.split())

    @property
    def last(self) -> Delta:
        return self.deltas[-1]

    @property
    def cached(self) -> int:
        """Tokens of the prompt that were found in a cache."""
        assert self.last.stats
        return self.last.stats.cached_tokens


@dataclass
class Running:
    """An engine with its model and its adapters."""

    engine: LocalEngine
    model: Llama
    registry: AdapterRegistry

    def ask(
        self,
        prompt: Sequence[int],
        adapter: str | None = None,
        *,
        name: str = "",
        adapter_scale: float = 1.0,
        digest: str = "",
        eos: frozenset[int] = frozenset(),
        on_delta: Callable[[Delta], None] | None = None,
        sampling: Sampling | None = None,
        prefill_only: bool = False,
    ) -> RunningReply:
        """Submit a request; `name` is its id."""
        prepared = vocab_size = None
        if adapter:
            found = self.registry.get(adapter)
            prepared = self.engine.prepare(adapter, digest or found.digest)
            if found.tokenizer and adapter_scale:
                vocab_size = found.tokenizer.vocab_size
        reply = RunningReply(name or f"{adapter}-{len(prompt)}-{id(prompt)}", on_delta)
        request = EngineRequest(
            reply.id,
            tuple(prompt),
            sampling or Sampling(temperature=0, max_tokens=24),
            eos,
            NumberDetokenizer(),
            prepared,
            adapter_scale,
            vocab_size,
            prefill_only=prefill_only,
        )
        self.engine.submit(request, reply.emit)
        return reply

    def clear_cache(self) -> None:
        """Drop all keys and values that are kept for reuse."""
        self.engine._memory.clear()

    def estimated_wait(self, ahead: int) -> float:
        """Seconds that a request with `ahead` others before it is expected to wait."""
        return self.engine._wait_estimator.estimate(ahead)


class ForwardRecorder:
    """Records for each forward how many tokens it computed of each sequence.

    With `pause_at`, the forward of that number sets `paused` and waits for `resume`.
    """

    def __init__(
        self, engine: Running, monkeypatch: pytest.MonkeyPatch, pause_at: int | None = None
    ) -> None:
        self.sizes: list[list[int]] = []
        self.paused, self.resume = threading.Event(), threading.Event()
        logits = engine.model.logits

        def record(slices: Sequence[SequenceSlice], every_position: bool = False) -> Floats:
            self.sizes.append([len(part.tokens) for part in slices])
            if len(self.sizes) - 1 == pause_at:
                self.paused.set()
                assert self.resume.wait(60)
            return logits(slices, every_position)

        monkeypatch.setattr(engine.model, "logits", record)


@contextmanager
def running(
    base: Path,
    adapters: Path,
    quantization: str = "none",
    max_sequences: int = 16,
    cache_bytes: int | None = None,
    adapter_bytes: int | None = None,
    max_waiting: int = 256,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Running]:
    """Runs an engine over the folder `base` on the CPU."""
    folder = read_model_folder(base)
    model = load_model(
        folder, quantization=quantization, device="cpu", context_length=None,
        progress=lambda share: None,
    )  # fmt: skip
    tokenizer = load_tokenizer(folder)
    registry = AdapterRegistry(adapters, read_base_info(folder, base.name, tokenizer), {"model"})
    broken = [adapter for adapter in registry.scan() if adapter.problem]
    assert not broken, broken
    engine = LocalEngine(
        model,
        tokenizer.vocab_size,
        lambda name, digest: registry.load(name, digest, model),
        max_sequences,
        cache_bytes,
        adapter_bytes,
        max_waiting,
        clock,
    )
    try:
        yield Running(engine, model, registry)
    finally:
        engine.close()


def random_tokens(count: int, seed: int) -> Ids:
    chosen = random.Random(seed)  # noqa: S311
    return tuple(chosen.randrange(3, 320) for _ in range(count))


def pause(engine: Running) -> threading.Event:
    """Stop the engine's thread until the returned event is set: requests that are submitted
    meanwhile start together."""
    paused, resume = threading.Event(), threading.Event()

    def block(_: Delta) -> None:
        paused.set()
        assert resume.wait(60)

    engine.ask((3, 4), name="blocker", on_delta=block, sampling=Sampling(max_tokens=1))
    assert paused.wait(60)
    return resume
