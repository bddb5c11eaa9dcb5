"""What a tab is sent while replies stream: seldom, and little."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest
from gradio.utils import diff

from tests.fake import FakeEngine, fake_manager
from web.chats.identity import Owner
from web.chats.records import ChatSettings
from web.chats.replies import Replies
from web.chats.store import ChatStore
from web.chats.talk import Talk
from web.chats.visits import Visits
from web.ui.chat_view import live_value
from web.ui.watching import CROWD_SECONDS, UPDATE_SECONDS, Watcher

MOST_A_SECOND = 20


class _Layout:
    """Only `live` is drawn here."""

    live = "live"


@dataclass
class _Tab:
    talk: Talk
    watcher: Watcher
    visits: Visits


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[_Tab]:
    manager = fake_manager(FakeEngine(lambda p, r: ["word "] * 300, ticking=True))
    manager.wait()
    store = ChatStore(tmp_path / "chats.sqlite3")
    visits = Visits()
    replies = Replies(manager, store, "server", visits.changed, visits.spoke)
    talk = Talk(manager, store, visits, replies)
    yield _Tab(talk, Watcher(talk, None, _Layout()), visits)  # type: ignore[arg-type]
    manager.close()
    store.close()


def test_no_more_than_twenty_updates_a_second(tab: _Tab) -> None:
    async def run() -> None:
        visit = tab.visits.of("tab", Owner("anna"))
        tab.talk.send(visit, "go", ChatSettings())
        engine = tab.talk.manager._loader.serving().engine
        assert isinstance(engine, FakeEngine)
        loop, times = asyncio.get_running_loop(), []
        async with aclosing(tab.watcher.listen(visit)) as updates:
            async for update in updates:
                times.append(loop.time())
                engine.tick(5)
                visit.heard.set()  # there is always something new
                if "word" in json.dumps(update) and len(times) > 8:
                    break
        pauses = [after - before for before, after in itertools.pairwise(times)]
        assert min(pauses) >= 0.99 / MOST_A_SECOND
        tab.talk.stop(visit)
        while tab.talk.replies.count:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_many_replies_are_told_less_often(tab: _Tab) -> None:
    """Or the page would take the cores that make them."""

    async def run() -> None:
        visits = [
            tab.visits.of(f"tab {number}", Owner(f"visitor {number}")) for number in range(20)
        ]
        for visit in visits:
            tab.talk.send(visit, "go", ChatSettings())
        loop, times = asyncio.get_running_loop(), []
        async with aclosing(tab.watcher.listen(visits[0])) as updates:
            async for _ in updates:
                times.append(loop.time())
                visits[0].heard.set()
                if len(times) == 4:
                    break
        pauses = [after - before for before, after in itertools.pairwise(times)]
        assert min(pauses) >= 0.99 * (UPDATE_SECONDS + 19 * CROWD_SECONDS) > 3 / MOST_A_SECOND
        for visit in visits:
            tab.talk.stop(visit)
        while tab.talk.replies.count:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_one_look_at_the_adapters_serves_all_tabs(
    tab: _Tab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each took a thread, of which there are few; and a disk that was gone for a moment left all
    open tabs without news."""
    looks, done = 0, threading.Event()

    def look(fresh: float) -> None:
        nonlocal looks
        looks += 1
        done.wait(20)
        raise OSError("the disk is gone")

    monkeypatch.setattr(tab.talk.manager, "adapters", look)

    async def run() -> None:
        waiting = [asyncio.create_task(tab.watcher._look()) for _ in range(9)]
        while not looks:
            await asyncio.sleep(0.01)
        waiting[0].cancel()  # its tab is closed
        await asyncio.sleep(0.01)
        done.set()
        assert [await one for one in waiting[1:]] == [None] * 8
        assert looks == 1
        await tab.watcher._look()
        assert looks == 2

    asyncio.run(asyncio.wait_for(run(), 30))


def test_what_travels_is_what_is_new(tab: _Tab) -> None:
    """Not the chat, nor the reply from its beginning."""

    async def run() -> None:
        visit = tab.visits.of("tab", Owner("anna"))
        tab.talk.send(visit, "go", ChatSettings())
        (reply,) = tab.talk.replies.in_chat(visit.chat or "")
        reply.text = "x" * 10_000
        before = live_value([reply], 1, "en")
        reply.text += "and so on"
        edits = diff(before, live_value([reply], 2, "en"))
        assert "and so on" in json.dumps(edits)
        assert len(json.dumps(edits)) < 200
        tab.talk.stop(visit)
        while tab.talk.replies.count:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 30))
