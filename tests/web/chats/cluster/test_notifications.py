"""What replicas tell each other."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psycopg
import pytest

from tests.web.chats.world import ANNA, GREEDY, SECONDS, World, run, until
from tests.web.postgres import cut_off, do
from web.chats.cluster import postgres_replica as replica_module
from web.chats.cluster.notifications import NullBus, ReplicaEvent, from_json, owner_digest, to_json
from web.chats.cluster.postgres_replica import CHANNEL, Replica
from web.chats.identity import Owner


def test_a_stop_that_comes_late(
    worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is meant for one reply, and not for ever."""
    here, there = worlds
    heard: list[ReplicaEvent | None] = []

    async def chat() -> None:
        here.talk.send(here.visit, "hello", GREEDY)
        chat = here.visit.chat or ""
        here.talk.on_replica_event(ReplicaEvent(owner_digest(ANNA), chat, "an earlier one"))
        (reply,) = here.replies.active_in_chat(chat)
        assert not reply.stopped
        here.keeping.others.follow(heard.append)
        monkeypatch.setattr(replica_module, "STOP_SECONDS", -1.0)
        there.replies.stop(ANNA, chat)
        there.keeping.others.tell(ReplicaEvent("last"))
        while ReplicaEvent("last") not in heard:
            await asyncio.sleep(0.01)
        here.talk.on_replica_event(ReplicaEvent(owner_digest(ANNA), chat, reply.message.id))
        while here.replies.count:
            await asyncio.sleep(0.01)

    run(chat())
    assert not [news for news in heard if news and news.stop]


def test_news_that_is_refused(
    worlds: tuple[World, World], caplog: pytest.LogCaptureFixture
) -> None:
    """It was told again and again, each time on a new connection."""
    here, there = worlds
    replica = there.keeping.lock
    assert isinstance(replica, Replica)
    connection = replica._connection
    heard: list[ReplicaEvent | None] = []

    async def chat() -> None:
        here.keeping.others.follow(heard.append)
        there.keeping.others.tell(ReplicaEvent("x" * 9000))
        while "takes no news" not in caplog.text:
            await asyncio.sleep(0.01)
        there.keeping.others.tell(ReplicaEvent("good"))
        while ReplicaEvent("good") not in heard:
            await asyncio.sleep(0.01)

    run(chat())
    assert replica._connection is connection
    assert "does not answer" not in caplog.text


def test_what_grows_is_drawn_where_it_is_seen(worlds: tuple[World, World]) -> None:
    """Each of an owner's tabs was drawn anew three times a second, whatever it showed."""
    here, _ = worlds
    here.visit.chat = "shown"
    tab, other = here.visit, here.visits.open(Owner(ANNA))
    heard: list[ReplicaEvent] = []
    here.visits._others = Telling(heard)
    here.visits.notify_saved(ANNA, "shown")
    here.visits.changed(ANNA)
    grew, changed = heard
    assert "shown" not in to_json(grew)
    for news, drawn in ((grew, [True, False]), (changed, [True, True])):
        for visit in (tab, other):
            visit.changed.clear()
        received = from_json(to_json(news))
        assert received == news
        here.talk.on_replica_event(received)
        assert [visit.changed.is_set() for visit in (tab, other)] == drawn


class Telling(NullBus):
    """Keeps what is told."""

    def __init__(self, told: list[ReplicaEvent]) -> None:
        self._told = told

    def tell(self, news: ReplicaEvent) -> None:
        self._told.append(news)


def test_what_was_missed_is_looked_for(worlds: tuple[World, World], url: str) -> None:
    """While a connection is lost, nobody hears anything."""
    here, _ = worlds

    async def chat() -> None:
        here.follow()
        here.visit.changed.clear()
        await asyncio.to_thread(cut_off, url)
        await here.news()

    run(chat())


def test_news_of_others_only(worlds: tuple[World, World]) -> None:
    here, there = worlds
    heard: list[ReplicaEvent | None] = []

    async def chat() -> None:
        here.keeping.others.follow(heard.append)
        here.keeping.others.tell(ReplicaEvent("mine"))
        for number in range(50):
            there.keeping.others.tell(ReplicaEvent(str(number % 3)))
        there.keeping.others.tell(ReplicaEvent("last"))
        while ReplicaEvent("last") not in heard:
            await asyncio.sleep(0.01)

    run(chat())
    assert {news.owner for news in heard if news} == {"0", "1", "2", "last"}


def test_nobody_s_name_is_told(worlds: tuple[World, World], url: str) -> None:
    here, _ = worlds
    with psycopg.connect(url, autocommit=True) as listening:
        listening.execute(f"LISTEN {CHANNEL}")
        here.visits.changed(ANNA)
        (heard,) = listening.notifies(timeout=SECONDS, stop_after=1)
    assert from_json(heard.payload) == ReplicaEvent(owner_digest(ANNA))
    assert "anna" not in heard.payload


def test_what_strangers_tell_is_no_harm(worlds: tuple[World, World], url: str) -> None:
    here, _ = worlds
    heard: list[ReplicaEvent | None] = []

    async def chat() -> None:
        here.keeping.others.follow(heard.append)
        for payload in ("", "no JSON", "[]", "null", "{}", '{"owner": [1]}', '"x"', "[" * 7000):
            await asyncio.to_thread(do, url, f"NOTIFY {CHANNEL}, '{payload}'")
        await asyncio.to_thread(do, url, f"NOTIFY {CHANNEL}, '{to_json(ReplicaEvent('good'))}'")
        while ReplicaEvent("good") not in heard:
            await asyncio.sleep(0.01)

    run(chat())
    assert None not in heard


def test_after_the_loop_has_ended(worlds: tuple[World, World]) -> None:
    """The thread that hears must not fail over it."""
    here, there = worlds

    async def begin() -> None:
        here.follow()

    run(begin())
    there.visits.changed(ANNA)
    until(lambda: not there.keeping.others._untold)  # type: ignore[attr-defined]
    assert here.keeping.lock._thread.is_alive()  # type: ignore[attr-defined]


def test_owners_with_halves_of_characters() -> None:
    news = ReplicaEvent(owner_digest("account:\ud83d"), "c" * 100)
    assert from_json(to_json(news)) == news
    assert replace(news, stop="") != news
