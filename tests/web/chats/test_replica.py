"""Several servers on one PostgreSQL: who lives, what they tell each other, and what a kill or an
outage leaves."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from model.types import Sampling
from tests.fake import FakeEngine, echo, fake_manager
from tests.web.postgres import PASSWORD, PostgresServer, cut_off, do, rows
from web.chats import replica as replica_module
from web.chats.backoff import JITTER, Backoff
from web.chats.deadline import BoundedConnection
from web.chats.errors import ReplyBusyError, StoreError
from web.chats.identity import Owner
from web.chats.keeping import Keeping, open_store
from web.chats.news import News, Nobody, read, whose, written
from web.chats.postgres import NOTICED, Postgres
from web.chats.records import ChatMessage, ChatSettings, State
from web.chats.replica import CHANNEL, STAY, Replica
from web.chats.replies import Replies
from web.chats.talk import Talk
from web.chats.visits import Visit, Visits
from web.ui import watching

CHECKOUT = Path(__file__).parents[3]
ANNA = "browser:anna"
GREEDY = ChatSettings(sampling=Sampling(temperature=0))
Open = Callable[[], Keeping]
SECONDS = 30.0  # a bound, not a measure


@pytest.fixture
def opened(url: str) -> Iterator[Open]:
    """Each call is another replica of the program."""
    with ExitStack() as stack:

        def one() -> Keeping:
            keeping = open_store(Path("unused"), url)
            stack.callback(keeping.close)
            return keeping

        yield one


class World:
    """A replica, as far as its chats go, with a tab of Anna's."""

    def __init__(self, keeping: Keeping, engine: FakeEngine) -> None:
        self.keeping, self.store, self.engine = keeping, keeping.store, engine
        self.manager = fake_manager(engine)
        self.manager.wait()
        self.visits = Visits(keeping.others)
        self.replies = Replies(
            self.manager, self.store, keeping.lock.id, self.visits.changed, lambda *_: None,
            self.visits.saved, keeping.others,
        )  # fmt: skip
        self.talk = Talk(
            self.manager, self.store, self.visits, self.replies, mend=keeping.mend
        )  # fmt: skip
        self.visit = self.visits.of("tab", Owner(ANNA))
        self.url = ""

    def follow(self) -> None:
        self.visits.follow(self.talk.hear)

    @property
    def last(self) -> ChatMessage:
        talk = self.talk.conversation(self.visit)
        assert talk
        assert talk.last
        return talk.last

    async def news(self) -> None:
        """Until the tab has something to draw."""
        await self.visit.changed.wait()
        self.visit.changed.clear()


@pytest.fixture
def worlds(opened: Open, url: str) -> Iterator[tuple[World, World]]:
    pair = World(opened(), FakeEngine(echo, ticking=True)), World(opened(), FakeEngine(echo))
    for one in pair:
        one.url = url
    yield pair
    for one in pair:
        one.manager.close()


