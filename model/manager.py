"""ModelManager, the one door to the model: load, adapters, chat, status.

It owns no tensor: the engine's thread does. Every method may be called from any thread, and the
streams from any event loop.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

from model.adapters import Adapter
from model.engine.base import Engine
from model.outbox import Burst, Outbox
from model.prompt import Prompt, PromptTemplate, encode_chat
from model.settings import Settings
from model.startup import Report, Serving, base_name, load_local
from model.tokenizer import IncrementalDetokenizer, Run, Tokenizer
from model.types import (
    ChatRequest,
    CompletionRequest,
    Delta,
    EngineRequest,
    EngineStatus,
    FinishReason,
    LinlyError,
    NotReadyError,
    Phase,
    PreparedAdapter,
    PromptTooLongError,
    RequestError,
    Stats,
    Status,
)

MOST_SCALE = 8.0  # beyond it an adapter's update only makes noise
REPLY_SHARE = 4  # when old turns are dropped, at most one in this many tokens is kept for the reply
# How the phases share the progress bar: (where the phase begins, how much of it there is).
SHARES = {
    Phase.STARTING: (0.0, 0.0),
    Phase.FETCHING: (0.02, 0.0),
    Phase.CONVERTING: (0.2, 0.0),
    Phase.READING: (0.5, 0.45),
    Phase.READY: (1.0, 0.0),
    Phase.FAILED: (0.0, 0.0),
}

FOLDERS = re.compile(r"(?<![\w:/])/(?:[^\s/:]+/)+")

log = logging.getLogger(__name__)

Bursts = AsyncGenerator[Burst, None]
R = TypeVar("R", ChatRequest, CompletionRequest)

Load = Callable[[Settings, Report], Serving]


@dataclass(frozen=True)
class _Plan:
    """A request made ready: what to continue, with which adapter, in whose vocabulary (`eos_ids`
    end a reply in it), and where its template stops."""

    prompt: Prompt
    adapter: PreparedAdapter | None
    tokenizer: Tokenizer
    eos_ids: frozenset[int]
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class _State:
    """Replaced as a whole, so that readers need no lock."""

    phase: Phase = Phase.STARTING
    progress: float = 0.0
    serving: Serving | None = None
    error: str | None = None


class ModelManager:
    """Loads a base in the background and answers chats with it.

    Args:
        settings: what to load.
        load: does the loading; tests pass their own.
    """

    def __init__(self, settings: Settings, load: Load = load_local) -> None:
        self._settings = settings
        self._load = load
        self._state = _State()
        self._changed = threading.Condition()
        self._closed = False
        self._live: set[str] = set()  # ids of the requests that are being answered
        self._aborted: set[str] = set()  # and of those among them that are to end
        self._loading = threading.Thread(
            target=self._load_in_background, name="loading", daemon=True
        )

    def start(self) -> None:
        """Begin to load; returns at once."""
        self._loading.start()

    def _load_in_background(self) -> None:
        try:
            serving = self._load(self._settings, self._report)
        except LinlyError as error:
            self._set(_State(Phase.FAILED, error=_without_paths(str(error))))
        except MemoryError:
            message = "There is not enough memory to load this model. Try --quantization 8bit."
            self._set(_State(Phase.FAILED, error=message))
        except Exception as error:
            log.exception("loading failed")
            self._set(_State(Phase.FAILED, error=_without_paths(f"Loading failed: {error}")))
        else:
            self._set(_State(Phase.READY, 1.0, serving))
            if self._closed:  # close() came first and found nothing to close
                serving.engine.close()

    def _report(self, phase: Phase, share: float) -> None:
        if self._closed:
            raise NotReadyError("The program is shutting down")
        start, length = SHARES[phase]
        self._set(_State(phase, start + length * share))

    def _set(self, state: _State) -> None:
        if self._closed and state.serving is None:
            return  # what a loading that was called off says is no news
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> Status:
        """Block until the model is ready or has failed, or for `timeout` seconds."""
        ended = (Phase.READY, Phase.FAILED)
        with self._changed:
            self._changed.wait_for(lambda: self._state.phase in ended, timeout)
        return self.status()

    def status(self) -> Status:
        """What the model is doing. Never blocks."""
        state = self._state
        engine = state.serving.engine if state.serving else None
        work = engine.status() if engine else EngineStatus()
        return Status(
            phase=Phase.FAILED if work.error else state.phase,
            progress=state.progress,
            base_model=base_name(self._settings),
            engine=engine.name if engine else "local",
            device=engine.device if engine else self._settings.device,
            quantization=self._settings.quantization,
            running=work.running,
            waiting=work.waiting,
            error=state.error or work.error,
        )

    def adapters(self) -> list[Adapter]:
        """Every adapter folder, the broken ones too; none while the model loads."""
        serving = self._state.serving
        return serving.registry.scan() if serving else []

    def templates(self) -> list[PromptTemplate]:
        """The prompt templates that a chat may ask for; none while the model loads."""
        serving = self._state.serving
        return list(serving.templates.values()) if serving else []

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The base's; None while the model loads."""
        serving = self._state.serving
        return serving.tokenizer if serving else None

    def template_for(self, adapter: str | None, template: str | None) -> PromptTemplate:
        """What a chat is written with: `template` by name, else the adapter's, else the base's.

        Raises:
            NotReadyError, UnknownModelError, AdapterError, RequestError
        """
        serving = self._serving()
        found = serving.registry.get(adapter) if adapter else None
        return _template(serving, template or (found.template if found else None))

    @property
    def tuned(self) -> bool:
        """Whether the base has a chat template of its own; without one it chats badly."""
        serving = self._state.serving
        return serving.tuned if serving else True

    def chat(self, request: ChatRequest, seconds: float = 0.0) -> Bursts:
        """Answer `request.messages`. Closing the iterator ends the reply within one token.

        Args:
            seconds: the least time between two bursts of Deltas.

        Raises (from the iterator):
            NotReadyError, UnknownModelError, AdapterError, RequestError, PromptTooLongError,
            BusyError, EngineError
        """
        return self._stream(request, _plan_chat, seconds)

    def complete(self, request: CompletionRequest, seconds: float = 0.0) -> Bursts:
        """Continue `request.prompt` as it stands, otherwise as `chat`."""
        return self._stream(request, _plan_completion, seconds)

    def abort(self, request_id: str) -> None:
        """End a reply within one token; its stream then closes with finish_reason `abort`."""
        if request_id in self._live:
            self._aborted.add(request_id)
        if self._state.serving:
            self._state.serving.engine.abort(request_id)

    def close(self) -> None:
        """End every reply and the engine's thread; loading stops at its next report."""
        self._closed = True
        if self._state.serving:
            self._state.serving.engine.close()

    def join(self, timeout: float) -> bool:
        """Wait for the loading thread; whether it has ended."""
        if self._loading.ident is not None:
            self._loading.join(timeout)
        return not self._loading.is_alive()

    def _serving(self) -> Serving:
        state = self._state
        if state.serving is None:
            if state.error:
                raise NotReadyError(f"The model could not be loaded: {state.error}")
            raise NotReadyError("The model is still loading", "Try again in a moment.")
        return state.serving

    def _stream(self, request: R, plan: Callable[[Serving, R], _Plan], seconds: float) -> Bursts:
        # From this moment on, not from the first step on: Stop may come in between.
        self._live.add(request.id)
        return self._steps(request, plan, seconds)

    async def _steps(
        self, request: R, plan: Callable[[Serving, R], _Plan], seconds: float
    ) -> Bursts:
        try:
            serving = self._serving()
            # Rendering a long chat and loading an adapter take time: not on the event loop.
            planned = await asyncio.to_thread(plan, serving, request)
            if planned.prompt.dropped:
                yield (Delta(dropped=planned.prompt.dropped),)
            if request.id in self._aborted:
                nothing = Stats(len(planned.prompt.ids), 0, 0.0, 0.0, seed=0)
                yield _signed((Delta("", FinishReason.ABORT, nothing),), planned.adapter)
                return
            engine_request = _engine_request(serving, request, planned)
            async with aclosing(_run(serving.engine, engine_request, seconds)) as bursts:
                async for burst in bursts:
                    yield _signed(burst, planned.adapter)
        finally:
            self._live.discard(request.id)
            self._aborted.discard(request.id)


