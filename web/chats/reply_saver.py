"""Saves replies in the making, in worker threads."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from model.errors import LinlyError
from web.chats.reply_job import ReplyJob
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import UnknownChatError
from web.chats.store.models import ChatMessage
from web.workers import Kind, Workers

SAVE_SECONDS = 0.3  # between two saves of a text that grows

log = logging.getLogger(__name__)


class ReplySaver:
    """Saves the texts of running jobs often, and each reply that has ended until that succeeds.

    Args:
        server: this process's id in the store.
        running: returns the jobs in the making.
        on_changed: called with the owner whose ended reply has been saved.
        on_saved: called with the owner and the chat whose reply has been saved so far.
    """

    def __init__(
        self,
        store: ChatStore,
        server: str,
        workers: Workers,
        running: Callable[[], Sequence[ReplyJob]],
        on_changed: Callable[[str], None],
        on_saved: Callable[[str, str], None],
    ) -> None:
        self._store = store
        self._server = server
        self._workers = workers
        self._running = running
        self._on_changed = on_changed
        self._on_saved = on_saved
        self._unsaved: dict[str, tuple[str, ChatMessage]] = {}  # ended replies with their owners
        self._finishing = threading.Lock()
        self._task: asyncio.Task[None] | None = None

    def is_unsaved(self, message: str) -> bool:
        """Whether a reply has ended, and could not be saved yet."""
        return message in self._unsaved

    def start(self) -> None:
        """Starts the task that saves, unless it runs; from the event loop."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._save_often())

    async def save_runs(self, job: ReplyJob) -> None:
        """Saves the runs of a job that begins: if the process is killed, they are known."""
        runs = (*job.message.runs[:-1], job.run)

        def save() -> None:
            with _logged_errors():
                self._store.save_runs(job.message.id, runs, self._server)

        await self._workers.call(Kind.SAVE, save)

    async def finish(self, job: ReplyJob, message: ChatMessage) -> None:
        """Tries to save a reply that has ended; if that fails, it is tried again and again."""
        job.saved = True
        self._unsaved[message.id] = job.owner, message
        await self._workers.call(Kind.SAVE, self._finish_all)
        if message.id in self._unsaved:
            log.warning("A reply could not be saved; the server tries again until it succeeds")

    async def _save_often(self) -> None:
        while self._running() or self._unsaved:
            await asyncio.sleep(SAVE_SECONDS)
            await self._workers.call(Kind.SAVE, self._save_all)

    def _save_all(self) -> None:
        self._finish_all()
        for job in self._running():
            if not job.saved:
                job.saved = True
                self._save_text(job)

    def _save_text(self, job: ReplyJob) -> None:
        with _logged_errors():
            self._store.save_text(job.message.id, job.text, self._server)
            self._on_saved(job.owner, job.chat)

    def _finish_all(self) -> None:
        """Saves the replies that have ended. Those that cannot be saved, as the disk is full, stay
        for the next time."""
        with self._finishing:
            for message_id, (owner, message) in tuple(self._unsaved.items()):
                try:
                    self._store.finish(message, self._server)
                except UnknownChatError:
                    pass  # its chat was destroyed
                except LinlyError:
                    continue
                del self._unsaved[message_id]
                self._on_changed(owner)


@contextmanager
def _logged_errors() -> Iterator[None]:
    """Logs an error of the store: a running reply goes on."""
    try:
        yield
    except LinlyError as error:
        log.warning("%s", error)
