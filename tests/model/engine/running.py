"""An engine on its own, without prompts and text: token ids in, token ids out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from model.engine.local_engine import LocalEngine
from model.folders.base_info import base_facts
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.layers.llama import Llama
from model.serving.adapter_registry import AdapterRegistry
from model.types import Delta, EngineRequest, Sampling
from model.weight_loader import load_model

Ids = tuple[int, ...]


class NumberDetokenizer:
    """Writes ids as numbers, so that a reply's text tells its ids."""

    def push(self, token_id: int) -> str:
        return f"{token_id} "

    def flush(self) -> str:
        return ""

    def token_text(self, token_id: int) -> str:
        return str(token_id)


@dataclass
class Reply:
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

    def wait(self) -> Reply:
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
        """Tokens of the prompt that were not computed for this reply."""
        assert self.last.stats
        return self.last.stats.cached_tokens


@dataclass
class Running:
    """An engine with its model, and a way to ask it."""

    engine: LocalEngine
    model: Llama
    registry: AdapterRegistry

    def ask(
        self,
        prompt: Sequence[int],
        adapter: str | None = None,
        *,
        name: str = "",
        scale: float = 1.0,
        digest: str = "",
        eos: frozenset[int] = frozenset(),
        on_delta: Callable[[Delta], None] | None = None,
        sampling: Sampling | None = None,
        prefill_only: bool = False,
    ) -> Reply:
        prepared = pieces = None
        if adapter:
            found = self.registry.get(adapter)
            prepared = self.engine.prepare(adapter, digest or found.digest)
            pieces = found.tokenizer.vocab_size if found.tokenizer and scale else None
        reply = Reply(name or f"{adapter}-{len(prompt)}-{id(prompt)}", on_delta)
        wishes = sampling or Sampling(temperature=0, max_tokens=24)
        self.engine.submit(
            EngineRequest(
                reply.id, tuple(prompt), wishes, eos, NumberDetokenizer(), prepared, scale, pieces,
                prefill_only=prefill_only,
            ),
            reply.emit,
        )  # fmt: skip
        return reply


@contextmanager
def running(
    base: Path,
    adapters: Path,
    quantization: str = "none",
    max_sequences: int = 16,
    cache_bytes: int | None = None,
    adapter_bytes: int | None = None,
    max_waiting: int = 256,
) -> Iterator[Running]:
    """An engine over the folder `base` on the CPU."""
    folder = read_model_folder(base)
    model = load_model(
        folder, quantization=quantization, device="cpu", context_length=None,
        progress=lambda share: None,
    )  # fmt: skip
    tokenizer = load_tokenizer(folder)
    registry = AdapterRegistry(adapters, base_facts(folder, base.name, tokenizer), {"model"})
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
    )
    try:
        yield Running(engine, model, registry)
    finally:
        engine.close()
