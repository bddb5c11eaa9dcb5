"""Chats that several replicas show: what one says, another follows, stops and does not disturb."""

from __future__ import annotations

import asyncio
import json
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from tests.web.chats.world import ANNA, GREEDY, SECONDS, World, run, streaming
from tests.web.postgres import PostgresServer, do
from web.chats.cluster.postgres_replica import Replica
from web.chats.identity import Owner
from web.chats.store.errors import ReplyBusyError
from web.chats.store.models import MessageState
from web.chats.store.postgres_timeouts import BoundedConnection
from web.chats.tab_sessions import TabSession
from web.ui import stream
from web.workers import Workers


def test_a_reply_goes_on_through_an_outage(
    worlds: tuple[World, World],
    back: PostgresServer,
) -> None:
    here, there = worlds

    async def chat() -> None:
        here.talk.send(here.visit, "one two three", GREEDY)
        there.visit.chat = here.visit.chat
        here.engine.tick()
        while here.last.text != "base ":
            await asyncio.sleep(0.01)
        back.stop()
        here.engine.tick(20)
        while here.replies.count:
            await asyncio.sleep(0.01)
        back.start()
        while there.last.state is not MessageState.DONE:
            await asyncio.sleep(0.01)

    run(chat())
    assert there.last.text == here.last.text == "base heard: one two three "


def test_a_tab_at_one_replica_follows_what_another_says(worlds: tuple[World, World]) -> None:
    """And Stop works from there."""
    here, there = worlds

    async def chat() -> None:
        for world in worlds:
            world.follow()
        here.talk.send(here.visit, "one two three", GREEDY)
        there.visit.chat = here.visit.chat
        for pieces in ("base ", "base heard: "):
            here.engine.tick()
            while there.last.text != pieces:
                await there.news()
        assert there.last.state is MessageState.STREAMING
        there.talk.stop(there.visit)
        while there.last.state is MessageState.STREAMING:
            await there.news()
        assert there.last.state is MessageState.STOPPED

    run(chat())
    assert here.last.text == "base heard: "


class Socket:
    """A tab's, which keeps what is sent."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[str] = asyncio.Queue()

    async def send_text(self, text: str) -> None:
        await self.sent.put(text)


def test_a_tab_whose_replica_died(
    worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tab was not told, so it streamed for ever."""
    monkeypatch.setattr(stream, "AFAR_SECONDS", 0.05)
    here, there = worlds
    name, state = streaming(here.keeping, there.keeping.lock.id)
    here.visit.chat = here.store.message(ANNA, name)[0]
    layout = SimpleNamespace(meter="meter", controls=SimpleNamespace(encode=list))
    service: Any = SimpleNamespace(talk=here.talk, workers=Workers(), layout=layout)

    async def look() -> None:
        socket: Any = Socket()
        sending = asyncio.create_task(stream.Tab(service, socket, here.visit)._send_chats())
        here.visit.request_redraw()
        for _ in range(2):  # no meter in between, which takes a tokenizer's time
            assert set(json.loads(await socket.sent.get())) == {"log", "sidebar"}
        there.keeping.lock.release()
        while state() is MessageState.STREAMING:
            await socket.sent.get()
        while json.loads(await socket.sent.get()) != {"controls": ["meter"]}:
            pass
        sending.cancel()

    run(look())


def test_stop_where_nobody_is_left_to_stop(worlds: tuple[World, World]) -> None:
    here, there = worlds
    name, state = streaming(here.keeping, there.keeping.lock.id)
    here.visit.chat = here.store.message(ANNA, name)[0]
    here.visit.changed.clear()
    there.keeping.lock.release()
    here.talk.stop(here.visit)
    assert here.visit.changed.is_set()
    assert state() is MessageState.INTERRUPTED


def test_one_reply_at_a_time_wherever_it_is_asked_for(worlds: tuple[World, World]) -> None:
    """Each replica knew of its own replies only."""
    here, there = worlds

    async def chat() -> None:
        here.talk.send(here.visit, "one two three", GREEDY)
        chat = there.visit.chat = here.visit.chat or ""
        asked, reply = there.store.messages(ANNA, chat).values()
        for deed in (
            lambda: there.talk.send(there.visit, "me too", GREEDY),
            lambda: there.talk.edit(there.visit, asked.id, "me too", GREEDY),
            lambda: there.talk.compare(there.visit, "me too", [GREEDY, GREEDY]),
            lambda: there.talk.regenerate(there.visit, None, GREEDY),
            lambda: there.replies.begin(ANNA, chat, asked.id, GREEDY),
            lambda: there.replies.begin(ANNA, chat, asked.id, GREEDY, "comparison"),
        ):
            with pytest.raises(ReplyBusyError):
                deed()
            assert len(there.store.messages(ANNA, chat)) == 2
        here.engine.tick(20)
        while here.replies.count:
            await asyncio.sleep(0.01)
        done = here.store.message(ANNA, reply.id)[1]
        assert done.state is MessageState.DONE
        there.talk.send(there.visit, "and now", GREEDY)
        with pytest.raises(ReplyBusyError):
            here.replies.continue_reply(ANNA, chat, done, GREEDY)
        while there.replies.count:
            await asyncio.sleep(0.01)

    run(chat())


def test_a_reply_of_a_dead_replica_is_in_nobody_s_way(worlds: tuple[World, World]) -> None:
    here, there = worlds
    name, _ = streaming(here.keeping, there.keeping.lock.id)
    chat = here.store.message(ANNA, name)[0]
    there.keeping.lock.release()

    async def ask() -> None:
        here.replies.begin(ANNA, chat, name, GREEDY)
        here.engine.tick(20)
        while here.replies.count:
            await asyncio.sleep(0.01)

    run(ask())


def test_somebody_elses_reply_is_not_stopped(worlds: tuple[World, World]) -> None:
    here, there = worlds

    async def chat() -> None:
        for world in worlds:
            world.follow()
        here.talk.send(here.visit, "hello", GREEDY)
        chat = here.visit.chat or ""
        there.talk.stop(TabSession(Owner("browser:eve"), chat=chat))
        there.talk.rename(there.visit, chat, "renamed")  # comes after it
        here.visit.changed.clear()
        await here.news()
        assert here.replies.count == 1
        here.engine.tick(20)
        while here.replies.count:
            await asyncio.sleep(0.01)

    run(chat())
    assert here.last.state is MessageState.DONE


def test_stop_while_nobody_hears(
    worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told once more when the connection is there again."""
    here, there = worlds
    replica, other = here.keeping.lock, there.keeping.lock
    assert isinstance(replica, Replica)
    assert isinstance(other, Replica)
    told = threading.Event()
    connected = replica._connected

    def late() -> BoundedConnection:
        assert told.wait(SECONDS)
        return connected()

    async def chat() -> None:
        for world in worlds:
            world.follow()
        here.talk.send(here.visit, "one two three", GREEDY)
        there.visit.chat = here.visit.chat
        monkeypatch.setattr(replica, "_connected", late)
        do(here.url, f"SELECT pg_terminate_backend({replica._connection.info.backend_pid})")
        there.replies.stop(ANNA, here.visit.chat or "")
        while not other._stops:
            await asyncio.sleep(0.01)
        told.set()
        while here.replies.count:
            await asyncio.sleep(0.01)

    run(chat())
    assert here.last.state is MessageState.STOPPED
