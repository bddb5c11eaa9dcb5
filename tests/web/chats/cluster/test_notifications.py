"""Events that replicas publish: what they contain, and how they arrive."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psycopg
import pytest

from tests.web.chats.chat_app import (
    ANNA,
    GREEDY,
    SECONDS,
    ChatApp,
    run,
    wait_until,
)
from tests.web.postgres import cut_connections, execute
from web.chats.cluster import postgres_replica
from web.chats.cluster.notifications import NullBus, ReplicaEvent, from_json, owner_digest, to_json
from web.chats.cluster.postgres_replica import CHANNEL, Replica
from web.chats.identity import Owner
from web.chats.tab_sessions import TabSessions

Replicas = tuple[ChatApp, ChatApp]
LAST = ReplicaEvent("last")


def replica_of(app: ChatApp) -> Replica:
    assert isinstance(app.store_handle.lock, Replica)
    return app.store_handle.lock


def test_late_stop_ends_only_the_reply_that_it_names(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that could not be published in time is dropped."""
    local, remote = replicas
    events: list[ReplicaEvent | None] = []

    async def chat() -> None:
        local.chat_service.send(local.tab, "hello", GREEDY)
        local.chat_service.on_replica_event(
            ReplicaEvent(owner_digest(ANNA), local.chat, "an earlier reply")
        )
        (job,) = local.reply_generator.active_in_chat(local.chat)
        assert not job.stopped
        replica_of(local).subscribe(events.append)
        monkeypatch.setattr(postgres_replica, "STOP_SECONDS", -1.0)
        remote.reply_generator.stop(ANNA, local.chat)
        replica_of(remote).publish(LAST)
        await wait_until(lambda: LAST in events)
        local.chat_service.on_replica_event(
            ReplicaEvent(owner_digest(ANNA), local.chat, job.message.id)
        )
        await local.replies_ended()

    run(chat())
    assert not [event for event in events if event and event.stop]


def test_event_that_the_server_refuses_is_dropped(
    replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    """It was published again and again, each time on a new connection."""
    local, remote = replicas
    connection = replica_of(remote).backend_pid
    events: list[ReplicaEvent | None] = []

    async def chat() -> None:
        replica_of(local).subscribe(events.append)
        replica_of(remote).publish(ReplicaEvent("x" * 9000))
        await wait_until(lambda: "does not accept events" in caplog.text)
        replica_of(remote).publish(LAST)
        await wait_until(lambda: LAST in events)

    run(chat())
    assert replica_of(remote).backend_pid == connection
    assert "does not answer" not in caplog.text


class RecordingBus(NullBus):
    """Records the events that are published."""

    def __init__(self) -> None:
        self.events: list[ReplicaEvent] = []

    def publish(self, event: ReplicaEvent) -> None:
        self.events.append(event)


def test_reply_that_grew_redraws_only_the_tabs_that_show_it() -> None:
    """Each tab of the owner was drawn anew three times a second, whatever it showed."""
    bus = RecordingBus()
    tabs = TabSessions(bus)
    showing, other = tabs.open(Owner(ANNA)), tabs.open(Owner(ANNA))
    showing.chat = "shown"
    tabs.notify_saved(ANNA, "shown")
    tabs.notify_changed(ANNA)
    grew, changed = bus.events
    assert "shown" not in to_json(grew)
    for event, redrawn in ((grew, [True, False]), (changed, [True, True])):
        for tab in (showing, other):
            tab.chats_changed.clear()
        received = from_json(to_json(event))
        assert received == event
        tabs.notify_remote_change(received)
        assert [tab.chats_changed.is_set() for tab in (showing, other)] == redrawn


def test_tabs_are_redrawn_after_a_lost_connection(replicas: Replicas, url: str) -> None:
    """Events that were published meanwhile are missed."""
    local, _ = replicas

    async def chat() -> None:
        local.subscribe()
        local.tab.chats_changed.clear()
        await asyncio.to_thread(cut_connections, url)
        await local.redraw_requested()

    run(chat())


def test_replica_receives_the_others_events_once(replicas: Replicas) -> None:
    """But not its own."""
    local, remote = replicas
    events: list[ReplicaEvent | None] = []

    async def chat() -> None:
        replica_of(local).subscribe(events.append)
        replica_of(local).publish(ReplicaEvent("mine"))
        for number in range(50):
            replica_of(remote).publish(ReplicaEvent(str(number % 3)))
        replica_of(remote).publish(LAST)
        await wait_until(lambda: LAST in events)

    run(chat())
    assert {event.owner for event in events if event} == {"0", "1", "2", "last"}


def test_event_contains_no_owner_s_name(replicas: Replicas, url: str) -> None:
    local, _ = replicas
    with psycopg.connect(url, autocommit=True) as listening:
        listening.execute(f"LISTEN {CHANNEL}")
        local.tab_sessions.notify_changed(ANNA)
        (notify,) = listening.notifies(timeout=SECONDS, stop_after=1)
    assert from_json(notify.payload) == ReplicaEvent(owner_digest(ANNA))
    assert "anna" not in notify.payload


def test_invalid_events_of_other_programs_are_ignored(replicas: Replicas, url: str) -> None:
    local, _ = replicas
    events: list[ReplicaEvent | None] = []

    async def chat() -> None:
        replica_of(local).subscribe(events.append)
        for payload in ("", "no JSON", "[]", "null", "{}", '{"owner": [1]}', '"x"', "[" * 7000):
            await asyncio.to_thread(execute, url, f"NOTIFY {CHANNEL}, '{payload}'")
        await asyncio.to_thread(execute, url, f"NOTIFY {CHANNEL}, '{to_json(LAST)}'")
        await wait_until(lambda: LAST in events)

    run(chat())
    assert None not in events


def test_thread_goes_on_after_the_event_loop_has_ended(replicas: Replicas, url: str) -> None:
    local, remote = replicas
    events: list[ReplicaEvent | None] = []

    async def subscribe() -> None:
        local.subscribe()

    async def subscribe_again() -> None:
        replica_of(local).subscribe(events.append)
        replica_of(remote).publish(LAST)
        await wait_until(lambda: LAST in events)

    run(subscribe())
    with psycopg.connect(url, autocommit=True) as listening:
        listening.execute(f"LISTEN {CHANNEL}")
        remote.tab_sessions.notify_changed(ANNA)
        assert list(listening.notifies(timeout=SECONDS, stop_after=1))
    run(subscribe_again())


def test_events_of_owners_with_lone_surrogates() -> None:
    event = ReplicaEvent(owner_digest("account:\ud83d"), "c" * 100)
    assert from_json(to_json(event)) == event
    assert replace(event, stop="") != event
