"""Reading ahead: a chat that goes on with another adapter has to be read again by it. That begins
when the adapter is chosen, and not when the next question is asked."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field

from model.serving.manager import ModelManager
from model.types import ChatRequest, LinlyError, Message
from web.chats.chat_service import ChatService
from web.chats.reply_job import to_model_messages
from web.chats.store.models import ChatSettings
from web.chats.tab_sessions import PrefillProgress, TabSession
from web.workers import Workers

PATIENCE = 0.3  # seconds without another change: a slider passes many values on its way


@dataclass
class PrefillAhead:
    """At most one reading for each tab."""

    manager: ModelManager
    talk: ChatService
    workers: Workers = field(default_factory=Workers)

    def settings_changed(self, visit: TabSession, before: ChatSettings, now: ChatSettings) -> None:
        """Begin, if the chat's tokens or who reads them are others now."""
        if _reader(before) == _reader(now) or not self.manager.status().ready:
            return
        visit.stop_reading()
        if self.talk.may_use_adapter(visit, now.adapter):
            visit.on_loop(self._begin, visit, now)

    def _begin(self, visit: TabSession, settings: ChatSettings) -> None:
        if not (visit.lost or visit.closed):
            visit.reader = asyncio.create_task(self._read(visit, settings))

    async def _read(self, visit: TabSession, settings: ChatSettings) -> None:
        await asyncio.sleep(PATIENCE)
        owner = visit.owner.id
        talk = await self.workers.draw(owner, lambda: self.talk.conversation(visit))
        if talk is None or talk.last is None or self.talk.replies.active_in_chat(talk.chat.id):
            return
        request = chat_request(to_model_messages(talk.branch, settings.system), settings)
        try:
            measured = await self.workers.draw(owner, lambda: self.manager.context_usage(request))
            self._tell(visit, PrefillProgress(settings.adapter, measured.tokens))
            async with aclosing(self.manager.read_ahead(request)) as bursts:
                async for burst in bursts:
                    stats = burst[-1].stats
                    if stats:
                        known = min(stats.cached_tokens, measured.tokens)
                        done = PrefillProgress(settings.adapter, measured.tokens, known, done=True)
                        self._tell(visit, done)
        except LinlyError:  # it is said when the next question is asked
            self._tell(visit, None)

    def _tell(self, visit: TabSession, reading: PrefillProgress | None) -> None:
        visit.reading = reading
        visit.request_redraw()


def chat_request(messages: tuple[Message, ...], settings: ChatSettings) -> ChatRequest:
    """A branch as the manager measures it and reads it ahead."""
    return ChatRequest(
        messages, settings.adapter or None, settings.scale, settings.sampling,
        settings.template or None, drop_oldest=True,
    )  # fmt: skip


def _reader(settings: ChatSettings) -> tuple[str, float, str, str]:
    return settings.adapter, settings.scale, settings.template, settings.system
