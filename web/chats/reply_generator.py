"""Generates replies. They belong to the server: a reply goes on when its tab is closed.

Each reply is a task on the server's event loop; worker threads read and save. The store has the
text so far within `SAVE_SECONDS`, so even a killed process loses no more than that.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from model.errors import LinlyError, NotReadyError
from model.serving.delta_queue import DeltaBatch
from model.serving.manager import ModelManager
from model.translations import LocalizedText
from model.types import ChatRequest, Delta
from web.chats.cluster.notifications import NullBus, ReplicaBus, ReplicaEvent, owner_digest
from web.chats.message_tree import path_to
from web.chats.reply_job import (
    ReplyJob,
    completed_run,
    final_state,
    planned_runs,
    to_model_messages,
)
from web.chats.reply_saver import ReplySaver
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import ReplyBusyError
from web.chats.store.models import ChatMessage, ChatSettings, GenerationRun, MessageState
from web.workers import LoopCaller, Workers

POLL_SECONDS = 0.3  # between two looks at a model that is loading
UPDATE_SECONDS = 0.05  # between two batches of one reply
CROWD_SECONDS = 0.01  # and this much more for each other reply: the model needs the cores
FAULT = LocalizedText("fault")

log = logging.getLogger(__name__)


class ReplyGenerator:
    """Generates and saves replies.

    Args:
        server: this process's id in the store.
        on_changed: called with an owner whose chats have changed.
        on_progress: called with an owner and a chat where a reply has grown.
        on_saved: called with an owner and a chat whose reply has been saved so far.
        replica_bus: to other replicas, which may be generating a reply that is to stop.
    """

    def __init__(
        self,
        manager: ModelManager,
        store: ChatStore,
        server: str,
        on_changed: Callable[[str], None],
        on_progress: Callable[[str, str], None],
        on_saved: Callable[[str, str], None] = lambda *_: None,
        replica_bus: ReplicaBus | None = None,
        workers: Workers | None = None,
        on_loop: LoopCaller | None = None,
    ) -> None:
        self._workers = workers or Workers()
        self._on_loop = on_loop or LoopCaller()
        self._manager = manager
        self._store = store
        self._server = server
        self._on_changed = on_changed
        self._on_progress = on_progress
        self._replica_bus = replica_bus or NullBus()
        self._jobs: dict[str, ReplyJob] = {}  # by message
        self._saver = ReplySaver(store, server, self._workers, self._running, on_changed, on_saved)

    @property
    def count(self) -> int:
        """How many replies are in the making here."""
        return len(self._jobs)

    def is_generating(self, message: str) -> bool:
        """Whether a reply is in the making here, or is still to be saved."""
        return message in self._jobs or self._saver.is_unsaved(message)

    def active_in_chat(self, chat: str) -> list[ReplyJob]:
        """Returns the replies in the making in a chat, in the order of their beginning."""
        return [job for job in self._running() if job.chat == chat]

    def active_chats(self, owner: str) -> set[str]:
        """Returns the owner's chats in which replies are in the making."""
        return {job.chat for job in self._running() if job.owner == owner}

    def _running(self) -> tuple[ReplyJob, ...]:
        """Returns a copy, as worker threads read it while the event loop changes the jobs."""
        return tuple(self._jobs.values())

    def begin(
        self,
        owner: str,
        chat: str,
        parent: str,
        settings: ChatSettings,
        comparison: str | None = None,
        repeats: ChatMessage | None = None,
    ) -> ChatMessage:
        """Begins a reply to the message `parent`, or reproduces the reply `repeats` to it.

        Raises:
            UnknownChatError, StoreError
            ReplyBusyError: the chat has a reply in the making, outside of this comparison.
        """
        self._check_not_busy(chat, comparison)
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
        """Continues a reply that was cut, stopped or interrupted, with the settings of its last
        run, or `settings` if that is not known.

        Raises:
            UnknownChatError, StoreError, ReplyBusyError
        """
        self._check_not_busy(chat, None)
        run = self._new_run(message.runs[-1].settings if message.runs else settings)
        run = replace(run, begins=len(message.text))
        runs = (*message.runs, run) if message.text else (run,)
        streaming = replace(message, state=MessageState.STREAMING, error="", runs=runs)
        self._store.reopen(owner, streaming, self._server)
        self._start(ReplyJob(owner, chat, streaming, message.text, run))

    def stop(self, owner: str, chat: str) -> None:
        """Ends the replies in the owner's chat within one token; their texts stay.

        Raises:
            StoreError: it is not known what other replicas generate there.
        """
        here = self.active_in_chat(chat)
        self.stop_matching(ReplicaEvent(owner_digest(owner), chat))
        if here:  # then no other replica generates there
            return
        for message in self._store.streaming(chat):
            if not self.is_generating(message):
                self._replica_bus.publish(ReplicaEvent(owner_digest(owner), chat, message))

    def stop_matching(self, event: ReplicaEvent) -> None:
        """Ends the replies in the making here that an event names."""
        self._on_loop(self._stop_here, event)

    def _stop_here(self, event: ReplicaEvent) -> None:
        for job in self.active_in_chat(event.stop):
            named = event.message in ("", job.message.id)
            if named and owner_digest(job.owner) == event.owner:
                job.stopped = True
                if job.request:
                    self._manager.abort(job.request.id)

    def _check_not_busy(self, chat: str, comparison: str | None) -> None:
        for job in self.active_in_chat(chat):
            if comparison is None or job.message.comparison != comparison:
                raise ReplyBusyError

    def _new_run(self, settings: ChatSettings) -> GenerationRun:
        """Draws a seed if the settings have none, so that the run can be reproduced."""
        sampling = settings.sampling
        if sampling.seed is None:
            sampling = replace(sampling, seed=secrets.randbelow(2**31))
        status = self._manager.status()
        return GenerationRun(
            replace(settings, sampling=sampling), status.base_model, status.quantization
        )

    def _start(self, job: ReplyJob) -> None:
        self._jobs[job.message.id] = job
        self._on_loop(self._launch, job)
        self._on_changed(job.owner)

    def _launch(self, job: ReplyJob) -> None:
        job.task = asyncio.get_running_loop().create_task(self._generate(job))
        self._saver.start()

    async def _generate(self, job: ReplyJob) -> None:
        """The task of a reply, from its request to its end, with errors and stops as its state."""
        state, error = MessageState.INTERRUPTED, ""
        runs = list(job.message.runs[:-1])
        try:
            await self._wait_until_loaded(job)
            for run, ends_at in planned_runs(job):
                job.run, job.ends_at = run, ends_at
                last = await self._stream_run(job)
                runs.append(completed_run(job.run, last))
                state = final_state(job, last)
                error = last.error.dump() if last.error else ""
                if job.stopped or state is MessageState.FAILED:
                    break
        except LinlyError as problem:
            state, error = MessageState.FAILED, problem.text.dump()
        except _StoppedError:
            state = MessageState.STOPPED
        except Exception:
            log.exception("The page failed on a reply")
            state, error = MessageState.FAILED, FAULT.dump()
        finally:
            if not runs or len(job.text) > job.run.begins > runs[-1].begins:
                runs.append(job.run)  # it ended before its last Delta
            await self._end(job, replace(
                job.message, text=job.text, state=state, error=error, runs=tuple(runs)
            ))  # fmt: skip

    async def _end(self, job: ReplyJob, message: ChatMessage) -> None:
        """Saves the reply. The chat is busy until that has been tried: a question in between would
        be stored, and then be refused a reply."""
        try:
            await self._saver.finish(job, message)
        finally:
            del self._jobs[message.id]
            self._on_changed(job.owner)

    async def _wait_until_loaded(self, job: ReplyJob) -> None:
        """Waits for the model, then completes the run with the template and the adapter's digest.

        Raises:
            NotReadyError: the model cannot be loaded.
        """
        while not (status := self._manager.status()).ready:
            if status.error:
                raise NotReadyError(status.error)
            if job.stopped:
                raise _StoppedError
            job.model_status = status
            self._on_progress(job.owner, job.chat)
            await asyncio.sleep(POLL_SECONDS)
        job.model_status = None
        settings = job.run.settings
        template, digest = await self._workers.draw(job.owner, lambda: self._look_up(settings))
        job.run = replace(
            job.run, settings=replace(settings, template=template), adapter_digest=digest
        )
        await self._saver.save_runs(job)

    def _look_up(self, settings: ChatSettings) -> tuple[str, str]:
        """Returns the template's name and the adapter's digest, which takes reading files."""
        template = self._manager.template_for(settings.adapter, settings.template)
        digests = {adapter.name: adapter.digest for adapter in self._manager.cached_adapters()}
        return template.name, digests.get(settings.adapter or "", "")

    async def _stream_run(self, job: ReplyJob) -> Delta:
        """Runs the model once, and returns the last Delta."""
        request = await self._workers.draw(job.owner, lambda: self._request(job))
        if job.stopped:
            raise _StoppedError
        job.request = request
        seconds = UPDATE_SECONDS + CROWD_SECONDS * (len(self._jobs) - 1)
        stream: AsyncGenerator[DeltaBatch, None] = self._manager.chat(request, seconds)
        last = Delta()
        async with aclosing(stream) as batches:
            async for batch in batches:
                self._take(job, batch)
                last = batch[-1]
        return last

    def _take(self, job: ReplyJob, batch: DeltaBatch) -> None:
        """Adds a batch to the reply, and ends the run where it is to end."""
        for delta in batch:
            if not job.reached_end:
                job.text += delta.text
            if delta.dropped:
                job.run = replace(
                    job.run, dropped_messages=delta.dropped.messages,
                    dropped_tokens=delta.dropped.tokens,
                )  # fmt: skip
        if job.reached_end:
            job.text = job.text[: job.ends_at]
            self._manager.abort(job.request.id if job.request else "")
        job.queued = batch[-1].queued
        job.saved = False
        self._on_progress(job.owner, job.chat)

    def _request(self, job: ReplyJob) -> ChatRequest:
        settings = job.run.settings
        messages = self._store.messages(job.owner, job.chat)
        branch = path_to(messages, job.message.parent)
        return ChatRequest(
            messages=to_model_messages(branch, settings.system),
            adapter=settings.adapter,
            adapter_scale=settings.adapter_scale,
            sampling=settings.sampling,
            template=settings.template,
            drop_oldest=True,
            so_far=job.text,
            trace=job.message.id,
            affinity=job.chat,  # the requests of a chat begin alike
        )


class _StoppedError(Exception):
    """The user pressed Stop before there was a request to abort."""
