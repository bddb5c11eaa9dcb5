"""Replies in the making. They belong to the server: tabs come and go, a reply goes on.

Each is a task on the server's event loop; what it reads and saves, worker threads do. What it has
said so far is in the store within `SAVE_SECONDS`, so that not even a killed process loses more.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace

from model.serving.delta_queue import DeltaBatch
from model.serving.manager import ModelManager
from model.translations import LocalizedText
from model.types import (
    ChatRequest,
    Delta,
    LinlyError,
    NotReadyError,
)
from web.chats.branches import path
from web.chats.cluster.notifications import NullBus, ReplicaBus, ReplicaEvent, owner_digest
from web.chats.reply_job import (
    ReplyJob,
    completed_run,
    final_state,
    planned_runs,
    to_model_messages,
)
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import ReplyBusyError, UnknownChatError
from web.chats.store.models import ChatMessage, ChatSettings, GenerationRun, MessageState
from web.workers import Kind, LoopCaller, Workers

SAVE_SECONDS = 0.3  # between two savings of what streams
POLL_SECONDS = 0.3  # between two looks at a model that is still loading
UPDATE_SECONDS = 0.05  # between two bursts of one reply, while few are made
CROWD_SECONDS = 0.01  # and this much more for each other one: cores are the model's
FAULT = LocalizedText("fault")

log = logging.getLogger(__name__)


class ReplyGenerator:
    """Makes replies and keeps them.

    Args:
        server: what this process is known by in the store.
        changed: told of an owner whose chats have changed.
        spoke: told of an owner and a chat where a reply has grown.
        saved: told of an owner and a chat whose reply has been saved as far as it is.
        others: the replicas that may be making a reply which is to stop.
    """

    def __init__(
        self,
        manager: ModelManager,
        store: ChatStore,
        server: str,
        changed: Callable[[str], None],
        spoke: Callable[[str, str], None],
        saved: Callable[[str, str], None] = lambda *_: None,
        others: ReplicaBus | None = None,
        workers: Workers | None = None,
        on_loop: LoopCaller | None = None,
    ) -> None:
        self._workers = workers or Workers()
        self._on_loop = on_loop or LoopCaller()
        self._manager = manager
        self._store = store
        self._server = server
        self._changed = changed
        self._spoke = spoke
        self._saved = saved
        self._others = others or NullBus()
        self._replies: dict[str, ReplyJob] = {}  # by message
        self._unsaved: dict[str, tuple[str, ChatMessage]] = {}  # by message, with its owner
        self._saving = threading.Lock()
        self._saver: asyncio.Task[None] | None = None

    @property
    def count(self) -> int:
        """How many are in the making."""
        return len(self._replies)

    def is_generating(self, message: str) -> bool:
        """Whether a reply is in the making here, or has yet to be saved."""
        return message in self._replies or message in self._unsaved

    def active_in_chat(self, chat: str) -> list[ReplyJob]:
        """Those of a chat, in the order in which they began."""
        return [reply for reply in self._all() if reply.chat == chat]

    def chats(self, owner: str) -> set[str]:
        """The owner's chats in which something is said now."""
        return {reply.chat for reply in self._all() if reply.owner == owner}

    def _all(self) -> tuple[ReplyJob, ...]:
        """A copy: worker threads look while the event loop changes it."""
        return tuple(self._replies.values())

    def begin(
        self,
        owner: str,
        chat: str,
        parent: str,
        settings: ChatSettings,
        comparison: str | None = None,
        repeats: ChatMessage | None = None,
    ) -> ChatMessage:
        """Begin to answer the message `parent`, or to repeat exactly how it was answered.

        Raises:
            UnknownChatError, StoreError
            ReplyBusyError: the chat has a reply in the making, outside of this comparison.
        """
        self._refuse_second(chat, comparison)
        run = self._new_run(repeats.runs[0].settings if repeats else settings)
        message = ChatMessage(
            uuid.uuid4().hex, parent, "assistant", "", MessageState.STREAMING, time.time(),
            comparison=comparison, runs=(run,), repeats=repeats.id if repeats else None,
        )  # fmt: skip
        self._store.add(owner, chat, message, server=self._server)
        self._start(ReplyJob(owner, chat, message, "", run, repeats))
        return message

    def continue_reply(
        self, owner: str, chat: str, message: ChatMessage, settings: ChatSettings
    ) -> None:
        """Continue a reply that was cut, stopped or interrupted, as it was begun.

        Raises:
            UnknownChatError, StoreError, ReplyBusyError
        """
        self._refuse_second(chat, None)
        run = self._new_run(message.runs[-1].settings if message.runs else settings)
        run = replace(run, begins=len(message.text))
        runs = (*message.runs, run) if message.text else (run,)
        streaming = replace(message, state=MessageState.STREAMING, error="", runs=runs)
        self._store.reopen(owner, streaming, self._server)
        self._start(ReplyJob(owner, chat, streaming, message.text, run))

    def stop(self, owner: str, chat: str) -> None:
        """End the replies of the owner's chat within one token; what is there stays.

        Raises:
            StoreError: it is not known what the others make there.
        """
        here = self.active_in_chat(chat)
        self.stop_matching(ReplicaEvent(owner_digest(owner), chat))
        if here:  # then nobody else says anything there
            return
        for message in self._store.streaming(chat):
            if not self.is_generating(message):
                self._others.tell(ReplicaEvent(owner_digest(owner), chat, message))

    def stop_matching(self, news: ReplicaEvent) -> None:
        """As `stop`, of what is made here."""
        self._on_loop(self._stop_here, news)

    def _stop_here(self, news: ReplicaEvent) -> None:
        for reply in self.active_in_chat(news.stop):
            named = news.message in ("", reply.message.id)
            if named and owner_digest(reply.owner) == news.owner:
                reply.stopped = True
                if reply.request:
                    self._manager.abort(reply.request.id)

    def _refuse_second(self, chat: str, comparison: str | None) -> None:
        for reply in self.active_in_chat(chat):
            if comparison is None or reply.message.comparison != comparison:
                raise ReplyBusyError

    def _new_run(self, settings: ChatSettings) -> GenerationRun:
        """With a seed of its own where none was asked for, so that it can be repeated."""
        sampling = settings.sampling
        if sampling.seed is None:
            sampling = replace(sampling, seed=secrets.randbelow(2**31))
        status = self._manager.status()
        return GenerationRun(
            replace(settings, sampling=sampling), status.base_model, status.quantization
        )

    def _start(self, reply: ReplyJob) -> None:
        self._replies[reply.message.id] = reply
        self._on_loop(self._launch, reply)
        self._changed(reply.owner)

    def _launch(self, reply: ReplyJob) -> None:
        reply.task = asyncio.get_running_loop().create_task(self._make(reply))
        if self._saver is None or self._saver.done():
            self._saver = asyncio.create_task(self._save_often())

    async def _save_often(self) -> None:
        while self._replies or self._unsaved:
            await asyncio.sleep(SAVE_SECONDS)
            await self._workers.call(Kind.SAVE, self._save_all)

    def _save_all(self) -> None:
        self._finish()
        for reply in self._all():
            if not reply.saved:
                reply.saved = True
                self._save(reply)

    def _save(self, reply: ReplyJob) -> None:
        with _spared():
            self._store.save_text(reply.message.id, reply.text, self._server)
            self._saved(reply.owner, reply.chat)

    async def _make(self, reply: ReplyJob) -> None:
        """From the question to the last word, whatever happens in between."""
        state, error = MessageState.INTERRUPTED, ""
        runs = list(reply.message.runs[:-1])
        try:
            await self._loaded(reply)
            for run, until in planned_runs(reply):
                reply.run, reply.until = run, until
                last = await self._run(reply)
                runs.append(completed_run(reply.run, last))
                state = final_state(reply, last)
                error = last.error.dump() if last.error else ""
                if reply.stopped or state is MessageState.FAILED:
                    break
        except LinlyError as problem:
            state, error = MessageState.FAILED, problem.text.dump()
        except _StoppedError:
            state = MessageState.STOPPED
        except Exception:
            log.exception("a reply failed")
            state, error = MessageState.FAILED, FAULT.dump()
        finally:
            if not runs or len(reply.text) > reply.run.begins > runs[-1].begins:
                runs.append(reply.run)  # it ended before it could say how
            await self._end(reply, replace(
                reply.message, text=reply.text, state=state, error=error, runs=tuple(runs)
            ))  # fmt: skip

    async def _end(self, reply: ReplyJob, ended: ChatMessage) -> None:
        """Save it. Until that has been tried, the chat is busy: a question that came meanwhile
        would be kept, and refused an answer."""
        reply.saved = True
        self._unsaved[ended.id] = reply.owner, ended
        try:
            await self._workers.call(Kind.SAVE, self._finish)
        finally:
            del self._replies[ended.id]
            self._changed(reply.owner)
        if ended.id in self._unsaved:
            log.warning("a reply could not be saved; it is tried again until it can")

    def _finish(self) -> None:
        """Save what has ended. What cannot be saved now, as the disk is full, waits here."""
        with self._saving:
            for number, (owner, ended) in tuple(self._unsaved.items()):
                try:
                    self._store.finish(ended, self._server)
                except UnknownChatError:
                    pass  # its chat is gone for good
                except LinlyError:
                    continue
                del self._unsaved[number]
                self._changed(owner)

    async def _loaded(self, reply: ReplyJob) -> None:
        """Wait until the model is there.

        Raises:
            NotReadyError: it cannot be loaded.
        """
        while not (status := self._manager.status()).ready:
            if status.error:
                raise NotReadyError(status.error)
            if reply.stopped:
                raise _StoppedError
            reply.loading = status
            self._spoke(reply.owner, reply.chat)
            await asyncio.sleep(POLL_SECONDS)
        reply.loading = None
        settings = reply.run.settings
        template, digest = await self._workers.draw(reply.owner, lambda: self._known(settings))
        reply.run = replace(
            reply.run, settings=replace(settings, template=template), adapter_digest=digest
        )
        await self._workers.call(Kind.SAVE, self._save_runs, reply)

    def _save_runs(self, reply: ReplyJob) -> None:
        """Were the process killed now, it would still be known who was about to answer."""
        with _spared():
            runs = (*reply.message.runs[:-1], reply.run)
            self._store.save_runs(reply.message.id, runs, self._server)

    def _known(self, settings: ChatSettings) -> tuple[str, str]:
        """The template and the adapter's digest; looking takes files."""
        adapter = settings.adapter
        template = self._manager.template_for(adapter or None, settings.template or None)
        digests = {one.name: one.digest for one in self._manager.cached_adapters()}
        return template.name, digests.get(adapter, "")

    async def _run(self, reply: ReplyJob) -> Delta:
        """One go of the model; its last Delta."""
        request = await self._workers.draw(reply.owner, lambda: self._request(reply))
        if reply.stopped:
            raise _StoppedError
        reply.request = request
        seconds = UPDATE_SECONDS + CROWD_SECONDS * (len(self._replies) - 1)
        stream: AsyncGenerator[DeltaBatch, None] = self._manager.chat(reply.request, seconds)
        last = Delta()
        async with aclosing(stream) as bursts:
            async for burst in bursts:
                self._hear(reply, burst)
                last = burst[-1]
        return last

    def _hear(self, reply: ReplyJob, burst: DeltaBatch) -> None:
        for delta in burst:
            if not reply.done:
                reply.text += delta.text
            if delta.dropped:
                reply.run = replace(
                    reply.run, dropped_messages=delta.dropped.messages,
                    dropped_tokens=delta.dropped.tokens,
                )  # fmt: skip
        if reply.done:
            reply.text = reply.text[: reply.until]
            self._manager.abort(reply.request.id if reply.request else "")
        reply.queued = burst[-1].queued
        reply.saved = False
        self._spoke(reply.owner, reply.chat)

    def _request(self, reply: ReplyJob) -> ChatRequest:
        settings = reply.run.settings
        messages = self._store.messages(reply.owner, reply.chat)
        asked = path(messages, reply.message.parent)
        return ChatRequest(
            messages=to_model_messages(asked, settings.system),
            adapter=settings.adapter or None,
            adapter_scale=settings.scale,
            sampling=settings.sampling,
            template=settings.template or None,
            drop_oldest=True,
            so_far=reply.text,
            trace=reply.message.id,
            affinity=reply.chat,  # its turns begin alike
        )


@contextmanager
def _spared() -> Iterator[None]:
    """Around what saves a reply on its way: where that fails, the reply goes on."""
    try:
        yield
    except LinlyError as error:
        log.warning("%s", error)


class _StoppedError(Exception):
    """Stop was pressed before there was anything to stop."""
