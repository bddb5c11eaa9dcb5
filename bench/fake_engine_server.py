"""Serves an engine that computes nothing and emits tokens at a fixed rate, for `api.py`.

`python -m bench.fake_engine_server` prints its address and answers each line of input with a line
of JSON: `direct STREAMS RATE SECONDS` reads so many streams in the process, without HTTP; `first
COUNT` makes that many requests in the process and answers with the milliseconds to their first
tokens. What HTTP adds is the difference to the same requests from outside.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from model.base_resolver import MODEL_TEMPLATE, Report
from model.config.settings import Settings
from model.sampling import Sampling
from model.serving.adapter_registry import AdapterRegistry
from model.serving.backend import Backend
from model.serving.manager import ModelManager
from model.text.prompt_template import PromptTemplate
from model.types import (
    CompletionRequest,
    Delta,
    Emit,
    EngineRequest,
    EngineStatus,
    FinishReason,
    Stats,
)
from tests.fake_engine import FakeEngine, LetterTokenizer
from web.access import AccessPolicy
from web.api.routes import EVENT_SECONDS
from web.chats.open_store import open_store
from web.listen_socket import bind
from web.server import build_app, serve

TICK_SECONDS = 0.001


@dataclass
class _Reply:
    """A reply that is being emitted, at `rate` tokens a second."""

    emit: Emit
    remaining: int
    rate: int
    began: float
    emitted: int = 0


class PacedEngine(FakeEngine):
    """Emits the first token at once, and then `sampling.seed` tokens a second."""

    def __init__(self) -> None:
        super().__init__(lambda *_: [], name="paced", context_length=1_000_000)
        self._replies: dict[str, _Reply] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        tokens, rate = request.sampling.max_tokens or 1, request.sampling.seed or 1
        reply = _Reply(emit, tokens, rate, time.perf_counter())
        with self._lock:
            self._replies[request.id] = reply
        self._emit_token(request.id, reply)

    def abort(self, request_id: str) -> None:
        with self._lock:
            self._replies.pop(request_id, None)

    def status(self) -> EngineStatus:
        return EngineStatus(len(self._replies))

    def _run(self) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            now = time.perf_counter()
            with self._lock:
                replies = list(self._replies.items())
            for request_id, reply in replies:
                while reply.remaining and reply.emitted < (now - reply.began) * reply.rate:
                    self._emit_token(request_id, reply)

    def _emit_token(self, request_id: str, reply: _Reply) -> None:
        reply.emitted += 1
        reply.remaining -= 1
        reply.emit(Delta(" word"))
        if not reply.remaining:
            self.abort(request_id)
            stats = Stats(1, reply.emitted, 0.0, 1.0, seed=0)
            reply.emit(Delta("", FinishReason.LENGTH, stats))


def _load(settings: Settings, _: Report) -> Backend:
    """The engine with the smallest possible backend around it."""
    template = PromptTemplate(MODEL_TEMPLATE, "{{ messages[-1]['content'] }}")
    registry = AdapterRegistry(settings.adapters_dir, None, ())
    templates = {MODEL_TEMPLATE: template}
    return Backend(
        "paced", PacedEngine(), LetterTokenizer(), frozenset(), registry, templates, MODEL_TEMPLATE
    )


async def read_streams(manager: ModelManager, streams: int, rate: int, seconds: int) -> None:
    """Read so many streams at the same time in this process."""

    async def read() -> None:
        async for _ in manager.complete(_request(rate, rate * seconds), EVENT_SECONDS):
            pass

    await asyncio.gather(*(read() for _ in range(streams)))


async def first_token_times(manager: ModelManager, count: int) -> list[float]:
    """Milliseconds to the first token, for one request after the other."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        async for _batch in manager.complete(_request(1, 1), EVENT_SECONDS):
            times.append(1000 * (time.perf_counter() - began))
            break
    return times


def _request(rate: int, tokens: int) -> CompletionRequest:
    return CompletionRequest("x", sampling=Sampling(seed=rate, max_tokens=tokens))


def _answer_lines(manager: ModelManager, loop: asyncio.AbstractEventLoop) -> None:
    """Do what each line of input says, on the event loop that also serves."""
    for line in sys.stdin:
        command, *words = line.split()
        function = read_streams if command == "direct" else first_token_times
        done = asyncio.run_coroutine_threadsafe(function(manager, *map(int, words)), loop)
        print(json.dumps(done.result()), flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        manager = ModelManager(Settings(adapters_dir=Path(scratch) / "none"), _load)
        manager.start()
        manager.wait()
        app = build_app(manager, AccessPolicy(), open_store(Path(scratch)))
        sock = bind("127.0.0.1", 0)

        async def start_reading() -> None:
            loop = asyncio.get_running_loop()
            threading.Thread(target=_answer_lines, args=(manager, loop), daemon=True).start()

        app.router.on_startup.append(start_reading)
        print(f"http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
        serve(app, [sock], on_end=manager.close)


if __name__ == "__main__":
    main()
