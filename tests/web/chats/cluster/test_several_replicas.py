"""Chats that several replicas show: replies of one are followed and stopped at another."""

from __future__ import annotations

import asyncio
import json
import threading
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from tests.web.chats.chat_app import ANNA, GREEDY, SECONDS, ChatApp, add_streaming, run, wait_until
from tests.web.postgres import PostgresServer, do
from web.chats.cluster.notifications import from_json
from web.chats.cluster.postgres_replica import CHANNEL, Replica
from web.chats.identity import Owner
from web.chats.store.errors import ReplyBusyError
from web.chats.store.models import MessageState
from web.chats.store.postgres_timeouts import BoundedConnection
from web.chats.tab_sessions import TabSession
from web.ui import stream
from web.workers import Workers

Replicas = tuple[ChatApp, ChatApp]


def test_reply_goes_on_through_an_outage(
    replicas: Replicas, restarted_server: PostgresServer
) -> None:
    here, there = replicas

    async def chat() -> None:
        here.chat_service.send(here.tab, "one two three", GREEDY)
        there.tab.chat = here.tab.chat
        here.engine.tick()
        await wait_until(lambda: here.last.text == "base ")
        restarted_server.stop()
        here.engine.tick(20)
        await here.replies_ended()
        restarted_server.start()
        await wait_until(lambda: there.last.state is MessageState.DONE)

    run(chat())
    assert there.last.text == here.last.text == "base heard: one two three "


def test_tab_follows_and_stops_a_reply_of_another_replica(replicas: Replicas) -> None:
    here, there = replicas

    async def chat() -> None:
        for app in replicas:
            app.subscribe()
        here.chat_service.send(here.tab, "one two three", GREEDY)
        there.tab.chat = here.tab.chat
        for text in ("base ", "base heard: "):
            here.engine.tick()
            while there.last.text != text:
                await there.redraw_requested()
        assert there.last.state is MessageState.STREAMING
        there.chat_service.stop(there.tab)
        while there.last.state is MessageState.STREAMING:
            await there.redraw_requested()
        assert there.last.state is MessageState.STOPPED

    run(chat())
    assert here.last.text == "base heard: "


class RecordingSocket:
    """A tab's WebSocket, which records what is sent."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[str] = asyncio.Queue()

    async def send_text(self, text: str) -> None:
        await self.sent.put(text)


def test_tab_notices_that_the_replica_of_its_reply_died(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tab showed a streaming reply for ever."""
    monkeypatch.setattr(stream, "AFAR_SECONDS", 0.05)
    here, there = replicas
    message, state = add_streaming(here.store_handle, there.store_handle.lock.id)
    here.tab.chat = here.store.message(ANNA, message)[0]
    layout = SimpleNamespace(meter="meter", controls=SimpleNamespace(encode=list))
    service: Any = SimpleNamespace(chat_service=here.chat_service, workers=Workers(), layout=layout)

    async def watch() -> None:
        socket: Any = RecordingSocket()
        sending = asyncio.create_task(stream.Tab(service, socket, here.tab)._send_chats())
        here.tab.request_redraw()
        for _ in range(2):  # no meter in between, which costs the tokenizer's time
            assert set(json.loads(await socket.sent.get())) == {"log", "sidebar"}
        there.store_handle.lock.release()
        while state() is MessageState.STREAMING:
            await socket.sent.get()
        while json.loads(await socket.sent.get()) != {"controls": ["meter"]}:
            pass
        sending.cancel()

    run(watch())


def test_stop_marks_a_reply_of_a_dead_replica(replicas: Replicas) -> None:
    here, there = replicas
    message, state = add_streaming(here.store_handle, there.store_handle.lock.id)
    here.tab.chat = here.store.message(ANNA, message)[0]
    here.tab.chats_changed.clear()
    there.store_handle.lock.release()
    here.chat_service.stop(here.tab)
    assert here.tab.chats_changed.is_set()
    assert state() is MessageState.INTERRUPTED


