"""How often a tab's stream sends, also to a slow client."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from tests.web.ui.tab_backend import Socket, TabBackend, run
from web.chats.identity import Owner
from web.chats.store.models import ChatSettings
from web.chats.tab_sessions import TabSession
from web.ui import tab_stream
from web.ui.tab_stream import CROWD_SECONDS, UPDATE_SECONDS, TabStream

pytestmark = pytest.mark.usefixtures("no_fault")

MAX_PER_SECOND = 20


async def pauses_between_updates(
    backend: TabBackend, tab: TabSession, count: int, monkeypatch: pytest.MonkeyPatch
) -> list[float]:
    """Returns how long the stream sleeps after each update, if there is always something new.

    It sleeps for no time here, so that the test does not depend on the machine's speed.
    """
    socket: Any = Socket()
    pauses: list[float] = []
    (reply,) = backend.chat_service.reply_generator.active_in_chat(tab.chat or "")

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        assert len(socket.sent) == len(pauses)  # one update before each pause
        reply.text += "x"
        tab.reply_changed.set()
        await asyncio.sleep(0)

    monkeypatch.setattr(tab_stream, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    sending = asyncio.create_task(TabStream(backend.service, socket, tab).send_live())
    while len(pauses) < count:
        await asyncio.sleep(0)
    sending.cancel()
    return pauses


def test_stream_sends_at_most_twenty_updates_a_second(
    backend: TabBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def chat() -> None:
        backend.tab_sessions.on_loop.bind()
        tab = backend.tab_sessions.open(Owner("anna"))
        backend.chat_service.send(tab, "go", ChatSettings())
        pauses = await pauses_between_updates(backend, tab, 9, monkeypatch)
        assert min(pauses) >= 1 / MAX_PER_SECOND
        await backend.stop()

    run(chat())


def test_stream_sends_less_often_while_many_replies_are_made(
    backend: TabBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the page would take the CPU cores that make the replies."""

    async def chat() -> None:
        backend.tab_sessions.on_loop.bind()
        tabs = [backend.tab_sessions.open(Owner(f"visitor {n}")) for n in range(20)]
        for tab in tabs:
            backend.chat_service.send(tab, "go", ChatSettings())
        pauses = await pauses_between_updates(backend, tabs[0], 4, monkeypatch)
        expected = UPDATE_SECONDS + 19 * CROWD_SECONDS
        assert pauses == [pytest.approx(expected)] * len(pauses)
        assert expected > 3 / MAX_PER_SECOND
        await backend.stop()

    run(chat())


def sent_titles(socket: Socket) -> list[str]:
    """Returns the titles of chats that were sent, in order."""
    sidebars = (event["sidebar"] for event in socket.sent if "sidebar" in event)
    changed = (sidebar["chats"]["changed"].values() for sidebar in sidebars)
    return [chat["title"] for chat in itertools.chain.from_iterable(changed)]


def test_stream_a_slow_client_misses_states_but_not_the_last_one(backend: TabBackend) -> None:
    """Nothing is queued for a client: once it reads again, it gets the state at that moment."""

    async def chat() -> None:
        backend.tab_sessions.on_loop.bind()
        tab = backend.tab_sessions.open(Owner("anna"))
        name = backend.store.create("anna", "title", ChatSettings()).id
        rename = backend.chat_service.chat_list.rename
        socket: Any = Socket()
        socket.may_send.clear()
        tab.request_redraw()
        sending = asyncio.create_task(TabStream(backend.service, socket, tab).send_chats())
        while not socket.sent:
            await asyncio.sleep(0.005)
        for n in range(50):
            await asyncio.to_thread(rename, tab, name, f"title {n}")
        assert len(socket.sent) == 1
        socket.may_send.set()
        while sent_titles(socket)[-1] != "title 49":
            await asyncio.sleep(0.005)
        assert len(sent_titles(socket)) <= 3
        sending.cancel()

    run(chat())
