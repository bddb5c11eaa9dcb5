"""Prefills a chat ahead, when the user chooses another adapter, and not only at the next question.

Another adapter cannot use the KV cache of the one before, so it has to prefill the whole chat.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field

from model.errors import LinlyError
from model.serving.manager import ModelManager
from model.types import ChatRequest, Message
from web.chats.chat_service import ChatService
from web.chats.reply_job import to_model_messages
from web.chats.store.models import ChatSettings
from web.chats.tab_sessions import PrefillProgress, TabSession
from web.workers import Workers

DEBOUNCE_SECONDS = 0.3  # without another change: a slider passes many values on its way


@dataclass
class PrefillAhead:
    """Starts prefills, at most one for each tab."""

    manager: ModelManager
    chat_service: ChatService
    workers: Workers = field(default_factory=Workers)

    def settings_changed(self, tab: TabSession, before: ChatSettings, now: ChatSettings) -> None:
        """Starts a prefill if the change affects the cache: other tokens, or another adapter."""
        if _cache_key(before) == _cache_key(now) or not self.manager.status().ready:
            return
        tab.cancel_prefill()
        if self.chat_service.limits.may_use_adapter(tab, now.adapter):
            tab.on_loop(self._begin, tab, now)

    def _begin(self, tab: TabSession, settings: ChatSettings) -> None:
        if not (tab.lost or tab.closed):
            tab.prefill_task = asyncio.create_task(self._prefill(tab, settings))

    async def _prefill(self, tab: TabSession, settings: ChatSettings) -> None:
        await asyncio.sleep(DEBOUNCE_SECONDS)
        owner, service = tab.owner.id, self.chat_service
        tree = await self.workers.draw(owner, lambda: service.shown_chat.message_tree(tab))
        if tree is None or tree.last is None:
            return
        if service.reply_generator.active_in_chat(tree.chat.id):
            return
        request = chat_request(to_model_messages(tree.branch, settings.system), settings)
        try:
            usage = await self.workers.draw(owner, lambda: self.manager.context_usage(request))
            _publish(tab, PrefillProgress(settings.adapter, usage.tokens))
            async with aclosing(self.manager.prefill(request)) as batches:
                async for batch in batches:
                    stats = batch[-1].stats
                    if stats:
                        cached = min(stats.cached_tokens, usage.tokens)
                        _publish(
                            tab,
                            PrefillProgress(settings.adapter, usage.tokens, cached, done=True),
                        )
        except LinlyError:  # the next question reports it
            _publish(tab, None)


def _publish(tab: TabSession, progress: PrefillProgress | None) -> None:
    tab.prefill_progress = progress
    tab.request_redraw()


def chat_request(messages: tuple[Message, ...], settings: ChatSettings) -> ChatRequest:
    """Returns a branch as the manager measures or prefills it."""
    return ChatRequest(
        messages, settings.adapter, settings.adapter_scale, settings.sampling,
        settings.template, drop_oldest=True,
    )  # fmt: skip


def _cache_key(settings: ChatSettings) -> tuple[str | None, float, str | None, str]:
    """Returns the settings that the KV cache of a chat depends on."""
    return settings.adapter, settings.adapter_scale, settings.template, settings.system