def run(coroutine: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(coroutine, 2 * SECONDS)

    asyncio.run(bounded())


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def streaming(keeping: Keeping, server: str) -> tuple[str, Callable[[], State]]:
    """A chat with a reply that a server writes, and how that one is."""
    chat = keeping.store.create(ANNA, "title", GREEDY).id
    message = ChatMessage(f"a-{chat}", None, "assistant", "half", State.STREAMING)
    keeping.store.add(ANNA, chat, message, server)
    return message.id, lambda: keeping.store.message(ANNA, message.id)[1].state


def test_who_lives(opened: Open, server: PostgresServer) -> None:
    a, b = opened(), opened()
    for one in (a, b):
        assert one.lock.alive(a.lock.id)
        assert one.lock.alive(b.lock.id)
        for nobody in ("", "x", "0" * 32, "f" * 32, a.lock.id[::-1]):
            assert not one.lock.alive(nobody)
    elsewhere = open_store(Path("unused"), server.database())
    assert not elsewhere.lock.alive(a.lock.id)
    elsewhere.close()
    _, state = streaming(a, b.lock.id)
    a.mend()
    assert state() is State.STREAMING
    b.lock.release()
    assert not a.lock.alive(b.lock.id)
    a.mend()
    assert state() is State.INTERRUPTED


REPLY = """
import asyncio, sys
from pathlib import Path
from web.chats.keeping import open_store
from web.chats.records import ChatMessage, ChatSettings, State

keeping = open_store(Path("unused"), sys.argv[1])
chat = keeping.store.create("browser:anna", "title", ChatSettings()).id
message = ChatMessage("a", None, "assistant", "", State.STREAMING)
keeping.store.add("browser:anna", chat, message, keeping.lock.id)
keeping.store.save_text("a", "床前", keeping.lock.id)
print(keeping.lock.id, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_server_s_reply_is_interrupted(opened: Open, url: str) -> None:
    """In the other's eyes, at once, and it does not have to start anew for that."""
    here = opened()
    child = subprocess.Popen(
        [sys.executable, "-c", REPLY, url], cwd=CHECKOUT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with child:
        assert child.stdout
        there = child.stdout.readline().strip()
        assert here.lock.alive(there)
        here.mend()
        assert here.store.message(ANNA, "a")[1].state is State.STREAMING
        child.send_signal(signal.SIGKILL)
        child.wait(SECONDS)
        until(lambda: not here.lock.alive(there))
    here.mend()
    reply = here.store.message(ANNA, "a")[1]
    assert (reply.state, reply.text) == (State.INTERRUPTED, "床前")


def test_a_lost_lock_is_taken_again(
    opened: Open,
    url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    a, b = opened(), opened()
    name, state = streaming(a, a.lock.id)
    for _ in range(3):
        cut_off(url)
        until(lambda: b.lock.alive(a.lock.id) and a.lock.alive(b.lock.id))
    b.mend()
    a.store.save_text(name, "more", a.lock.id)
    assert state() is State.STREAMING
    assert "answers again" in caplog.text
    assert PASSWORD not in caplog.text


def test_a_lock_that_its_last_connection_still_holds(url: str) -> None:
    """As after a connection that one side alone has seen the end of."""
    home = Postgres(url)
    replica = Replica(home)
    try:
        with pytest.raises(psycopg.OperationalError, match="still holds the lock"):
            replica._connected()
        assert replica.alive(replica.id)
    finally:
        replica.release()
        home.close()


def test_a_restart_in_the_middle(
    opened: Open,
    back: PostgresServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Both servers are known again; what the living one wrote meanwhile is not lost, though the
    other one took it for dead."""
    a, b = opened(), opened()
    name, state = streaming(a, a.lock.id)
    other, other_state = streaming(a, a.lock.id)
    back.stop()
    for deed in (a.mend, lambda: a.store.save_text(name, "lost", a.lock.id)):
        with pytest.raises(StoreError, match="does not answer"):
            deed()
    back.start()
    b.store.interrupt(lambda server: False)  # as if it had looked before the lock was taken again
    assert state() is other_state() is State.INTERRUPTED
    a.store.save_text(name, "床前明月", a.lock.id)
    assert state() is State.STREAMING
    done = ChatMessage(other, None, "assistant", "all of it", State.DONE)
    a.store.finish(done, a.lock.id)
    assert other_state() is State.DONE
    until(lambda: b.lock.alive(a.lock.id) and a.lock.alive(b.lock.id))
    b.mend()
    assert state() is State.STREAMING
    assert b.store.message(ANNA, name)[1].text == "床前明月"
    assert "Traceback" not in caplog.text
    assert PASSWORD not in caplog.text


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
        while there.last.state is not State.DONE:
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
        assert there.last.state is State.STREAMING
        there.talk.stop(there.visit)
        while there.last.state is State.STREAMING:
            await there.news()
        assert there.last.state is State.STOPPED

    run(chat())
    assert here.last.text == "base heard: "


class Layout:
    """What a tab's chats are drawn in."""

    log, sidebar, meter = "log", "sidebar", "meter"


def test_a_tab_whose_replica_died(
    worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody told it, so it streamed for ever."""
    monkeypatch.setattr(watching, "AFAR_SECONDS", 0.05)
    here, there = worlds
    name, state = streaming(here.keeping, there.keeping.lock.id)
    here.visit.chat = here.store.message(ANNA, name)[0]
    watcher = watching.Watcher(here.talk, None, Layout())  # type: ignore[arg-type]

    async def look() -> None:
        async with aclosing(watcher.watch(here.visit)) as updates:
            for _ in range(2):  # no meter in between, which takes a tokenizer's time
                assert set(await anext(updates)) == {"log", "sidebar"}
            there.keeping.lock.release()
            while state() is State.STREAMING:
                await anext(updates)
            assert "meter" in await anext(updates)

    run(look())


def test_stop_where_nobody_is_left_to_stop(worlds: tuple[World, World]) -> None:
    here, there = worlds
    name, state = streaming(here.keeping, there.keeping.lock.id)
    here.visit.chat = here.store.message(ANNA, name)[0]
    here.visit.changed.clear()
    there.keeping.lock.release()
    here.talk.stop(here.visit)
    assert here.visit.changed.is_set()
    assert state() is State.INTERRUPTED


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
        assert done.state is State.DONE
        there.talk.send(there.visit, "and now", GREEDY)
        with pytest.raises(ReplyBusyError):
            here.replies.go_on(ANNA, chat, done, GREEDY)
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
    assert here.last.state is State.STOPPED


def test_a_stop_that_comes_late(
    worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is meant for one reply, and not for ever."""
    here, there = worlds
    heard: list[News | None] = []

    async def chat() -> None:
        here.talk.send(here.visit, "hello", GREEDY)
        chat = here.visit.chat or ""
        here.talk.hear(News(whose(ANNA), chat, "an earlier one"))
        (reply,) = here.replies.in_chat(chat)
        assert not reply.stopped
        here.keeping.others.follow(heard.append)
        monkeypatch.setattr(replica_module, "STOP_SECONDS", -1.0)
        there.replies.stop(ANNA, chat)
        there.keeping.others.tell(News("last"))
        while News("last") not in heard:
            await asyncio.sleep(0.01)
        here.talk.hear(News(whose(ANNA), chat, reply.message.id))
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
    heard: list[News | None] = []

    async def chat() -> None:
        here.keeping.others.follow(heard.append)
        there.keeping.others.tell(News("x" * 9000))
        while "takes no news" not in caplog.text:
            await asyncio.sleep(0.01)
        there.keeping.others.tell(News("good"))
        while News("good") not in heard:
            await asyncio.sleep(0.01)

    run(chat())
    assert replica._connection is connection
    assert "does not answer" not in caplog.text


def test_pauses_grow() -> None:
    """All replicas came back in the same moment, and at once."""
    backoff = Backoff(1.0, 4.0)
    for _ in range(2):
        for usual in (1, 2, 4, 4, 4):
            assert usual * (1 - JITTER) <= backoff.pause() <= usual * (1 + JITTER)
        backoff.reset()
    assert len({backoff.pause() for _ in range(9)}) == 9


def test_connections_that_do_not_hold(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(Backoff, "pause", lambda self: pauses.append(self._next) or 0.0)

    def failing(self: Replica, connection: BoundedConnection) -> None:
        raise psycopg.OperationalError("lost")

    home = Postgres(url)
    monkeypatch.setattr(Replica, "_serve", failing)
    monkeypatch.setattr(Replica, "_regain", lambda self: None)
    replica = Replica(home)
    try:
        until(lambda: len(pauses) > 5)
    finally:
        replica.release()
        home.close()


def test_who_hears_for_long_is_not_idle(
    opened: Open, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL, or a router between, may cut off whoever says nothing."""
    monkeypatch.setattr(replica_module, "READ_SECONDS", 0.01)
    do(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET idle_session_timeout = '1h'")
    replica = opened().lock
    assert isinstance(replica, Replica)
    pid = replica._connection.info.backend_pid

    def said() -> object:
        starts = dict(rows(url, "SELECT pid, query_start FROM pg_stat_activity"))
        return starts[pid]

    before = said()
    until(lambda: said() != before)
    replica.release()
    home = Postgres(url)
    connection = home.connect()
    connection.execute(STAY)
    assert connection.execute("SHOW idle_session_timeout").fetchone() == ("0",)
    connection.execute(NOTICED)
    assert connection.execute("SHOW tcp_user_timeout").fetchone() == ("25000",)
    connection.close()
    home.close()


def test_a_replica_that_cannot_be_leaves_nothing_open(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[socket.socket] = []
    pair = socket.socketpair

    def kept() -> tuple[socket.socket, ...]:
        made.extend(pair())
        return tuple(made)

    def failing(self: Replica) -> None:
        raise psycopg.OperationalError("no")

    home = Postgres(url)
    monkeypatch.setattr(replica_module.socket, "socketpair", kept)
    monkeypatch.setattr(Replica, "_connected", failing)
    with pytest.raises(StoreError):
        Replica(home)
    assert all(one.fileno() == -1 for one in made)
    home.close()


def test_what_grows_is_drawn_where_it_is_seen(worlds: tuple[World, World]) -> None:
    """Each of an owner's tabs was drawn anew three times a second, whatever it showed."""
    here, _ = worlds
    here.visit.chat = "shown"
    tab, other = here.visit, here.visits.of("other", Owner(ANNA))
    heard: list[News] = []
    here.visits._others = Telling(heard)
    here.visits.saved(ANNA, "shown")
    here.visits.changed(ANNA)
    grew, changed = heard
    assert "shown" not in written(grew)
    for news, drawn in ((grew, [True, False]), (changed, [True, True])):
        for visit in (tab, other):
            visit.changed.clear()
        received = read(written(news))
        assert received == news
        here.talk.hear(received)
        assert [visit.changed.is_set() for visit in (tab, other)] == drawn


class Telling(Nobody):
    """Keeps what is told."""

    def __init__(self, told: list[News]) -> None:
        self._told = told

    def tell(self, news: News) -> None:
        self._told.append(news)


def test_somebody_elses_reply_is_not_stopped(worlds: tuple[World, World]) -> None:
    here, there = worlds

    async def chat() -> None:
        for world in worlds:
            world.follow()
        here.talk.send(here.visit, "hello", GREEDY)
        chat = here.visit.chat or ""
        there.talk.stop(Visit(Owner("browser:eve"), chat=chat))
        there.talk.rename(there.visit, chat, "renamed")  # comes after it
        here.visit.changed.clear()
        await here.news()
        assert here.replies.count == 1
        here.engine.tick(20)
        while here.replies.count:
            await asyncio.sleep(0.01)

    run(chat())
    assert here.last.state is State.DONE


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
    heard: list[News | None] = []

    async def chat() -> None:
        here.keeping.others.follow(heard.append)
        here.keeping.others.tell(News("mine"))
        for number in range(50):
            there.keeping.others.tell(News(str(number % 3)))
        there.keeping.others.tell(News("last"))
        while News("last") not in heard:
            await asyncio.sleep(0.01)

    run(chat())
    assert {news.owner for news in heard if news} == {"0", "1", "2", "last"}


def test_nobody_s_name_is_told(worlds: tuple[World, World], url: str) -> None:
    here, _ = worlds
    with psycopg.connect(url, autocommit=True) as listening:
        listening.execute(f"LISTEN {CHANNEL}")
        here.visits.changed(ANNA)
        (heard,) = listening.notifies(timeout=SECONDS, stop_after=1)
    assert read(heard.payload) == News(whose(ANNA))
    assert "anna" not in heard.payload


def test_what_strangers_tell_is_no_harm(worlds: tuple[World, World], url: str) -> None:
    here, _ = worlds
    heard: list[News | None] = []

    async def chat() -> None:
        here.keeping.others.follow(heard.append)
        for payload in ("", "no JSON", "[]", "null", "{}", '{"owner": [1]}', '"x"', "[" * 7000):
            await asyncio.to_thread(do, url, f"NOTIFY {CHANNEL}, '{payload}'")
        await asyncio.to_thread(do, url, f"NOTIFY {CHANNEL}, '{written(News('good'))}'")
        while News("good") not in heard:
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
    news = News(whose("account:\ud83d"), "c" * 100)
    assert read(written(news)) == news
    assert replace(news, stop="") != news
