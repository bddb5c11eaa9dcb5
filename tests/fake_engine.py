"""A fake engine with a script of replies, and a manager over it, for pages and APIs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from model.base_resolver import MODEL_TEMPLATE, Report
from model.config.settings import CHECKOUT, Settings
from model.diagnostics import finding
from model.errors import AdapterError
from model.folders.adapter_files import WEIGHTS
from model.serving.adapter_folders import Adapter
from model.serving.adapter_registry import AdapterRegistry
from model.serving.backend import Backend
from model.serving.background_loader import Load
from model.serving.manager import ModelManager
from model.text.prompt_template import PromptTemplate, load_templates
from model.text.tokenizer import TextSpan
from model.translations import LocalizedText, verbatim
from model.types import (
    Delta,
    Emit,
    EngineCounts,
    EngineRequest,
    EngineStatus,
    FinishReason,
    Phase,
    PreparedAdapter,
    Stats,
)
from tests.tiny_model import TEMPLATE

END_ID = 0x10FFFF  # of the fake base: ends a reply, and has no text


class LetterTokenizer:
    """One token a character: its code point; and END_ID."""

    vocab_size = 0x110000
    bos: str | None = None
    eos: str | None = None
    eos_id: int | None = None
    prefix_ids: tuple[int, ...] = ()

    def encode(self, runs: Sequence[TextSpan]) -> list[int]:
        return [ord(letter) for run in runs for letter in run.text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(self.token_text, ids))

    def is_control(self, token_id: int) -> bool:
        return token_id == END_ID

    def token_text(self, token_id: int) -> str:
        return "" if token_id == END_ID else chr(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        return chr(token_id).encode()


@dataclass
class FakeEngine:
    """Replies with the pieces of `script(prompt, request)`: all at once, or one at each `tick` if
    it is `ticking`.

    Prefill-only requests end at once, and are recorded in `read`, apart from the `requests`.
    """

    script: Callable[[str, EngineRequest], list[str]]
    name: str = "fake"
    device: str = "cpu"
    quantization: str = "8bit"
    accepts_token_ids: bool = True
    context_length: int = 2000
    max_waiting: int = 256
    ticking: bool = False
    error: LocalizedText | None = None
    requests: list[EngineRequest] = field(default_factory=list)
    read: list[EngineRequest] = field(default_factory=list)
    emitted: dict[str, int] = field(default_factory=dict)
    aborted: set[str] = field(default_factory=set)
    closed: bool = False
    loaded: tuple[str, ...] = ()
    _ticks: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _live: set[str] = field(default_factory=set)

    def tick(self, pieces: int = 1) -> None:
        """Emit so many pieces."""
        for _ in range(pieces):
            self._ticks.release()

    def prepare(self, adapter: str, digest: str) -> PreparedAdapter:
        if adapter == "unreadable":
            raise AdapterError(verbatim("The adapter 'unreadable' cannot be read"))
        self.loaded = (*(name for name in self.loaded if name != adapter), adapter)
        return PreparedAdapter(adapter, digest)

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        if request.prefill_only:
            self.read.append(request)
            stats = Stats(len(request.prompt_ids), 0, 0.0, 0.0, seed=1, cached_tokens=2)
            emit(Delta("", FinishReason.STOP, stats))
            return
        self.requests.append(request)
        self._live.add(request.id)
        threading.Thread(target=self._play, args=(request, emit), daemon=True).start()

    def _play(self, request: EngineRequest, emit: Emit) -> None:
        prompt = "".join(map(chr, request.prompt_ids))
        reason, error = FinishReason.STOP, None
        for piece in self.script(prompt, request):
            while self.ticking and request.id not in self.aborted:
                if self._ticks.acquire(timeout=0.01):
                    break
            if request.id in self.aborted:
                reason = FinishReason.ABORT
                break
            if piece == "<fail>":
                reason, error = FinishReason.ERROR, LocalizedText("reply_out_of_memory")
                break
            self.emitted[request.id] = self.emitted.get(request.id, 0) + 1
            emit(Delta(piece))
        self._live.discard(request.id)
        count = self.emitted.get(request.id, 0)
        stats = Stats(len(prompt), count, 0.1, max(count - 1, 0) * 0.1, seed=1, cached_tokens=2)
        emit(Delta("", reason, stats, error=error))

    def abort(self, request_id: str) -> None:
        self.aborted.add(request_id)

    def load(self, adapter: str, digest: str) -> None:
        self.prepare(adapter, digest)

    def unload(self, adapter: str) -> None:
        self.loaded = tuple(name for name in self.loaded if name != adapter)

    def counts(self) -> EngineCounts:
        return EngineCounts(decode_steps={1: 5, 3: 2}, adapters=self.loaded)

    def status(self) -> EngineStatus:
        return EngineStatus(len(self._live), 0, self.error)

    def close(self) -> None:
        self.closed = True
        self.aborted.update(self._live)


class FakeRegistry(AdapterRegistry):
    """A registry of the list `adapters`, to which a test may add later."""

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        super().__init__(Path("nowhere"), None, ())
        self._list = adapters

    def scan(self, max_age: float = 0.0) -> list[Adapter]:
        self._scan()
        return self._listed()

    def _scan(self) -> None:
        self._adapters = {adapter.name: adapter for adapter in self._list}


ADAPTERS = (
    Adapter("pirate", Path("pirate"), "Talks like a pirate", digest="d1" * 32),
    Adapter("linly", Path("linly"), "User and Bot", template="linly", digest="d2" * 32),
    Adapter("torn", Path("torn"), problem=finding("adapter_file_missing", name=WEIGHTS[0])),
)


def echo(prompt: str, request: EngineRequest) -> list[str]:
    """Replies with the adapter's name and the question, word by word."""
    question = prompt.split("<|im_start|>user\n")[-1].split("<|im_end|>")[0]
    name = request.adapter.name if request.adapter else "base"
    return [f"{word} " for word in f"{name} heard: {question}".split(" ")]


def fake_load(
    engine: FakeEngine,
    loading: threading.Event | None = None,
    fail: Exception | None = None,
    adapters: Sequence[Adapter] = ADAPTERS,
    tuned: bool = True,
) -> Load:
    """A function that loads `engine`: it blocks until `loading` is set, then returns or raises
    `fail`."""

    def load(_: Settings, report: Report) -> Backend:
        report(Phase.READING, 0.4)
        if loading:
            loading.wait()
        if fail:
            raise fail
        template = PromptTemplate(MODEL_TEMPLATE, TEMPLATE, "The model's own")
        templates = {MODEL_TEMPLATE: template, **load_templates(CHECKOUT / "prompts")}
        registry = FakeRegistry(adapters)
        default = MODEL_TEMPLATE if tuned else "linly"
        return Backend(
            "fake-base",
            engine,
            LetterTokenizer(),
            frozenset([END_ID]),
            registry,
            templates,
            default,
        )

    return load


def fake_manager(
    engine: FakeEngine,
    loading: threading.Event | None = None,
    fail: Exception | None = None,
    settings: Settings | None = None,
    adapters: Sequence[Adapter] = ADAPTERS,
    tuned: bool = True,
) -> ModelManager:
    """A manager over `engine`; see `fake_load`."""
    load = fake_load(engine, loading, fail, adapters, tuned)
    manager = ModelManager(replace(settings or Settings(), base_model="fake-base"), load)
    manager.start()
    return manager
