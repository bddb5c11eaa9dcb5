"""The engine at the other end of a line: one thread with an event loop that asks a server.

The loop looks at the server again and again: what it serves, and whether it is there. While it is
not, requests are refused with that sentence, replies that were under way end as interrupted, and
it is tried again, less and less often.
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

from model.engine.remote.client import ANSWER_SECONDS, OpenAIClient, UnknownThereError
from model.engine.remote.connection import ServerConnection, was_given
from model.engine.remote.probe import TokenizerProbe
from model.engine.remote.response_stream import ResponseStream
from model.types import (
    AdapterError,
    BusyError,
    Emit,
    EngineCounts,
    EngineError,
    EngineRequest,
    EngineStatus,
    LinlyError,
    NotReadyError,
    PreparedAdapter,
    RequestError,
)

LOOK_SECONDS = 5.0  # between two looks at a server that is there
FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0  # between two tries at one that is not
MAX_RUNNING = 1024  # requests on their way at the same time; the server has a queue of its own
GONE = 3  # looks in vain, after which nothing is to be expected of a server any more
CLOSE_SECONDS = 5.0
T = TypeVar("T")

log = logging.getLogger(__name__)


class RemoteEngine:
    """Asks the server at `url`. See `base.Engine`.

    Args:
        url: where its API begins.
        key: what it asks for, if anything.
        base: the name of the base that it is to serve.
        longest: tokens that a prompt and its reply may have together, at the most.
        probe: tells whether its tokenizer is the right one.
        find: where an adapter's folder lies, by its name; None if there is none here.
    """

    name = "remote"
    device = "remote"
    quantization = "remote"

    def __init__(
        self,
        url: str,
        key: str | None,
        base: str,
        longest: int,
        probe: TokenizerProbe,
        find: Callable[[str], Path | None],
    ) -> None:
        self._longest = longest
        self._server = OpenAIClient(url, key)
        self._line = ServerConnection(self._server, base, probe, find)
        self._replies: dict[str, ResponseStream] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[Any]] = set()  # the engine's own, beside those of replies
        self._heard = -math.inf  # when a reply last said something
        self._closing = False
        self._hurry = asyncio.Event()
        self._ended = asyncio.Event()
        self._tried = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def context_length(self) -> int:
        state = self._line.state
        return min(self._longest, state.served.longest.get(state.base, self._longest))

    @property
    def accepts_token_ids(self) -> bool:
        return self._line.state.ids

    @property
    def adapters(self) -> frozenset[str]:
        """What the server has of itself, as it was listed at the last look."""
        return frozenset(name for name in self._line.state.served.adapters if not was_given(name))

    def can_have(self, adapter: str) -> bool:
        """Whether the server has an adapter, or reads those that it is told of."""
        return adapter in self.adapters or self._line.state.loads

    def wait(self, seconds: float) -> None:
        """Until the server was looked at once, or for so long."""
        self._tried.wait(seconds)

    def prepare(self, adapter: str, digest: str) -> PreparedAdapter:
        """Nothing yet: the server is told when it is asked, on the engine's own thread, as that can
        take long, and threads that could wait for it are few."""
        self._check_line()
        return PreparedAdapter(adapter, digest)

    def load(self, adapter: str, digest: str) -> None:
        self._check_line()
        self._ask(self._line.ensure_adapter(adapter, digest))

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        self._check_line()
        if request.adapter and request.adapter_scale not in (0, 1):
            raise RequestError(
                "model_server_adapter_scale",
            )
        if len(self._replies) >= MAX_RUNNING:
            raise BusyError("too_many_remote_replies", running=MAX_RUNNING)
        self._loop.call_soon_threadsafe(self._begin, ResponseStream(request, emit))

    def abort(self, request_id: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._cancel, request_id)

    def unload(self, adapter: str) -> None:
        if self._line.state.error is None and not self._closing:
            self._ask(self._line.unload_adapter(adapter))

    def status(self) -> EngineStatus:
        replies = tuple(self._replies.values())
        running = sum(reply.spoke for reply in replies)
        return EngineStatus(running, len(replies) - running, self._line.state.error)

    def counts(self) -> EngineCounts:
        return EngineCounts(
            adapter_loads=self._line.loads, adapters=tuple(sorted(self._line.loaded))
        )

    def close(self) -> None:
        self._closing = True
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(CLOSE_SECONDS)

    def _check_line(self) -> None:
        if self._closing:
            raise EngineError("shutting_down")
        if self._line.state.error:
            raise NotReadyError(self._line.state.error)

    def _ask(self, question: Coroutine[Any, Any, T]) -> T:
        """The answer to a question that is asked on the engine's thread."""
        return asyncio.run_coroutine_threadsafe(self._result(question), self._loop).result()

    # From here on, all runs on the engine's thread.

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._work())
        except BaseException as error:  # the thread must not die without a word
            log.exception("the engine stopped")
            self._line.mark_down(EngineError("engine_stopped", error=error or type(error).__name__))
        finally:
            self._tried.set()
            self._loop.run_until_complete(self._end_all())
            self._loop.close()

    async def _work(self) -> None:
        """Until it is closed."""
        watching = self._start(self._watch())
        ended = self._start(self._ended.wait())
        await asyncio.wait({watching, ended}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()  # it never ends by itself, but for a fault

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that `_end_all` cancels."""
        task = self._loop.create_task(work)
        self._others.add(task)
        task.add_done_callback(self._others.discard)
        return task

    async def _result(self, work: Coroutine[Any, Any, T]) -> T:
        return await self._start(work)

    async def _end_all(self) -> None:
        """Cancel the engine's own tasks, and wait for all. Those of the HTTP library are ended by
        it: one that is cancelled before its first step leaves a coroutine that nothing awaits."""
        for number in tuple(self._tasks):
            self._cancel(number)
        for task in tuple(self._others):
            task.cancel()
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks)
        await self._server.close()

    async def _watch(self) -> None:
        """Look at the server, again and again."""
        pause, failures = FIRST_WAIT, 0
        while True:
            self._hurry.clear()
            failures = await self._look(failures)
            self._tried.set()
            broken = failures > 0
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), pause if broken else LOOK_SECONDS)
            pause = min(2 * pause, LONGEST_WAIT) if broken else FIRST_WAIT

    async def _look(self, failures: int) -> int:
        """Look once; how often in a row that has failed now.

        One failure more than once means that it is gone: a connection may break, and a server that
        answers others may be too busy to be asked. Replies that it has taken end with their own
        connections, but for a network that says nothing.
        """
        try:
            await self._line.refresh()
        except BusyError:
            return 0
        except LinlyError as error:
            answers = self._replies and self._loop.time() - self._heard < ANSWER_SECONDS
            if answers or (failures == 0 and self._line.state.error is None):
                return failures + 1
            self._line.mark_down(error)
            if isinstance(error, NotReadyError) and failures + 1 >= GONE:
                self._interrupt_all()
            return failures + 1
        return 0

    def _interrupt_all(self) -> None:
        for reply in tuple(self._replies.values()):
            reply.on_connection_lost(_broke_off())
            self._cancel(reply.request.id)

    def _begin(self, reply: ResponseStream) -> None:
        number = reply.request.id
        if reply.request.read_only:  # what a server reads ahead is its own business
            reply.skip()
            return
        self._replies[number] = reply
        self._tasks[number] = self._loop.create_task(self._answer(reply))

    def _cancel(self, number: str) -> None:
        """End a reply, once: cancelled again, its task would leave the connection open, and the
        server would go on. One that is cancelled before its first step would never take one."""
        reply = self._replies.get(number)
        if reply is None:
            return
        reply.abort()
        if reply.begun and not reply.cancelled:
            reply.cancelled = True
            self._tasks[number].cancel()

    async def _answer(self, reply: ResponseStream) -> None:
        """One reply, from its question to its last Delta."""
        reply.begun = True
        try:
            if reply.reason is None:
                await self._stream(reply)
        except asyncio.CancelledError:
            reply.abort()
        except NotReadyError as error:
            reply.on_connection_lost(_broke_off() if reply.taken else error)
            self._hurry.set()
        except LinlyError as error:
            reply.on_error(error)
        except Exception as error:
            log.exception("a reply failed")
            reply.on_error(EngineError("model_server_answer_unreadable", error=error))
        finally:
            del self._replies[reply.request.id], self._tasks[reply.request.id]
            reply.emit_final()

    async def _stream(self, reply: ResponseStream) -> None:
        adapter = reply.request.adapter if reply.request.adapter_scale else None
        if adapter is None:
            await self._hear(reply, self._line.state.base)
            return
        name = await self._line.ensure_adapter(adapter.name, adapter.digest)
        asked = time.monotonic()
        try:
            await self._hear(reply, name)
        except UnknownThereError as error:
            # It has been started anew since it was looked at, or is another one than was looked at.
            affinity = reply.request.affinity
            if not await self._line.reload_adapter(adapter.name, name, affinity, asked):
                raise _unserved(adapter.name) from error
            await self._hear(reply, name)

    async def _hear(self, reply: ResponseStream, model: str) -> None:
        asked = reply.body(model), reply.request.affinity
        async with self._server.completion(*asked) as chunks:
            reply.taken = True
            async for chunk in chunks:
                self._heard = self._loop.time()
                reply.on_chunk(chunk)
                if reply.cut:
                    return
        if reply.reason is None:
            raise _broke_off()


def _broke_off() -> NotReadyError:
    return NotReadyError("model_server_connection_lost")


def _unserved(adapter: str) -> AdapterError:
    return AdapterError(
        "model_server_adapter_missing",
        adapter=adapter,
    )
