"""What a tab is sent while replies stream: seldom, and little."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest
from gradio.utils import diff
from playwright.sync_api import Browser, expect
from web.ui.watching import CROWD_SECONDS, UPDATE_SECONDS, Updates, Watcher, whole

from tests.fake import FakeEngine, echo, fake_manager
from tests.web.browser import Chat
from tests.web.serving import serving
from web.chats.identity import Owner
from web.chats.records import ChatSettings
from web.chats.replies import Replies
from web.chats.store import ChatStore
from web.chats.talk import Talk
from web.chats.visits import Visits
from web.ui.chat_view import live_value

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


def test_each_update_has_every_output() -> None:
    """Also where Gradio takes out of one what it has used."""

    async def stream() -> AsyncGenerator[Updates, None]:
        yield {"log": "one", "box": {"value": 1}}
        yield {"meter": "half"}
        yield {"log": "two"}

    async def run() -> list[Updates]:
        seen = []
        async with aclosing(whole(stream())) as updates:
            async for update in updates:
                seen.append({**update, "box": dict(update["box"])})
                update["box"].clear()
        return seen

    assert asyncio.run(run()) == [
        {"log": "one", "box": {"value": 1}},
        {"log": "one", "box": {"value": 1}, "meter": "half"},
        {"log": "two", "box": {"value": 1}, "meter": "half"},
    ]


# The page hears that its streams are there when several of their updates have come already, and
# looks at all of these at once. The first one opens the line for all.
LATE = """
let first = true;
const ask = window.fetch;
window.fetch = async (...asked) => {
  const answer = await ask(...asked);
  if (!String(asked[0].url ?? asked[0]).includes('/queue/join')) return answer;
  if (!first) await new Promise((later) => setTimeout(later, 2500));
  first = false;
  return answer;
};
"""


@pytest.mark.browser
def test_a_page_that_is_too_busy_to_look(browser: Browser, tmp_path: Path) -> None:
    """What had come was lost but for the last: no chats, no reply, no adapters to choose from."""
    loading = threading.Event()
    manager = fake_manager(FakeEngine(echo), loading)
    with serving(manager, data=tmp_path) as url, browser.new_context() as context:
        context.add_init_script(LATE)
        page = context.new_page()
        threading.Timer(1.5, loading.set).start()
        chat = Chat(page).open(url)
        expect(chat.sidebar).to_contain_text("Your chats will be here")
        expect(page.locator("#status")).to_contain_text("fake-base")
        chat.choose("Adapter", "● pirate")
        chat.ask("hello")
        expect(chat.log).to_contain_text("pirate heard: hello")
        expect(page.locator("#meter")).not_to_be_empty()
        assert chat.complaints == []