def _plan_chat(serving: Serving, request: ChatRequest) -> _Plan:
    if not request.messages:
        raise RequestError("There are no messages to answer")
    adapter = _chosen_adapter(serving, request)
    template = _template(serving, request.template or (adapter.template if adapter else None))
    room = serving.engine.context_length - _reserved(request, serving.engine)
    tokenizer, eos_ids = _vocabulary(serving, adapter, request.adapter_scale)
    prompt = encode_chat(request.messages, template, tokenizer, room, request.drop_oldest)
    return _Plan(prompt, _prepared(serving, adapter), tokenizer, eos_ids, template.stop)


def _plan_completion(serving: Serving, request: CompletionRequest) -> _Plan:
    adapter = _chosen_adapter(serving, request)
    tokenizer, eos_ids = _vocabulary(serving, adapter, request.adapter_scale)
    prompt = Prompt(_completion_ids(request, tokenizer, serving.engine.context_length))
    return _Plan(prompt, _prepared(serving, adapter), tokenizer, eos_ids)


def _chosen_adapter(serving: Serving, request: ChatRequest | CompletionRequest) -> Adapter | None:
    """The adapter that is asked for, as its folder is now; None for the base."""
    if not 0 <= request.adapter_scale <= MOST_SCALE:
        raise RequestError(f"adapter_scale must be between 0 and {MOST_SCALE:g}")
    if request.adapter is None:
        return None
    return serving.registry.get(request.adapter)


