"""Several servers on one PostgreSQL: who lives, what they tell each other, and what a kill or an
outage leaves."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from model.types import Sampling
from tests.fake import FakeEngine, echo, fake_manager
from tests.web.postgres import PASSWORD, PostgresServer, cut_off, do
from web.chats.errors import StoreError
from web.chats.identity import Owner
from web.chats.keeping import Keeping, open_store
from web.chats.news import News, read, whose, written
from web.chats.postgres import Postgres
from web.chats.records import ChatMessage, ChatSettings, State
from web.chats.replica import CHANNEL, Replica
from web.chats.replies import Replies
from web.chats.talk import Talk
from web.chats.visits import Visit, Visits

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
def worlds(opened: Open) -> Iterator[tuple[World, World]]:
    pair = World(opened(), FakeEngine(echo, ticking=True)), World(opened(), FakeEngine(echo))
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
