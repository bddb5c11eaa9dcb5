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
from tests.web.postgres import PostgresServer, execute
from web.chats.cluster.notifications import from_json
from web.chats.cluster.postgres_replica import CHANNEL, Replica
from web.chats.identity import Owner
from web.chats.store.errors import ReplyBusyError
from web.chats.store.models import MessageState
from web.chats.store.postgres_timeouts import BoundedConnection
from web.chats.tab_sessions import TabSession
from web.ui import tab_stream
from web.workers import Workers

Replicas = tuple[ChatApp, ChatApp]


def test_reply_goes_on_through_an_outage(
    replicas: Replicas, restarted_server: PostgresServer
) -> None:
    local, remote = replicas

    async def chat() -> None:
        local.chat_service.send(local.tab, "one two three", GREEDY)
        remote.tab.chat = local.tab.chat
        local.engine.tick()
        await wait_until(lambda: local.last.text == "base ")
        restarted_server.stop()
        local.engine.tick(20)
        await local.replies_ended()
        restarted_server.start()
        await wait_until(lambda: remote.last.state is MessageState.DONE)

    run(chat())
    assert remote.last.text == local.last.text == "base heard: one two three "


def test_tab_follows_and_stops_a_reply_of_another_replica(replicas: Replicas) -> None:
    local, remote = replicas

    async def chat() -> None:
        for app in replicas:
            app.subscribe()
        local.chat_service.send(local.tab, "one two three", GREEDY)
        remote.tab.chat = local.tab.chat
        for text in ("base ", "base heard: "):
            local.engine.tick()
            while remote.last.text != text:
                await remote.redraw_requested()
        assert remote.last.state is MessageState.STREAMING
        remote.chat_service.stop(remote.tab)
        while remote.last.state is MessageState.STREAMING:
            await remote.redraw_requested()
        assert remote.last.state is MessageState.STOPPED

    run(chat())
    assert local.last.text == "base heard: "


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
    monkeypatch.setattr(tab_stream, "REMOTE_SECONDS", 0.05)
    local, remote = replicas
    message, state = add_streaming(local.store_handle, remote.store_handle.lock.id)
    local.tab.chat = local.store.message(ANNA, message)[0]
    layout = SimpleNamespace(meter="meter", controls=SimpleNamespace(encode=list))
    service: Any = SimpleNamespace(
        chat_service=local.chat_service, workers=Workers(), layout=layout
    )

    async def watch() -> None:
        socket: Any = RecordingSocket()
        sending = asyncio.create_task(tab_stream.TabStream(service, socket, local.tab).send_chats())
        local.tab.request_redraw()
        for _ in range(2):  # no meter in between, which costs the tokenizer's time
            assert set(json.loads(await socket.sent.get())) == {"log", "sidebar"}
        remote.store_handle.lock.release()
        while state() is MessageState.STREAMING:
            await socket.sent.get()
        while json.loads(await socket.sent.get()) != {"controls": ["meter"]}:
            pass
        sending.cancel()

    run(watch())


def test_stop_marks_a_reply_of_a_dead_replica(replicas: Replicas) -> None:
    local, remote = replicas
    message, state = add_streaming(local.store_handle, remote.store_handle.lock.id)
    local.tab.chat = local.store.message(ANNA, message)[0]
    local.tab.chats_changed.clear()
    remote.store_handle.lock.release()
    local.chat_service.stop(local.tab)
    assert local.tab.chats_changed.is_set()
    assert state() is MessageState.INTERRUPTED


def test_chat_has_one_reply_at_a_time_among_all_replicas(replicas: Replicas) -> None:
    """Each replica checked only its own replies."""
    local, remote = replicas
    service, tab = remote.chat_service, remote.tab

    async def chat() -> None:
        local.chat_service.send(local.tab, "one two three", GREEDY)
        chat = tab.chat = local.chat
        question, reply = remote.store.messages(ANNA, chat).values()
        for action in (
            lambda: service.send(tab, "me too", GREEDY),
            lambda: service.edit(tab, question.id, "me too", GREEDY),
            lambda: service.compare(tab, "me too", [GREEDY, GREEDY]),
            lambda: service.regenerate(tab, None, GREEDY),
            lambda: remote.reply_generator.begin(ANNA, chat, question.id, GREEDY),
            lambda: remote.reply_generator.begin(ANNA, chat, question.id, GREEDY, "comparison"),
        ):
            with pytest.raises(ReplyBusyError):
                action()
            assert remote.message_count == 2
        local.engine.tick(20)
        await local.replies_ended()
        done = local.store.message(ANNA, reply.id)[1]
        assert done.state is MessageState.DONE
        service.send(tab, "and now", GREEDY)
        with pytest.raises(ReplyBusyError):
            local.reply_generator.continue_reply(ANNA, chat, done, GREEDY)
        await remote.replies_ended()

    run(chat())


def test_reply_of_a_dead_replica_does_not_block_the_chat(replicas: Replicas) -> None:
    local, remote = replicas
    message, _ = add_streaming(local.store_handle, remote.store_handle.lock.id)
    chat = local.store.message(ANNA, message)[0]
    remote.store_handle.lock.release()

    async def ask() -> None:
        local.reply_generator.begin(ANNA, chat, message, GREEDY)
        local.engine.tick(20)
        await local.replies_ended()

    run(ask())


def test_stop_by_another_owner_does_nothing_at_other_replicas(replicas: Replicas) -> None:
    local, remote = replicas

    async def chat() -> None:
        for app in replicas:
            app.subscribe()
        local.chat_service.send(local.tab, "hello", GREEDY)
        remote.chat_service.stop(TabSession(Owner("browser:eve"), chat=local.chat))
        remote.chat_list.rename(remote.tab, local.chat, "renamed")  # its event follows the stop
        local.tab.chats_changed.clear()
        await local.redraw_requested()
        assert local.reply_generator.count == 1
        local.engine.tick(20)
        await local.replies_ended()

    run(chat())
    assert local.last.state is MessageState.DONE


def test_stop_reaches_a_replica_after_its_connection_was_lost(
    replicas: Replicas, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is published once more when the connection is there again."""
    local, remote = replicas
    replica = local.store_handle.lock
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
        local.chat_service.send(local.tab, "one two three", GREEDY)
        remote.tab.chat = local.tab.chat
        monkeypatch.setattr(replica, "_connect", connect_late)
        execute(url, f"SELECT pg_terminate_backend({replica.backend_pid})")
        remote.reply_generator.stop(ANNA, local.chat)
        await asyncio.to_thread(wait_for_stop, listening)
        await local.replies_ended()

    with psycopg.connect(url, autocommit=True) as listening:
        listening.execute(f"LISTEN {CHANNEL}")
        run(chat(listening))
    assert local.last.state is MessageState.STOPPED