def _vocabulary(
    serving: Serving, adapter: Adapter | None, scale: float
) -> tuple[Tokenizer, frozenset[int]]:
    """The tokenizer, and the ids that end a reply: an adapter's own, if it brings a vocabulary.

    At strength 0 the base answers alone, and knows no other ids than its own.
    """
    own = adapter.tokenizer if adapter and scale else None
    if own is None:
        return serving.tokenizer, serving.eos_ids
    return own, frozenset() if own.eos_id is None else frozenset([own.eos_id])


def _prepared(serving: Serving, adapter: Adapter | None) -> PreparedAdapter | None:
    """Loaded; whoever holds it can submit it, whatever happens to its folder."""
    return serving.engine.prepare(adapter.name, adapter.digest) if adapter else None


def _signed(burst: Burst, adapter: PreparedAdapter | None) -> Burst:
    """The last Delta tells whose words these were."""
    *others, last = burst
    if last.stats is None or adapter is None:
        return burst
    stats = replace(last.stats, adapter=adapter.name, adapter_digest=adapter.digest)
    return (*others, replace(last, stats=stats))


async def _run(engine: Engine, request: EngineRequest, seconds: float) -> Bursts:
    """Submit, and carry what the engine's thread emits over to this event loop."""
    outbox = Outbox(seconds)

    def emit(delta: Delta) -> None:
        try:
            outbox.put(delta)
        except RuntimeError:  # the loop is gone, and so is whoever listened
            engine.abort(request.id)

    engine.submit(request, emit)
    try:
        while True:
            burst = await outbox.take()
            yield burst
            if burst[-1].finish_reason:
                return
    finally:
        engine.abort(request.id)


def _engine_request(
    serving: Serving, request: ChatRequest | CompletionRequest, plan: _Plan
) -> EngineRequest:
    prompt, sampling = plan.prompt, request.sampling
    left = serving.engine.context_length - len(prompt.ids)
    most = min(sampling.max_tokens or left, left)
    tokenizer = plan.tokenizer
    return EngineRequest(
        id=request.id,
        prompt_ids=prompt.ids,
        sampling=replace(sampling, max_tokens=most, stop=(*sampling.stop, *plan.stop)),
        eos_ids=plan.eos_ids,
        detokenizer=IncrementalDetokenizer(tokenizer.decode, tokenizer.piece, prompt.ids),
        adapter=plan.adapter,
        adapter_scale=request.adapter_scale,
        pieces=tokenizer.pieces,
    )


def _without_paths(text: str) -> str:
    """Files by their names alone: visitors read this too, and the folders are nobody's business."""
    return FOLDERS.sub("", text)


def _template(serving: Serving, name: str | None) -> PromptTemplate:
    name = name or serving.default_template
    if name not in serving.templates:
        known = ", ".join(serving.templates)
        raise RequestError(f"There is no prompt template {name!r}", f"There are: {known}.")
    return serving.templates[name]


def _reserved(request: ChatRequest, engine: Engine) -> int:
    """Tokens to keep free for the reply: what was asked for while turns may go, else just one."""
    if not request.drop_oldest:
        return 1
    most = engine.context_length // REPLY_SHARE
    return min(request.sampling.max_tokens or most, most)


def _completion_ids(
    request: CompletionRequest, tokenizer: Tokenizer, context: int
) -> tuple[int, ...]:
    if isinstance(request.prompt, str):
        ids = (*tokenizer.prefix_ids, *tokenizer.encode([Run(request.prompt)]))
    else:
        ids = request.prompt
    if not ids:
        raise RequestError("The prompt is empty")
    if not all(0 <= i < tokenizer.pieces for i in ids):
        raise RequestError(f"A token id lies outside of 0 to {tokenizer.pieces - 1}")
    if len(ids) >= context:
        raise PromptTooLongError(
            f"The prompt is {len(ids)} tokens long and there is room for {context - 1}",
            "Shorten it or raise --context_length.",
        )
    return ids
