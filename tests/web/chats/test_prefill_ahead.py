"""Reading ahead: when a chat is read again, by whom, and what its tab is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from tests.web.chats.test_chat_service import BASE, LINLY, PIRATE, World, world
from web.chats import prefill_ahead
from web.chats.prefill_ahead import PrefillAhead
from web.chats.store.models import ChatSettings
from web.public_link.limits import LinkRules

__all__ = ["world"]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefill_ahead, "PATIENCE", 0.0)


def run(coroutine: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(coroutine, 20)

    asyncio.run(bounded())


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


async def asked(here: World) -> None:
    here.talk.send(here.visit, "hello", BASE)
    await until(lambda: not here.talk.replies.count)


async def changed(here: World, before: ChatSettings, now: ChatSettings) -> None:
    """The settings change; whatever is read because of it has been."""
    PrefillAhead(here.manager, here.talk).settings_changed(here.visit, before, now)
    if here.visit.reader:
        await here.visit.reader


def test_another_adapter_reads_the_chat(world: World) -> None:
    async def chat() -> None:
        await asked(world)
        await changed(world, BASE, PIRATE)
        (read,) = world.engine.read
        told = world.visit.reading
        assert told
        assert (told.adapter, told.tokens, told.known, told.done) == (
            "pirate", len(read.prompt_ids), 2, True,
        )  # fmt: skip
        assert len(world.engine.requests) == 1

    run(chat())


@pytest.mark.parametrize(
    "now", [BASE, replace(BASE, sampling=replace(BASE.sampling, temperature=1.0))]
)
def test_what_changes_no_token_is_not_read(world: World, now: ChatSettings) -> None:
    async def chat() -> None:
        await asked(world)
        await changed(world, BASE, now)
        assert world.engine.read == []

    run(chat())


def test_an_empty_chat_and_a_broken_adapter_are_not_read(world: World) -> None:
    async def chat() -> None:
        await changed(world, BASE, PIRATE)
        await asked(world)
        await changed(world, BASE, replace(BASE, adapter="torn"))
        assert world.visit.reading is None
        assert world.engine.read == []

    run(chat())


def test_nothing_is_read_by_whom_the_link_is_not_for(world: World) -> None:
    """That was a way to have an adapter work that visitors may not use."""

    async def chat() -> None:
        world.by_link(LinkRules(adapters=("base", "pirate")))
        await asked(world)
        await changed(world, BASE, LINLY)
        assert world.engine.read == []
        await changed(world, LINLY, PIRATE)
        assert len(world.engine.read) == 1

    run(chat())


@pytest.mark.parametrize(
    "deed",
    [
        lambda here: here.talk.send(here.visit, "more", BASE),
        lambda here: here.talk.regenerate(here.visit, None, BASE),
        lambda here: here.talk.compare(here.visit, "", [BASE, PIRATE]),
        lambda here: here.talk.edit(here.visit, here.branch[0].id, "other", BASE),
        lambda here: here.talk.rerun_exactly(here.visit, here.last),
        lambda here: here.talk.open(here.visit, None),
        lambda here: here.talk.open(here.visit, here.visit.chat),
    ],
)
def test_what_is_read_is_forgotten_when_something_else_begins(
    world: World, deed: Callable[[World], object]
) -> None:
    """It was told on, of a chat that had gone on, or in another chat."""

    async def chat() -> None:
        await asked(world)
        await changed(world, BASE, PIRATE)
        assert world.visit.reading
        deed(world)
        assert world.visit.reading is None
        assert world.visit.reader is None
        await until(lambda: not world.talk.replies.count)

    run(chat())


def test_a_change_ends_the_reading_of_the_one_before(world: World) -> None:
    async def chat() -> None:
        await asked(world)
        ahead = PrefillAhead(world.manager, world.talk)
        ahead.settings_changed(world.visit, BASE, PIRATE)
        first = world.visit.reader
        ahead.settings_changed(world.visit, PIRATE, LINLY)
        assert first
        assert world.visit.reader
        await world.visit.reader
        assert first.cancelled()
        assert [r.adapter.name for r in world.engine.read if r.adapter] == ["linly"]

    run(chat())


@pytest.mark.parametrize("gone", ["lost", "closed"])
def test_nothing_is_read_for_a_tab_that_is_not_there(world: World, gone: str) -> None:
    async def chat() -> None:
        await asked(world)
        setattr(world.visit, gone, True)
        await changed(world, BASE, PIRATE)
        assert world.visit.reader is None
        assert world.engine.read == []

    run(chat())


def test_settings_that_change_in_a_thread_are_read_on_the_event_loop(world: World) -> None:
    async def chat() -> None:
        await asked(world)
        world.visit.on_loop.bind()
        ahead = PrefillAhead(world.manager, world.talk)
        await asyncio.to_thread(ahead.settings_changed, world.visit, BASE, PIRATE)
        await until(lambda: world.visit.reading and world.visit.reading.done)
        assert len(world.engine.read) == 1

    run(chat())
