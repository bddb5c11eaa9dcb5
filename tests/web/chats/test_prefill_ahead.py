"""Prefill ahead: which changes start it, for whom, and what the tab shows of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.web.chats.chat_app import GREEDY, ChatApp, run, wait_until
from web.chats import prefill_ahead
from web.chats.prefill_ahead import PrefillAhead
from web.chats.store.models import ChatSettings
from web.public_link.limits import LinkRules

PIRATE, LINLY = replace(GREEDY, adapter="pirate"), replace(GREEDY, adapter="linly")


@pytest.fixture(autouse=True)
def no_debounce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefill_ahead, "DEBOUNCE_SECONDS", 0.0)


async def ask(chat_app: ChatApp) -> None:
    chat_app.chat_service.send(chat_app.tab, "hello", GREEDY)
    await chat_app.replies_ended()


async def change(chat_app: ChatApp, before: ChatSettings, now: ChatSettings) -> None:
    """Changes the settings, and waits for the prefill that this starts, if any."""
    ahead = PrefillAhead(chat_app.manager, chat_app.chat_service)
    ahead.settings_changed(chat_app.tab, before, now)
    if chat_app.tab.prefill_task:
        await chat_app.tab.prefill_task


def test_another_adapter_prefills_the_chat(chat_app: ChatApp) -> None:
    async def chat() -> None:
        await ask(chat_app)
        await change(chat_app, GREEDY, PIRATE)
        (request,) = chat_app.engine.read
        progress = chat_app.tab.prefill_progress
        assert progress
        assert (progress.adapter, progress.tokens, progress.cached_tokens, progress.done) == (
            "pirate", len(request.prompt_ids), 2, True,
        )  # fmt: skip
        assert len(chat_app.engine.requests) == 1

    run(chat())


@pytest.mark.parametrize(
    "now", [GREEDY, replace(GREEDY, sampling=replace(GREEDY.sampling, temperature=1.0))]
)
def test_change_that_keeps_the_cache_starts_no_prefill(
    chat_app: ChatApp, now: ChatSettings
) -> None:
    async def chat() -> None:
        await ask(chat_app)
        await change(chat_app, GREEDY, now)
        assert chat_app.engine.read == []

    run(chat())


def test_empty_chat_and_broken_adapter_are_not_prefilled(chat_app: ChatApp) -> None:
    async def chat() -> None:
        await change(chat_app, GREEDY, PIRATE)
        await ask(chat_app)
        await change(chat_app, GREEDY, replace(GREEDY, adapter="torn"))
        assert chat_app.tab.prefill_progress is None
        assert chat_app.engine.read == []

    run(chat())


def test_guest_cannot_prefill_with_an_adapter_that_the_link_excludes(chat_app: ChatApp) -> None:
    """A prefill made such an adapter work."""

    async def chat() -> None:
        chat_app.come_through_link(LinkRules(adapters=("base", "pirate")))
        await ask(chat_app)
        await change(chat_app, GREEDY, LINLY)
        assert chat_app.engine.read == []
        await change(chat_app, LINLY, PIRATE)
        assert len(chat_app.engine.read) == 1

    run(chat())


ACTIONS: dict[str, Callable[[ChatApp], object]] = {
    "send": lambda app: app.chat_service.send(app.tab, "more", GREEDY),
    "regenerate": lambda app: app.chat_service.regenerate(app.tab, None, GREEDY),
    "compare": lambda app: app.chat_service.compare(app.tab, "", [GREEDY, PIRATE]),
    "edit": lambda app: app.chat_service.edit(app.tab, app.branch[0].id, "other", GREEDY),
    "rerun": lambda app: app.chat_service.rerun_exactly(app.tab, app.last.id),
    "open a new chat": lambda app: app.chat_list.open(app.tab, None),
    "open the chat": lambda app: app.chat_list.open(app.tab, app.tab.chat),
}


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_other_action_removes_the_prefill(
    chat_app: ChatApp, action: Callable[[ChatApp], object]
) -> None:
    """Its line stayed under a chat that had gone on, and under other chats."""

    async def chat() -> None:
        await ask(chat_app)
        await change(chat_app, GREEDY, PIRATE)
        assert chat_app.tab.prefill_progress
        action(chat_app)
        assert chat_app.tab.prefill_progress is None
        assert chat_app.tab.prefill_task is None
        await chat_app.replies_ended()

    run(chat())


def test_second_change_cancels_the_first_prefill(chat_app: ChatApp) -> None:
    async def chat() -> None:
        await ask(chat_app)
        tab = chat_app.tab
        ahead = PrefillAhead(chat_app.manager, chat_app.chat_service)
        ahead.settings_changed(tab, GREEDY, PIRATE)
        first = tab.prefill_task
        ahead.settings_changed(tab, PIRATE, LINLY)
        assert first
        assert tab.prefill_task
        await tab.prefill_task
        assert first.cancelled()
        assert [r.adapter.name for r in chat_app.engine.read if r.adapter] == ["linly"]

    run(chat())


@pytest.mark.parametrize("gone", ["lost", "closed"])
def test_lost_or_closed_tab_starts_no_prefill(chat_app: ChatApp, gone: str) -> None:
    async def chat() -> None:
        await ask(chat_app)
        setattr(chat_app.tab, gone, True)
        await change(chat_app, GREEDY, PIRATE)
        assert chat_app.tab.prefill_task is None
        assert chat_app.engine.read == []

    run(chat())


def test_change_in_a_worker_thread_prefills_on_the_event_loop(chat_app: ChatApp) -> None:
    async def chat() -> None:
        await ask(chat_app)
        tab = chat_app.tab
        tab.on_loop.bind()
        ahead = PrefillAhead(chat_app.manager, chat_app.chat_service)
        await asyncio.to_thread(ahead.settings_changed, tab, GREEDY, PIRATE)
        await wait_until(lambda: tab.prefill_progress and tab.prefill_progress.done)
        assert len(chat_app.engine.read) == 1

    run(chat())
