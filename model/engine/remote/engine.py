"""The engine that forwards requests to a model server: one thread with an event loop.

The loop polls the server's list of models. While the server cannot be reached, requests are refused
with the error, running replies end as interrupted, and the server is polled again at growing
intervals.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from model.engine.remote.client import RESPONSE_SECONDS, OpenAIClient, UnknownOnServerError
from model.engine.remote.response_stream import ResponseStream
from model.engine.remote.server_state import ServerConnection, TokenizerProbe, is_loaded_name
from model.errors import (
    AdapterError,
    BusyError,
    EngineError,
    LinlyError,
    NotReadyError,
    RequestError,
)
from model.types import Emit, EngineCounts, EngineRequest, EngineStatus, PreparedAdapter

POLL_SECONDS = 5.0  # between two polls of a server that responds
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.5, 15.0  # between two polls of one that does not
MAX_RUNNING = 1024  # requests at the same time; the server has a queue of its own
MAX_FAILED_POLLS = 3  # after so many in a row the running replies end
CLOSE_SECONDS = 5.0
T = TypeVar("T")

log = logging.getLogger(__name__)


class RemoteEngine:
    """Forwards to the server at `url`. See `protocol.Engine`.

    Args:
        url: where its API begins.
        key: its API key, if it has one.
        base: the name of the base that it has to serve.
        max_context_length: tokens that a prompt and its reply may have together, at the most.
        probe: tells whether its tokenizer is the right one.
        find_folder: returns an adapter's folder by its name; None if it is not on this machine.
        max_waiting: requests that may wait for their first token.
    """

    name = "remote"
    device = "remote"
    quantization = "remote"

    def __init__(
        self,
        url: str,
        key: str | None,
        base: str,
        max_context_length: int,
        probe: TokenizerProbe,
        find_folder: Callable[[str], Path | None],
        max_waiting: int,
    ) -> None:
        self.max_waiting = max_waiting
        self._max_context_length = max_context_length
        self._server = OpenAIClient(url, key)
        self._connection = ServerConnection(self._server, base, probe, find_folder)
        self._replies: dict[str, ResponseStream] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}  # of the replies
        self._other_tasks: set[asyncio.Task[Any]] = set()
        self._last_chunk = -math.inf  # when the last one of any reply came
        self._closing = False
        self._poll_now = asyncio.Event()
        self._ended = asyncio.Event()
        self._polled = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def context_length(self) -> int:
        state, limit = self._connection.state, self._max_context_length
        return min(limit, state.models.context_lengths.get(state.base, limit))

    @property
    def accepts_token_ids(self) -> bool:
        return self._connection.state.accepts_token_ids

    @property
    def adapters(self) -> frozenset[str]:
        """The adapters that the server was started with, as of the last poll."""
        listed = self._connection.state.models.adapters
        return frozenset(name for name in listed if not is_loaded_name(name))

    def can_serve_adapter(self, adapter: str) -> bool:
        """Whether the server has an adapter, or loads adapters at run time."""
        return adapter in self.adapters or self._connection.state.can_load_adapters

    def wait_for_poll(self, seconds: float) -> None:
        """Blocks until the server was polled once, or for `seconds`."""
        self._polled.wait(seconds)

    def prepare(self, adapter: str, digest: str) -> PreparedAdapter:
        """Returns at once: the adapter is loaded with the request, on the engine's thread. Loading
        can take long, and there are few threads that could wait for it."""
        self._check_connection()
        return PreparedAdapter(adapter, digest)

    def load(self, adapter: str, digest: str) -> None:
        self._check_connection()
        self._run_on_loop(self._connection.ensure_adapter(adapter, digest))

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        self._check_connection()
        if request.adapter and request.adapter_scale not in (0, 1):
            raise RequestError("model_server_adapter_scale")
        if len(self._replies) >= MAX_RUNNING:
            raise BusyError("too_many_remote_replies", running=MAX_RUNNING)
        waiting = sum(not reply.has_output for reply in tuple(self._replies.values()))
        if waiting >= self.max_waiting:
            raise BusyError("too_many_remote_waiting", waiting=waiting)
        self._loop.call_soon_threadsafe(self._begin, ResponseStream(request, emit))

    def abort(self, request_id: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._cancel, request_id)

    def unload(self, adapter: str) -> None:
        if self._connection.state.error is None and not self._closing:
            self._run_on_loop(self._connection.unload_adapter(adapter))

    def status(self) -> EngineStatus:
        replies = tuple(self._replies.values())
        running = sum(reply.has_output for reply in replies)
        return EngineStatus(running, len(replies) - running, self._connection.state.error)

    def counts(self) -> EngineCounts:
        connection = self._connection
        return EngineCounts(
            adapter_loads=connection.loads, adapters=tuple(sorted(connection.loaded))
        )

    def close(self) -> None:
        self._closing = True
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(CLOSE_SECONDS)

    def _check_connection(self) -> None:
        if self._closing:
            raise EngineError("shutting_down")
        if self._connection.state.error:
            raise NotReadyError(self._connection.state.error)

    def _run_on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which runs on the engine's thread."""
        return asyncio.run_coroutine_threadsafe(self._result(work), self._loop).result()

    # The methods from here on run on the engine's thread.

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._work())
        except BaseException as error:  # the thread must not die without a message
            log.exception("The remote engine stopped")
            self._connection.mark_down(
                EngineError("engine_stopped", error=error or type(error).__name__)
            )
        finally:
            self._polled.set()
            self._loop.run_until_complete(self._end_all())
            self._loop.close()

    async def _work(self) -> None:
        """Runs until the engine is closed."""
        polling = self._start(self._poll_forever())
        ended = self._start(self._ended.wait())
        await asyncio.wait({polling, ended}, return_when=asyncio.FIRST_COMPLETED)
        if polling.done():
            polling.result()  # raises: polling ends only with an error

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that `_end_all` cancels."""
        task = self._loop.create_task(work)
        self._other_tasks.add(task)
        task.add_done_callback(self._other_tasks.discard)
        return task

    async def _result(self, work: Coroutine[Any, Any, T]) -> T:
        return await self._start(work)

    async def _end_all(self) -> None:
        """Cancel the engine's own tasks, and wait for all. The HTTP library ends its tasks itself:
        one that is cancelled before its first step leaves a coroutine that nothing awaits."""
        for request_id in tuple(self._tasks):
            self._cancel(request_id)
        for task in tuple(self._other_tasks):
            task.cancel()
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks)
        await self._server.close()

    async def _poll_forever(self) -> None:
        pause, failures = MIN_RETRY_SECONDS, 0
        while True:
            self._poll_now.clear()
            failures = await self._poll(failures)
            self._polled.set()
            timeout = pause if failures else POLL_SECONDS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poll_now.wait(), timeout)
            pause = min(2 * pause, MAX_RETRY_SECONDS) if failures else MIN_RETRY_SECONDS

    async def _poll(self, failures: int) -> int:
        """Poll once, after so many failures in a row. Returns their number now.

        A single failure does not count: a connection may break, and a server that serves others may
        be too busy for a poll. Replies that the server has accepted end with their own connections,
        unless the network is silent.
        """
        try:
            await self._connection.refresh()
        except BusyError:
            return 0
        except LinlyError as error:
            is_streaming = self._replies and self._loop.time() - self._last_chunk < RESPONSE_SECONDS
            if is_streaming or (failures == 0 and self._connection.state.error is None):
                return failures + 1
            self._connection.mark_down(error)
            if isinstance(error, NotReadyError) and failures + 1 >= MAX_FAILED_POLLS:
                self._interrupt_all()
            return failures + 1
        return 0

    def _interrupt_all(self) -> None:
        for reply in tuple(self._replies.values()):
            reply.on_connection_lost(_connection_lost())
            self._cancel(reply.request.id)

    def _begin(self, reply: ResponseStream) -> None:
        request_id = reply.request.id
        if reply.request.prefill_only:  # the server decides itself what it computes ahead
            reply.skip()
            return
        self._replies[request_id] = reply
        self._tasks[request_id] = self._loop.create_task(self._serve(reply))

    def _cancel(self, request_id: str) -> None:
        """End a reply, once: cancelled again, its task would leave the connection open, and the
        server would go on. A task must not be cancelled before its first step: it would never run,
        and so never emit the end."""
        reply = self._replies.get(request_id)
        if reply is None:
            return
        reply.abort()
        if reply.started and not reply.cancelled:
            reply.cancelled = True
            self._tasks[request_id].cancel()

    async def _serve(self, reply: ResponseStream) -> None:
        """One reply, from the HTTP request to its last Delta."""
        reply.started = True
        try:
            if reply.finish_reason is None:
                await self._stream(reply)
        except asyncio.CancelledError:
            reply.abort()
        except NotReadyError as error:
            reply.on_connection_lost(_connection_lost() if reply.accepted else error)
            self._poll_now.set()
        except LinlyError as error:
            reply.on_error(error)
        except Exception as error:
            log.exception("A reply of the model server failed")
            reply.on_error(EngineError("model_server_answer_unreadable", error=error))
        finally:
            del self._replies[reply.request.id], self._tasks[reply.request.id]
            reply.emit_final()

    async def _stream(self, reply: ResponseStream) -> None:
        adapter = reply.request.adapter if reply.request.adapter_scale else None
        if adapter is None:
            await self._read_chunks(reply, self._connection.state.base)
            return
        name = await self._connection.ensure_adapter(adapter.name, adapter.digest)
        sent = time.monotonic()
        try:
            await self._read_chunks(reply, name)
        except UnknownOnServerError as error:
            # Since the last poll the server was restarted, or the request reached another replica.
            affinity = reply.request.affinity
            if not await self._connection.reload_adapter(adapter.name, name, affinity, sent):
                raise _adapter_missing(adapter.name) from error
            await self._read_chunks(reply, name)

    async def _read_chunks(self, reply: ResponseStream, model: str) -> None:
        body, affinity = reply.request_body(model), reply.request.affinity
        async with self._server.completion(body, affinity) as chunks:
            reply.accepted = True
            async for chunk in chunks:
                self._last_chunk = self._loop.time()
                reply.on_chunk(chunk)
                if reply.stopped_early:
                    return
        if reply.finish_reason is None:
            raise _connection_lost()


def _connection_lost() -> NotReadyError:
    return NotReadyError("model_server_connection_lost")


def _adapter_missing(adapter: str) -> AdapterError:
    return AdapterError("model_server_adapter_missing", adapter=adapter)
