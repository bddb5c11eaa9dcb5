"""A server whose model costs nothing: an engine that says a token at a steady pace.

`python -m bench.paced` serves it, prints its address, and does for each line that it reads what
that says: `http` nothing, as somebody asks from outside; `direct STREAMS RATE SECONDS` as many
streams of its own without HTTP; `first COUNT` that many requests without HTTP, one after the other.
Each is answered with a line of JSON. So what HTTP adds is the difference of two figures of one
process.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.base_resolver import MODEL_TEMPLATE, Report
from model.config.settings import Settings
from model.serving.adapter_registry import AdapterRegistry
from model.serving.backend import Backend
from model.serving.manager import ModelManager
from model.text.prompt import PromptTemplate
from model.text.tokenizer import TextSpan
from model.types import (
    CompletionRequest,
    Delta,
    Emit,
    EngineCounts,
    EngineRequest,
    EngineStatus,
    FinishReason,
    PreparedAdapter,
    Sampling,
    Stats,
)
from web.access import AccessPolicy
from web.api.routes import EVENT_SECONDS
from web.chats.open_store import open_store
from web.listen_socket import bind
from web.server import build_app, serve

TICK = 0.001  # seconds


@dataclass
class _Spoken:
    """A reply under way: `seed` is its pace in tokens a second."""

    emit: Emit
    left: int
    pace: int
    said: int = 0
    began: float = 0.0


class PacedEngine:
    """Says the first token at once, and then `sampling.seed` tokens a second."""

    name = "paced"
    device = "none"
    quantization = "none"
    accepts_token_ids = True
    context_length = 1_000_000

    def __init__(self) -> None:
        self._spoken: dict[str, _Spoken] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def prepare(self, adapter: str, digest: str) -> PreparedAdapter:
        return PreparedAdapter(adapter, digest)

    def load(self, adapter: str, digest: str) -> None:
        pass

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        most, pace = request.sampling.max_tokens or 1, request.sampling.seed or 1
        spoken = _Spoken(emit, most, pace, began=time.perf_counter())
        with self._lock:
            self._spoken[request.id] = spoken
        self._say(request.id, spoken)

    def abort(self, request_id: str) -> None:
        with self._lock:
            self._spoken.pop(request_id, None)

    def unload(self, adapter: str) -> None:
        pass

    def status(self) -> EngineStatus:
        return EngineStatus(len(self._spoken))

    def counts(self) -> EngineCounts:
        return EngineCounts()

    def close(self) -> None:
        pass

    def _run(self) -> None:
        while True:
            time.sleep(TICK)
            now = time.perf_counter()
            with self._lock:
                spoken = list(self._spoken.items())
            for number, one in spoken:
                while one.left and one.said < (now - one.began) * one.pace:
                    self._say(number, one)

    def _say(self, number: str, one: _Spoken) -> None:
        one.said += 1
        one.left -= 1
        one.emit(Delta(" word"))
        if not one.left:
            with self._lock:
                self._spoken.pop(number, None)
            one.emit(Delta("", FinishReason.LENGTH, Stats(1, one.said, 0.0, 1.0, seed=0)))


class _Letters:
    """A token a letter: a prompt costs next to nothing."""

    pieces = 0x110000
    bos = eos = None
    eos_id = None
    prefix_ids: tuple[int, ...] = ()

    def encode(self, runs: list[TextSpan]) -> list[int]:
        return [ord(letter) for run in runs for letter in run.text]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))

    def is_control(self, _: int) -> bool:
        return False

    def token_text(self, token_id: int) -> str:
        return chr(token_id)


def load(settings: Settings, _: Report) -> Backend:
    """The engine with as little around it as there has to be."""
    template = PromptTemplate(MODEL_TEMPLATE, "{{ messages[-1]['content'] }}")
    registry = AdapterRegistry(settings.adapters_dir, None, ())
    return Backend(
        "paced", PacedEngine(), _Letters(), frozenset(), registry,  # type: ignore[arg-type]
        {MODEL_TEMPLATE: template}, MODEL_TEMPLATE,
    )  # fmt: skip


async def direct(manager: ModelManager, streams: int, rate: int, seconds: int) -> None:
    """As many streams as an HTTP client would open, read here."""

    async def one() -> None:
        async for _ in manager.complete(_request(rate, rate * seconds), EVENT_SECONDS):
            pass

    await asyncio.gather(*(one() for _ in range(streams)))


async def first(manager: ModelManager, count: int) -> list[float]:
    """Milliseconds to the first token, one request after the other."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        async for _burst in manager.complete(_request(1, 1), EVENT_SECONDS):
            times.append(1000 * (time.perf_counter() - began))
            break
    return times


def _request(rate: int, tokens: int) -> CompletionRequest:
    return CompletionRequest("x", sampling=Sampling(seed=rate, max_tokens=tokens))


def _orders() -> Iterator[list[str]]:
    for line in sys.stdin:
        yield line.split()


def _obey(manager: ModelManager, loop: asyncio.AbstractEventLoop) -> None:
    """Do what is read, on the loop that also serves."""
    for word, *numbers in _orders():
        given = [int(number) for number in numbers]
        work = direct(manager, *given) if word == "direct" else first(manager, *given)
        print(json.dumps(asyncio.run_coroutine_threadsafe(work, loop).result()), flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(adapters_dir=Path(scratch) / "none")
        manager = ModelManager(settings, load)
        manager.start()
        manager.wait()
        keeping = open_store(Path(scratch))
        app = build_app(manager, AccessPolicy(), keeping)
        sock = bind("127.0.0.1", 0)

        async def begin() -> None:
            loop = asyncio.get_running_loop()
            threading.Thread(target=_obey, args=(manager, loop), daemon=True).start()

        app.router.on_startup.append(begin)
        print(f"http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
        serve(app, [sock], on_end=manager.close)


if __name__ == "__main__":
    main()