def test_chat_has_one_reply_at_a_time_among_all_replicas(replicas: Replicas) -> None:
    """Each replica checked only its own replies."""
    here, there = replicas
    service, tab = there.chat_service, there.tab

    async def chat() -> None:
        here.chat_service.send(here.tab, "one two three", GREEDY)
        chat = tab.chat = here.chat
        question, reply = there.store.messages(ANNA, chat).values()
        for action in (
            lambda: service.send(tab, "me too", GREEDY),
            lambda: service.edit(tab, question.id, "me too", GREEDY),
            lambda: service.compare(tab, "me too", [GREEDY, GREEDY]),
            lambda: service.regenerate(tab, None, GREEDY),
            lambda: there.reply_generator.begin(ANNA, chat, question.id, GREEDY),
            lambda: there.reply_generator.begin(ANNA, chat, question.id, GREEDY, "comparison"),
        ):
            with pytest.raises(ReplyBusyError):
                action()
            assert there.message_count == 2
        here.engine.tick(20)
        await here.replies_ended()
        done = here.store.message(ANNA, reply.id)[1]
        assert done.state is MessageState.DONE
        service.send(tab, "and now", GREEDY)
        with pytest.raises(ReplyBusyError):
            here.reply_generator.continue_reply(ANNA, chat, done, GREEDY)
        await there.replies_ended()

    run(chat())


def test_reply_of_a_dead_replica_does_not_block_the_chat(replicas: Replicas) -> None:
    here, there = replicas
    message, _ = add_streaming(here.store_handle, there.store_handle.lock.id)
    chat = here.store.message(ANNA, message)[0]
    there.store_handle.lock.release()

    async def ask() -> None:
        here.reply_generator.begin(ANNA, chat, message, GREEDY)
        here.engine.tick(20)
        await here.replies_ended()

    run(ask())


def test_stop_by_another_owner_does_nothing_at_other_replicas(replicas: Replicas) -> None:
    here, there = replicas

    async def chat() -> None:
        for app in replicas:
            app.subscribe()
        here.chat_service.send(here.tab, "hello", GREEDY)
        there.chat_service.stop(TabSession(Owner("browser:eve"), chat=here.chat))
        there.chat_list.rename(there.tab, here.chat, "renamed")  # its event follows the stop
        here.tab.chats_changed.clear()
        await here.redraw_requested()
        assert here.reply_generator.count == 1
        here.engine.tick(20)
        await here.replies_ended()

    run(chat())
    assert here.last.state is MessageState.DONE


def test_stop_reaches_a_replica_after_its_connection_was_lost(
    replicas: Replicas, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is published once more when the connection is there again."""
    here, there = replicas
    replica = here.store_handle.lock
    assert isinstance(replica, Replica)
    published = threading.Event()
    connect = replica._connect

    def connect_late() -> BoundedConnection:
        assert published.wait(SECONDS)
        return connect()

    def wait_for_stop(listening: psycopg.Connection) -> None:
        for notify in listening.notifies(timeout=SECONDS):
            event = from_json(notify.payload)
            if event and event.stop:
                published.set()
                return

    async def chat(listening: psycopg.Connection) -> None:
        for app in replicas:
            app.subscribe()
        here.chat_service.send(here.tab, "one two three", GREEDY)
        there.tab.chat = here.tab.chat
        monkeypatch.setattr(replica, "_connect", connect_late)
        do(url, f"SELECT pg_terminate_backend({replica.backend_pid})")
        there.reply_generator.stop(ANNA, here.chat)
        await asyncio.to_thread(wait_for_stop, listening)
        await here.replies_ended()

    with psycopg.connect(url, autocommit=True) as listening:
        listening.execute(f"LISTEN {CHANNEL}")
        run(chat(listening))
    assert here.last.state is MessageState.STOPPED
