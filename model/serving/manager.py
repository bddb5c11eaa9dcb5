"""ModelManager, the one door to the model: load, adapters, chat, status.

It owns no tensor: the engine's thread does. Every method may be called from any thread, and the
streams from any event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from model.base_resolver import base_name
from model.config.settings import Settings
from model.engine.protocol import Engine
from model.errors import LinlyError
from model.serving.adapter_registry import Adapter
from model.serving.backend import Backend
from model.serving.background_loader import BackgroundLoader, Load
from model.serving.delta_queue import DeltaBatch, DeltaQueue
from model.serving.local_backend import load_local
from model.serving.remote_backend import load_remote
from model.serving.request_accounting import Kind, Listener, RequestAccounting, with_adapter_info
from model.serving.request_builder import (
    PreparedRequest,
    build_engine_request,
    context_usage,
    plan_chat,
    plan_completion,
    plan_reading,
    prompt_text,
    resolve_template,
)
from model.text.prompt_template import PromptTemplate
from model.text.tokenizer import Tokenizer
from model.types import (
    ChatRequest,
    CompletionRequest,
    ContextUsage,
    Delta,
    EngineCounts,
    EngineRequest,
    EngineStatus,
    FinishReason,
    Phase,
    PreparedAdapter,
    Stats,
    Status,
)

Bursts = AsyncGenerator[DeltaBatch, None]
R = TypeVar("R", ChatRequest, CompletionRequest)


class ModelManager:
    """Loads a base in the background and answers chats with it.

    Args:
        settings: what to load, and where it is served.
        load: does the loading, by default here or over there, as they say.
    """

    def __init__(self, settings: Settings, load: Load | None = None) -> None:
        self._settings = settings
        load = load or (load_remote if settings.engine_url else load_local)
        self._loader = BackgroundLoader(settings, load)
        self._live: set[str] = set()  # ids of the requests that are being answered
        self._aborted: set[str] = set()  # and of those among them that are to end
        self._listeners: list[Listener] = []

    def start(self) -> None:
        """Begin to load; returns at once."""
        self._loader.start()

    def wait(self, timeout: float | None = None) -> Status:
        """Block until the model is ready or has failed, or for `timeout` seconds."""
        self._loader.wait(timeout)
        return self.status()

    def status(self) -> Status:
        """What the model is doing. Never blocks."""
        state = self._loader.state
        engine = state.backend.engine if state.backend else None
        work = engine.status() if engine else EngineStatus()
        return Status(
            phase=Phase.FAILED if work.error else state.phase,
            progress=state.progress,
            base_model=base_name(self._settings),
            engine=engine.name if engine else "remote" if self._settings.engine_url else "local",
            device=engine.device if engine else self._settings.device,
            quantization=engine.quantization if engine else self._settings.quantization,
            running=work.running,
            waiting=work.waiting,
            error=state.error or work.error,
            step_age=work.step_age,
            slowest_step=work.slowest_step,
        )

    def adapters(self, fresh: float = 0.0) -> list[Adapter]:
        """Every adapter folder, the broken ones too; none while the model loads.

        Reads what has changed, unless somebody looked within the last `fresh` seconds: not for an
        event loop.
        """
        serving = self._loader.state.backend
        return serving.registry.scan(fresh) if serving else []

    def cached_adapters(self) -> list[Adapter]:
        """The same as they were at the last look, at once."""
        serving = self._loader.state.backend
        return serving.registry.cached() if serving else []

    def load_adapter(self, name: str) -> None:
        """Serve an adapter, withdrawn before or not, and have its weights in memory. Takes files.

        Raises:
            NotReadyError, UnknownModelError, AdapterError
        """
        serving = self._loader.backend()
        serving.registry.enable(name)
        serving.engine.load(name, serving.registry.get(name).digest)

    def unload_adapter(self, name: str) -> None:
        """Serve an adapter no more until it is loaded again; replies that it is in go on.

        Raises:
            NotReadyError, UnknownModelError
        """
        serving = self._loader.backend()
        serving.registry.disable(name)
        serving.engine.unload(name)

    def counts(self) -> EngineCounts:
        """What the engine has done, and what it holds. Never blocks."""
        serving = self._loader.state.backend
        return serving.engine.counts() if serving else EngineCounts()

    def add_listener(self, listener: Listener) -> None:
        """Have each request told when it is over, on the event loop that it was made on."""
        self._listeners.append(listener)

    def templates(self) -> list[PromptTemplate]:
        """The prompt templates that a chat may ask for; none while the model loads."""
        serving = self._loader.state.backend
        return list(serving.templates.values()) if serving else []

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The base's; None while the model loads."""
        serving = self._loader.state.backend
        return serving.tokenizer if serving else None

    def template_for(self, adapter: str | None, template: str | None) -> PromptTemplate:
        """What a chat is written with: `template` by name, else the adapter's, else the base's.

        Raises:
            NotReadyError, UnknownModelError, AdapterError, RequestError
        """
        serving = self._loader.backend()
        found = serving.registry.get(adapter) if adapter else None
        return resolve_template(serving, template, found)

    @property
    def context_length(self) -> int | None:
        """Tokens that a prompt and its reply may have together; None while the model loads."""
        serving = self._loader.state.backend
        return serving.engine.context_length if serving else None

    @property
    def has_chat_template(self) -> bool:
        """Whether the base has a chat template of its own; without one it chats badly."""
        serving = self._loader.state.backend
        return serving.has_chat_template if serving else True

    def chat(self, request: ChatRequest, seconds: float = 0.0) -> Bursts:
        """Answer `request.messages`. Closing the iterator ends the reply within one token.

        With `so_far` the reply goes on behind it, and the Deltas carry what is new. A greedy reply
        that was cut is so completed to what it would have been, unless the model had written that
        text in other tokens than its tokenizer does: it then sees other ids before it.

        Args:
            seconds: the least time between two bursts of Deltas.

        Raises (from the iterator):
            NotReadyError, UnknownModelError, AdapterError, RequestError, PromptTooLongError,
            BusyError, EngineError
        """
        return self._stream(request, plan_chat, seconds, "chat")

    def complete(self, request: CompletionRequest, seconds: float = 0.0) -> Bursts:
        """Continue `request.prompt` as it stands, otherwise as `chat`."""
        return self._stream(request, plan_completion, seconds, "completion")

    def decode_prompt(self, request: CompletionRequest) -> str:
        """A prompt as text, also where it was sent as token ids. Not for an event loop.

        Raises:
            NotReadyError, UnknownModelError, AdapterError, RequestError
        """
        return prompt_text(self._loader.backend(), request)

    def read_ahead(self, request: ChatRequest) -> Bursts:
        """Compute what the next question's prompt will begin with: the chat up to its last reply.

        Makes no text, and only while nobody is answered: it goes on where it was once the others
        have ended. The last Delta tells how many tokens were read, and how many of them were known
        before. Closing the iterator or `abort` ends it within one chunk; what was read stays.

        Raises (from the iterator): as `chat`, but for there being no messages.
        """
        return self._stream(request, plan_reading, 0.0, "reading")

    def context_usage(self, request: ChatRequest) -> ContextUsage:
        """How many tokens of the context a chat takes, as `chat` would send it.

        A chat that ends with a reply is measured up to there; with `drop_oldest`, without what the
        next question would drop. Tokenises the whole chat: not for an event loop.

        Raises: as `chat`, before the engine is asked, but for there being no messages.
        """
        return context_usage(self._loader.backend(), request)

    def abort(self, request_id: str) -> None:
        """End a reply within one token; its stream then closes with finish_reason `abort`."""
        if request_id in self._live:
            self._aborted.add(request_id)
        serving = self._loader.state.backend
        if serving:
            serving.engine.abort(request_id)

    def close(self) -> None:
        """End every reply and the engine's thread; loading stops at its next report."""
        self._loader.close()

    def join(self, timeout: float) -> bool:
        """Wait for the loading thread; whether it has ended."""
        return self._loader.join(timeout)

    def _stream(
        self, request: R, plan: Callable[[Backend, R], PreparedRequest], seconds: float, kind: Kind
    ) -> Bursts:
        # From this moment on, not from the first step on: Stop may come in between.
        self._live.add(request.id)
        return self._steps(request, plan, seconds, kind)

    async def _steps(
        self, request: R, plan: Callable[[Backend, R], PreparedRequest], seconds: float, kind: Kind
    ) -> Bursts:
        account = RequestAccounting(request, kind, self._listeners, self._settings.log_prompts)
        try:
            serving = self._loader.backend()
            # Rendering a long chat and loading an adapter take time: not on the event loop.
            planned = await asyncio.to_thread(plan, serving, request)
            if planned.prompt.dropped:
                yield (Delta(dropped=planned.prompt.dropped),)
            ended = self._ended(request.id, planned)
            if ended:
                nothing = Stats(len(planned.prompt.ids), 0, 0.0, 0.0, seed=0)
                last = with_adapter_info(Delta("", ended, nothing), planned.adapter)
                account.on_delta(last, None)
                yield (last,)
                return
            asked = build_engine_request(serving, request, planned)
            async with aclosing(_run(serving.engine, asked, seconds, account)) as bursts:
                async for burst in bursts:
                    yield _signed(burst, planned.adapter)
        except LinlyError as error:
            account.close(error.code)
            raise
        finally:
            account.close()
            self._live.discard(request.id)
            self._aborted.discard(request.id)

    def _ended(self, request_id: str, plan: PreparedRequest) -> FinishReason | None:
        """How a request ended before the engine was asked, if it did."""
        if request_id in self._aborted:
            return FinishReason.ABORT
        nothing_to_read = plan.prefill_only and not plan.prompt.ids
        return FinishReason.STOP if nothing_to_read else None


def _signed(burst: DeltaBatch, adapter: PreparedAdapter | None) -> DeltaBatch:
    return (*burst[:-1], with_adapter_info(burst[-1], adapter))


async def _run(
    engine: Engine, request: EngineRequest, seconds: float, account: RequestAccounting
) -> Bursts:
    """Submit, and carry what the engine's thread emits over to this event loop."""
    outbox = DeltaQueue(seconds)

    def emit(delta: Delta) -> None:
        account.on_delta(delta, request.adapter)
        try:
            outbox.put(delta)
        except RuntimeError:  # the loop is gone, and so is whoever listened
            engine.abort(request.id)

    engine.submit(request, emit)
    account.submitted()
    try:
        while True:
            burst = await outbox.take()
            if burst[-1].refusal:
                raise burst[-1].refusal
            yield burst
            if burst[-1].finish_reason:
                return
    finally:
        engine.abort(request.id)
