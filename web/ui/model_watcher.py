"""Watches the model, the adapters, the link and the training, and notifies all tabs of changes."""

from __future__ import annotations

import asyncio
import logging

from web.chats.chat_service import ChatService
from web.public_link.limits import HOUR, PublicLink
from web.training.service import TrainingService

POLL_SECONDS = 1.0
log = logging.getLogger(__name__)


class ModelWatcher:
    """One task that polls while there are tabs, however many."""

    def __init__(self, chat_service: ChatService, training: TrainingService | None) -> None:
        self._chat_service = chat_service
        self._training = training
        self._task: asyncio.Task[None] | None = None
        self._state: object = None
        self._ready = False

    @property
    def running(self) -> bool:
        """Whether the task runs, as it does while a tab is open."""
        return self._task is not None and not self._task.done()

    def begin(self) -> None:
        """Starts the task, if it does not run; call it on the event loop."""
        if not self.running:
            self._task = asyncio.create_task(self._poll())

    async def _poll(self) -> None:
        while len(self._chat_service.tab_sessions):
            try:
                state = await asyncio.to_thread(self._read_state)
            except Exception:  # the disk may come back
                log.exception("The adapters could not be refreshed")
            else:
                self._notify(state)
            await asyncio.sleep(POLL_SECONDS)

    def _read_state(self) -> object:
        """Returns the values that the tabs' controls show."""
        manager, link = self._chat_service.manager, self._chat_service.limits.link
        status = manager.status()
        model = (
            status.phase, round(status.progress, 2), status.error, status.base_model,
            status.quantization, status.device, manager.has_chat_template if status.ready else None,
        )  # fmt: skip
        adapters = manager.adapters(POLL_SECONDS)
        templates = [(template.name, template.description) for template in manager.templates()]
        link_state = link and (
            link.address, link.problem, link.closed, link.visitors, link.replies, _hours(link)
        )  # fmt: skip
        return model, adapters, templates, link_state, self._training and self._training.job

    def _notify(self, state: object) -> None:
        if state == self._state:
            return
        self._state = state
        ready = self._chat_service.manager.status().ready
        for tab in self._chat_service.tab_sessions:
            tab.controls_changed.set()
            if ready != self._ready:
                tab.chats_changed.set()  # the meter waits for a tokenizer
        self._ready = ready


def _hours(link: PublicLink) -> float | None:
    """Returns how many hours the link stays open, as exactly as the page shows it."""
    return None if link.until is None else round((link.until - link.clock()) / HOUR, 1)
