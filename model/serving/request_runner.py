"""Runs requests on the loaded backend, and yields their Deltas on the caller's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar
from weakref import WeakValueDictionary

from model.engine.protocol import Engine
from model.errors import LinlyError
from model.serving.backend import Backend
from model.serving.delta_queue import DeltaBatch, DeltaQueue, DeltaStream
from model.serving.request_accounting import Listener, RequestAccounting, with_adapter_info
from model.serving.request_builder import PreparedRequest, build_engine_request
from model.text.reply_format import PLAIN, ReplyStart
from model.types import (
    ChatRequest,
    CompletionRequest,
    Delta,
    EngineRequest,
    FinishReason,
    PreparedAdapter,
    RequestKind,
    Stats,
)

R = TypeVar("R", ChatRequest, CompletionRequest)


class _LiveRequest:
    """A request that is being answered, until its stream ends, or is closed before it begins.

    `aborted` is for the time before it is submitted to the engine.
    """

    aborted = False


class RequestRunner:
    """Runs requests, from any event loop.

    Args:
        get_backend: returns the loaded backend, or raises NotReadyError.
        record_text: whether the completed requests have their text.
    """

    def __init__(self, get_backend: Callable[[], Backend], record_text: bool) -> None:
        self._get_backend = get_backend
        self._record_text = record_text
        # The requests that are being answered, by id. The streams hold them.
        self._live: WeakValueDictionary[str, _LiveRequest] = WeakValueDictionary()
        self._listeners: list[Listener] = []

    @property
    def live_ids(self) -> frozenset[str]:
        """The ids of the requests that are being answered."""
        return frozenset(self._live)

    def add_listener(self, listener: Listener) -> None:
        """Adds a listener, which receives each request when it completes, on the event loop of the
        request."""
        self._listeners.append(listener)

    def abort(self, request_id: str) -> None:
        """Notes that a request is to end, for the time before it is submitted to the engine."""
        if live := self._live.get(request_id):
            live.aborted = True

    def stream(
        self,
        request: R,
        prepare: Callable[[Backend, R], PreparedRequest],
        min_interval: float,
        kind: RequestKind,
    ) -> DeltaStream:
        """Returns the Deltas of a request in batches.

        Args:
            request: the request.
            prepare: prepares it for the engine, on a worker thread.
            min_interval: seconds between two batches, at least.
            kind: of request, for the listeners.
        """
        # Now and not at the iterator's first step: `abort` may be called in between.
        self._live[request.id] = live = _LiveRequest()
        return self._steps(request, prepare, min_interval, kind, live)

    async def _steps(
        self,
        request: R,
        prepare: Callable[[Backend, R], PreparedRequest],
        min_interval: float,
        kind: RequestKind,
        live: _LiveRequest,
    ) -> DeltaStream:
        account = RequestAccounting(request, kind, self._listeners, self._record_text)
        try:
            backend = self._get_backend()
            # Rendering a long chat and loading an adapter take time: not on the event loop.
            prepared, engine_request = await asyncio.to_thread(_prepare, backend, request, prepare)
            if prepared.prompt.dropped:
                yield (Delta(dropped=prepared.prompt.dropped),)
            finish_reason = _early_finish(live, prepared)
            if finish_reason:
                yield (_early_last_delta(prepared, finish_reason, account),)
                return
            start = ReplyStart(PLAIN if prepared.so_far else prepared.reply_format)
            stream = _run(backend.engine, engine_request, min_interval, account, start)
            async with aclosing(stream) as batches:
                async for batch in batches:
                    yield _with_adapter_info(batch, prepared.adapter)
        except LinlyError as error:
            account.close(error.code)
            raise
        finally:
            account.close()
            self._live.pop(request.id, None)  # an error's traceback can hold this frame


def _prepare(
    backend: Backend, request: R, prepare: Callable[[Backend, R], PreparedRequest]
) -> tuple[PreparedRequest, EngineRequest]:
    prepared = prepare(backend, request)
    return prepared, build_engine_request(backend, request, prepared)


def _early_finish(live: _LiveRequest, prepared: PreparedRequest) -> FinishReason | None:
    """Returns why a request ends before it is submitted to the engine, if it does."""
    if live.aborted:
        return FinishReason.ABORT
    is_empty_prefill = prepared.prefill_only and not prepared.prompt.ids
    return FinishReason.STOP if is_empty_prefill else None


def _with_adapter_info(batch: DeltaBatch, adapter: PreparedAdapter | None) -> DeltaBatch:
    return (*batch[:-1], with_adapter_info(batch[-1], adapter))


def _early_last_delta(
    prepared: PreparedRequest, finish_reason: FinishReason, account: RequestAccounting
) -> Delta:
    """Returns the only Delta of a request that ends before it is submitted to the engine."""
    stats = Stats(len(prepared.prompt.ids), 0, 0.0, 0.0, seed=0)
    delta = with_adapter_info(Delta("", finish_reason, stats), prepared.adapter)
    account.on_delta(delta, None)
    return delta


async def _run(
    engine: Engine,
    request: EngineRequest,
    min_interval: float,
    account: RequestAccounting,
    start: ReplyStart,
) -> DeltaStream:
    """Submits a request, and yields on this event loop what the engine's thread emits."""
    queue = DeltaQueue(min_interval)

    def emit(delta: Delta) -> None:
        text = start.push(delta.text)
        delta = delta if text == delta.text else replace(delta, text=text)
        account.on_delta(delta, request.adapter)
        try:
            queue.put(delta)
        except RuntimeError:  # the loop is closed, so nothing reads the reply any more
            engine.abort(request.id)

    engine.submit(request, emit)
    account.submitted()
    ended = False
    try:
        while not ended:
            batch = await queue.get()
            ended = batch[-1].finish_reason is not None
            if batch[-1].refusal:
                raise batch[-1].refusal
            yield batch
    finally:
        if not ended:  # a later request may have the id of one that has ended
            engine.abort(request.id)
