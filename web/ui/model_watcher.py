"""Looks at the model, the adapters and the training for all tabs at once, and tells the tabs."""

from __future__ import annotations

import asyncio
import logging

from web.chats.chat_service import ChatService
from web.public_link.limits import HOUR, PublicLink
from web.training.service import TrainingService

LOOK_SECONDS = 1.0
log = logging.getLogger(__name__)


class ModelWatcher:
    """One task while there are tabs: an idle tab costs nothing of it."""

    def __init__(self, chat_service: ChatService, desk: TrainingService | None) -> None:
        self._chat_service = chat_service
        self._desk = desk
        self._task: asyncio.Task[None] | None = None
        self._seen: object = None
        self._ready = False

    def begin(self) -> None:
        """Start looking, if no task does; from the event loop."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_often())

    async def _look_often(self) -> None:
        while len(self._chat_service.tab_sessions):
            try:
                seen = await asyncio.to_thread(self._look)
            except Exception:  # one bad look is no reason to stop: a disk may come back
                log.exception("The adapters could not be refreshed")
            else:
                self._tell(seen)
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> object:
        """What the tabs' controls depend on."""
        manager, link = self._chat_service.manager, self._chat_service.limits.link
        status = manager.status()
        model = (
            status.phase, round(status.progress, 2), status.error, status.base_model,
            status.quantization, status.device, manager.has_chat_template if status.ready else None,
        )  # fmt: skip
        adapters = manager.adapters(LOOK_SECONDS)
        templates = [(one.name, one.description) for one in manager.templates()]
        shared = link and (
            link.address, link.problem, link.closed, link.visitors, link.replies, _hours(link)
        )  # fmt: skip
        return model, adapters, templates, shared, self._desk and self._desk.job

    def _tell(self, seen: object) -> None:
        if seen == self._seen:
            return
        self._seen = seen
        ready = self._chat_service.manager.status().ready
        for visit in self._chat_service.tab_sessions:
            visit.controls_changed.set()
            if ready != self._ready:
                visit.chats_changed.set()  # the meter waits for a tokenizer
        self._ready = ready


def _hours(link: PublicLink) -> float | None:
    """How long the link is open yet, as exactly as the page shows it."""
    return None if link.until is None else round((link.until - link.clock()) / HOUR, 1)
