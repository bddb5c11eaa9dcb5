"""What a tab is sent: little, in time, and only what is its visitor's."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket as sockets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model.serving.adapter_folders import Adapter
from model.translations import verbatim
from tests.fake import ADAPTERS, FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from tests.web.page_client import Caller, Stream, said
from web import server
from web.access import AccessPolicy
from web.chats import tab_sessions
from web.chats.chat_list import ChatList
from web.chats.chat_service import ChatService
from web.chats.identity import Owner
from web.chats.reply_generator import ReplyGenerator
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import StoreError
from web.chats.store.models import ChatSettings
from web.chats.tab_sessions import TabSessions
from web.listen_socket import bind
from web.public_link.limits import LinkRules, PublicLink
from web.ui import model_watcher, stream
from web.ui.layout import Layout
from web.ui.model_watcher import ModelWatcher
from web.ui.page import build_page
from web.ui.service import PageService
from web.ui.stream import CROWD_SECONDS, UPDATE_SECONDS, Tab
from web.workers import Workers

SECONDS = 30.0  # a bound, not a measure
MAX_PER_SECOND = 20


class Page:
    """A page that is served, and what is behind it."""

    def __init__(self, url: str, service: PageService, engine: FakeEngine) -> None:
        self.url, self.service, self.engine = url, service, engine

    def number(self, component: Callable[[Layout], Any]) -> int:
        """What a control is known by."""
        layout = self.service.layout
        return layout.controls.components.index(component(layout))


Serve = Callable[..., Page]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Serve]:
    """Serves a page; arguments are for `serving`."""
    built: list[PageService] = []
    build = PageService.build

    def keep(*args: Any) -> PageService:
        built.append(build(*args))
        return built[-1]

    monkeypatch.setattr(server.PageService, "build", keep)
    with ExitStack() as stack:

        def served(engine: FakeEngine | None = None, adapters: Any = ADAPTERS, **more: Any) -> Page:
            engine = engine or FakeEngine(echo)
            manager = fake_manager(engine, adapters=adapters)
            manager.wait()
            url = stack.enter_context(serving(manager, data=tmp_path, **more))
            return Page(url, built[-1], engine)

        yield served


@pytest.fixture(autouse=True)
def no_fault(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    caplog.set_level(logging.WARNING)
    yield
    assert [record for record in caplog.records if record.exc_info] == []
    assert "Traceback" not in capfd.readouterr().err


def own(caller: Caller) -> Stream:
    assert caller.stream
    return caller.stream


def shows(text: str) -> Callable[[Stream], bool]:
    return lambda tab: tab.texts[-1:] == [text]


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_stream_begins_with_the_tab_and_all_that_it_shows(serve: Serve) -> None:
    page = serve()
    with Caller(page.url) as caller:
        tab = own(caller)
        tab.until(lambda tab: tab.log and tab.sidebar and page.number(lambda ui: ui.send) in
                  tab.updates())  # fmt: skip
        first, second, *_ = tab.events
        assert set(first) == {"tab", "version"}
        assert second["loaded_chat"] == ""
        assert page.service.tab_sessions.get(caller.tab or "", Owner("x")).lost
        assert tab.log["messages"] == tab.sidebar["chats"] == []
        assert len(tab.log["suggestions"]) == 3


def test_stream_opens_the_chat_of_the_address_before_it_names_the_tab(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that was sent in between began another chat."""
    page = serve()
    with Caller(page.url) as caller:
        caller.begin("hello")
        chat = caller.form["loaded_chat"]
        opened = ChatList.open

        def slowly(*args: Any) -> Any:
            time.sleep(0.3)
            return opened(*args)

        monkeypatch.setattr(ChatList, "open", slowly)
        again = caller.open(f"?language=zh&chat={chat}")
        again.until(lambda tab: tab.tab)
        caller.tab = again.tab
        answer = caller.send("and on")
        assert (said(answer), answer.json()["chat"]) == ("", chat)
        again.until(lambda tab: len(tab.texts) == 4)
        assert again.events[1]["loaded_chat"] == chat
        assert again.log["language"] == "zh"
        again.close()


@pytest.mark.parametrize("chat", ["nonsense", "%00", "%ed%a0%80", "x" * 300, "others"])
def test_stream_of_a_chat_that_is_not_the_visitor_s(serve: Serve, chat: str) -> None:
    page = serve()
    with Caller(page.url) as anna:
        anna.begin("secret")
        name = anna.form["loaded_chat"] if chat == "others" else chat
        with Caller(page.url, chat=name) as mallory:
            tab = own(mallory)
            tab.until(lambda tab: tab.log and tab.sidebar)
            assert len(chat) > 100 or tab.events[1]["say"].startswith("This chat does not exist")
            assert tab.log["chat"] is None
            anna.begin("more that is secret")
            said(mallory.call("new_chat"))
            assert "secret" not in json.dumps(tab.events)


def test_stream_sends_what_has_changed_alone(serve: Serve) -> None:
    """A long chat was sent anew with each message."""
    page = serve()
    with Caller(page.url) as caller:
        tab = own(caller)
        caller.begin("one")
        caller.begin("two")
        tab.until(shows("base heard: two "))
        assert tab.texts == ["one", "base heard: one ", "two", "base heard: two "]
        first, *_ = (message["id"] for message in tab.log["messages"])
        told = [set(event["log"]["messages"]["changed"])
                for event in tab.events if "log" in event]  # fmt: skip
        assert sum(first in ids for ids in told) == 1
        chats = [set(event["sidebar"]["chats"]["changed"])
                 for event in tab.events if "sidebar" in event]  # fmt: skip
        caller.call("new_chat")
        caller.begin("three")
        tab.until(lambda tab: len(tab.sidebar["chats"]) == 2 and shows("base heard: three ")(tab))
        assert all(len(ids) <= 1 for ids in chats)
        count = len(tab.events)
        caller.call("rename", id=caller.form["loaded_chat"], title="another")
        tab.until(lambda tab: tab.sidebar["chats"][0]["title"] == "another")
        for event in tab.events[count:]:
            if "log" in event:
                assert event["log"]["messages"]["changed"] == {}
                assert len(event["sidebar"]["chats"]["changed"]) == 1


def test_stream_live_sends_additions(serve: Serve) -> None:
    """Not the chat, nor the reply from its beginning."""
    engine = FakeEngine(lambda p, r: ["x" * 10_000, *["and on "] * 20], ticking=True)
    page = serve(engine)
    with Caller(page.url) as caller:
        tab = own(caller)
        assert said(caller.send("go")) == ""
        engine.tick()
        tab.until(lambda tab: "x" * 10_000 in tab.live.values())
        count = len(tab.events)
        for n in range(1, 4):
            engine.tick()
            tab.until(lambda tab, n=n: "x" * 10_000 + "and on " * n in tab.live.values())
        fresh = [event for event in tab.events[count:] if "live" in event]
        assert [event["live"] for event in fresh] == [[[1, "and on "]]] * 3
        # Another tab of the visitor's, that comes later, has all of it.
        later = caller.open(f"?chat={caller.form['loaded_chat']}")
        later.until(lambda tab: tab.live == own(caller).live)
        tabs = (tab, later)
        for one in tabs:
            one.until(lambda one: len(one.texts) == 2)  # no log is on its way any more
        counts = [len(one.received) for one in tabs]
        engine.tick(30)
        for one, count in zip(tabs, counts, strict=True):
            one.until(shows("x" * 10_000 + "and on " * 20))
            logs = [text for text in one.received[count:] if '"log"' in text]
            assert 0 < max(map(len, logs)) < 5_000  # without the text that the tab has
        later.close()


def test_stream_controls_are_sent_when_they_are_news(serve: Serve) -> None:
    page = serve()
    snippet = page.number(lambda ui: ui.settings.shelf.snippet)
    meter = page.number(lambda ui: ui.meter)
    with Caller(page.url) as caller:
        tab = own(caller)
        tab.until(lambda tab: snippet in tab.updates() and meter in tab.updates())
        count = len(tab.events)
        assert said(caller.call("language", language="en")) == ""
        assert said(caller.call("save_snippet", name="mine", message="text")) == ""
        tab.until(lambda tab: "mine" in json.dumps(tab.updates()[snippet]))
        told = [number for event in tab.events[count:] for number, _ in event.get("controls", [])]
        assert set(told) - {meter} == {snippet}


def test_stream_labels_follow_the_language_of_the_tab(serve: Serve) -> None:
    page = serve()
    send = page.number(lambda ui: ui.send)
    with Caller(page.url) as caller:
        tab = own(caller)
        other = caller.open("?language=zh")
        tab.until(lambda tab: tab.updates().get(send) == {"value": "Send"})
        other.until(lambda tab: tab.updates().get(send) == {"value": "发送"})
        assert said(caller.call("language", language="zh")) == ""
        tab.until(lambda tab: tab.updates().get(send) == {"value": "发送"})
        tab.until(lambda tab: tab.log["language"] == "zh")
        caller.call("language", language="en")
        tab.until(lambda tab: tab.updates().get(send) == {"value": "Send"})
        assert other.updates()[send] == {"value": "发送"}
        other.close()
        unknown = caller.open("?language=xx")
        unknown.until(lambda tab: tab.updates().get(send) == {"value": "Send"})
        unknown.close()


def test_stream_a_drop_down_that_offers_less_is_hidden_first(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradio's list, while it is open, fails over what is missing, and never opens again."""
    monkeypatch.setattr(model_watcher, "LOOK_SECONDS", 0.05)
    adapters: list[Adapter] = list(ADAPTERS)
    page = serve(adapters=adapters)
    number = page.number(lambda ui: ui.adapter)
    with Caller(page.url) as caller:
        tab = own(caller)
        offered = lambda tab: [name for _, name in tab.updates()[number]["choices"]]  # noqa: E731
        tab.until(lambda tab: "choices" in tab.updates().get(number, {}))
        tab.until(lambda tab: offered(tab) == ["", "pirate", "linly", "torn"])
        count = len(tab.events)
        del adapters[1:]
        tab.until(lambda tab: offered(tab) == ["", "pirate"])
        frames = [dict(map(tuple, event["controls"])) for event in tab.events[count:]
                  if number in dict(map(tuple, event.get("controls", [])))]  # fmt: skip
        hidden, shown = frames
        assert hidden[number] == {"visible": False}
        assert shown[number]["visible"] is True
        count = len(tab.events)
        adapters.extend(ADAPTERS[1:])
        tab.until(lambda tab: offered(tab) == ["", "pirate", "linly", "torn"])
        frames = [dict(map(tuple, event["controls"])) for event in tab.events[count:]
                  if number in dict(map(tuple, event.get("controls", [])))]  # fmt: skip
        assert [frame[number].get("visible") for frame in frames] == [None]


def test_stream_gives_signs_of_life(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BEAT_SECONDS", 0.1)
    page = serve()
    with Caller(page.url) as caller:
        own(caller).until(lambda tab: sum("beat" in event for event in tab.events) > 3)


def test_stream_of_a_client_that_takes_nothing_is_ended(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves the visitor's other tabs alone."""
    monkeypatch.setattr(stream, "SEND_SECONDS", 0.5)
    page = serve()
    chat = {"messages": [{"role": "user", "content": "x" * 1_500_000}] * 3}
    with Caller(page.url) as caller, Caller(page.url) as other:
        assert said(caller.adopt(json.dumps(chat))) == ""
        own(caller).until(lambda tab: tab.log.get("messages"))
        number = own(caller).log["chat"]
        slow = sockets.create_connection(("127.0.0.1", int(page.url.rpartition(":")[2])), 30)
        slow.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        head = (
            f"GET /page/events?chat={number} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: {caller.cookies['Cookie']}\r\n"
        )
        slow.sendall(f"{head}\r\n".encode())
        until(lambda: len(page.service.tab_sessions) == 3)
        caller.begin("hello")
        own(caller).until(shows("base heard: hello "))
        other.begin("hi")
        until(lambda: len(page.service.tab_sessions) == 2)
        slow.close()


def test_stream_store_that_fails_and_comes_back(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream, "RETRY_SECONDS", 0.05)
    page = serve()
    with Caller(page.url) as caller:
        tab = own(caller)
        caller.begin("hello")
        tab.until(shows("base heard: hello "))
        with monkeypatch.context() as patch:

            def gone(*args: Any) -> None:
                raise StoreError(verbatim("The chats cannot be read: the disk is gone"))

            patch.setattr(ChatStore, "chats", gone)
            caller.call("language", language="zh")
            tab.until(lambda tab: "the disk is gone" in tab.log.get("empty", ""))
            assert tab.texts == []
        tab.until(shows("base heard: hello "))
        assert tab.log["language"] == "zh"


@pytest.mark.parametrize("error", [ValueError, RuntimeError, OSError])
def test_stream_that_fails_is_ended_and_told_of(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:  # fmt: skip
    """Whatever it is, it must not look like a client that has gone."""
    page = serve()
    with Caller(page.url) as caller:
        own(caller).until(lambda tab: tab.sidebar)

        def broken(*args: Any) -> None:
            raise error("a fault")

        with monkeypatch.context() as patch:
            patch.setattr(stream, "sidebar_value", broken)
            caller.call("new_chat")
            own(caller).ended()
        assert [record.message for record in caplog.records] == ["The stream of a tab failed"]
        caplog.clear()
        again = caller.open()
        again.until(lambda tab: tab.sidebar)
        again.close()


def test_stream_too_many_tabs(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tab_sessions, "MAX_TABS_OF_VISITOR", 2)
    page = serve()
    with Caller(page.url) as caller, Caller(page.url) as other:
        second = caller.open()
        second.until(lambda tab: tab.tab)
        for language, reason in (
            ("en", "You have too many tabs of this page open. Close some."),
            ("zh", "你打开的本页标签页太多。请关闭一些。"),
        ):
            third = caller.open(f"?language={language}")
            assert third.ended() == 4429
            assert third.socket.protocol.close_reason == reason
            assert third.events == []
        assert said(other.send("hello")) == ""
        second.close()
        until(lambda: len(page.service.tab_sessions) == 2)
        third = caller.open()
        third.until(lambda tab: tab.tab)
        third.close()


@pytest.mark.parametrize("how", ["close", "gone"])
def test_stream_that_is_closed_leaves_nothing(serve: Serve, how: str) -> None:
    page = serve()
    with Caller(page.url) as caller:
        for _ in range(3):
            tab = caller.open()
            tab.until(lambda tab: tab.sidebar)
            if how == "close":
                tab.close()
            else:
                tab.socket.socket.shutdown(sockets.SHUT_RDWR)
        until(lambda: len(page.service.tab_sessions) == 1)
        found = page.service.tab_sessions.get(tab.tab, Owner("x"))
        assert found.lost
    until(lambda: len(page.service.tab_sessions) == 0)
    assert page.service.tab_sessions._counts == {}
    until(lambda: page.service.watch._task is None or page.service.watch._task.done())


@pytest.mark.parametrize("message", ["hello", b"\x00\xff", ""])
def test_stream_a_client_has_nothing_to_say(serve: Serve, message: str | bytes) -> None:
    """A message of bytes left a stack trace in the terminal."""
    page = serve()
    with Caller(page.url) as caller:
        own(caller).socket.send(message)
        assert own(caller).ended() == 1008
        big = caller.open()
        big.socket.send(b"x" * 5_000)
        assert big.ended() in (1008, 1009)


def test_stream_of_a_guest_ends_with_the_link(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BEAT_SECONDS", 0.1)
    tunnel = bind("127.0.0.1", 0)
    port = tunnel.getsockname()[1]
    public = PublicLink(LinkRules(), lambda: None)
    page = serve(access=AccessPolicy(link_port=port), link=tunnel, public=public)
    with Caller(f"http://127.0.0.1:{port}") as guest, Caller(page.url) as local:
        own(guest).until(lambda tab: tab.sidebar)
        public.until = 0.0  # its time is over
        assert own(guest).ended() == 4410
        local.begin("hello")
        own(local).until(shows("base heard: hello "))


def test_stream_tabs_of_one_visitor_show_the_same_chats(serve: Serve) -> None:
    page = serve()
    with Caller(page.url) as caller, Caller(page.url) as other:
        second = caller.open()
        second.until(lambda tab: tab.sidebar)
        caller.begin("hello")
        second.until(lambda tab: [chat["title"] for chat in tab.sidebar["chats"]] == ["hello"])
        assert second.log["chat"] is None
        said(other.call("new_chat"))
        assert own(other).sidebar.get("chats", []) == []
        second.close()


class Socket:
    """A tab's, that takes what is sent when it is let."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, dict[str, Any]]] = []
        self.takes = asyncio.Event()
        self.takes.set()

    async def send_text(self, text: str) -> None:
        message = json.loads(text)
        event = {"live": message} if isinstance(message, list) else message
        self.sent.append((asyncio.get_running_loop().time(), event))
        await self.takes.wait()

    async def close(self, code: int) -> None:
        pass


class Behind:
    """What is behind a tab, without a server."""

    def __init__(self, path: Path) -> None:
        self.engine = FakeEngine(lambda p, r: ["word "] * 300, ticking=True)
        self.manager = fake_manager(self.engine)
        self.manager.wait()
        self.store = ChatStore(path / "chats.sqlite3")
        self.tab_sessions = TabSessions()
        replies = ReplyGenerator(
            self.manager,
            self.store,
            "server",
            self.tab_sessions.notify_changed,
            self.tab_sessions.notify_progress,
            on_loop=self.tab_sessions.on_loop,
        )
        self.chat_service = ChatService(self.manager, self.store, self.tab_sessions, replies)
        layout = SimpleNamespace(meter="meter", controls=SimpleNamespace(encode=list))
        self.service: Any = SimpleNamespace(
            chat_service=self.chat_service, workers=Workers(), layout=layout
        )

    async def stop(self) -> None:
        for visit in self.tab_sessions:
            self.chat_service.stop(visit)
        while self.chat_service.reply_generator.count:
            await asyncio.sleep(0.01)


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Behind]:
    made = Behind(tmp_path)
    yield made
    made.manager.close()
    made.store.close()


def run(coroutine: Any) -> None:
    asyncio.run(asyncio.wait_for(coroutine, SECONDS))


async def live_times(behind: Behind, visit: Any, count: int) -> list[float]:
    """When a tab is told of what streams, where there is always something new."""
    socket: Any = Socket()
    sending = asyncio.create_task(Tab(behind.service, socket, visit)._send_live())
    (reply,) = behind.chat_service.reply_generator.active_in_chat(visit.chat)
    while len(socket.sent) < count:
        reply.text += "x"
        visit.reply_changed.set()
        await asyncio.sleep(0.002)
    sending.cancel()
    return [when for when, event in socket.sent if "live" in event]


def test_stream_no_more_than_twenty_updates_a_second(behind: Behind) -> None:
    async def chat() -> None:
        behind.tab_sessions.on_loop.bind()
        visit = behind.tab_sessions.open(Owner("anna"))
        behind.chat_service.send(visit, "go", ChatSettings())
        times = await live_times(behind, visit, 9)
        assert min(b - a for a, b in itertools.pairwise(times)) >= 0.99 / MAX_PER_SECOND
        await behind.stop()

    run(chat())


def test_stream_many_replies_are_told_less_often(behind: Behind) -> None:
    """Or the page would take the cores that make them."""

    async def chat() -> None:
        behind.tab_sessions.on_loop.bind()
        tabs = [behind.tab_sessions.open(Owner(f"visitor {n}")) for n in range(20)]
        for visit in tabs:
            behind.chat_service.send(visit, "go", ChatSettings())
        times = await live_times(behind, tabs[0], 4)
        least = 0.99 * (UPDATE_SECONDS + 19 * CROWD_SECONDS)
        assert min(b - a for a, b in itertools.pairwise(times)) >= least > 3 / MAX_PER_SECOND
        await behind.stop()

    run(chat())


def test_stream_a_slow_client_misses_steps_and_no_outcome(behind: Behind) -> None:
    """Nothing is queued for it: it has what is true once it takes something again."""

    async def chat() -> None:
        behind.tab_sessions.on_loop.bind()
        visit = behind.tab_sessions.open(Owner("anna"))
        name = behind.store.create("anna", "title", ChatSettings()).id
        socket: Any = Socket()
        socket.takes.clear()
        visit.request_redraw()
        sending = asyncio.create_task(Tab(behind.service, socket, visit)._send_chats())
        while not socket.sent:
            await asyncio.sleep(0.005)
        for n in range(50):
            await asyncio.to_thread(behind.chat_service.chat_list.rename, visit, name, f"title {n}")
        assert len(socket.sent) == 1
        socket.takes.set()
        titles = lambda: [  # noqa: E731
            one["title"] for _, event in socket.sent if "sidebar" in event
            for one in event["sidebar"]["chats"]["changed"].values()
        ]  # fmt: skip
        while titles()[-1] != "title 49":
            await asyncio.sleep(0.005)
        assert len(titles()) <= 3
        sending.cancel()

    run(chat())


def test_model_watch_one_look_serves_all_tabs(
    behind: Behind, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each took a thread, of which there are few; and a disk that was gone for a moment left all
    open tabs without news."""
    monkeypatch.setattr(model_watcher, "LOOK_SECONDS", 0.01)
    looks, at_once, most, may_end = 0, 0, 0, threading.Event()
    found: list[Adapter] = []

    def look(fresh: float) -> list[Adapter]:
        nonlocal looks, at_once, most
        looks += 1
        at_once += 1
        most = max(most, at_once)
        may_end.wait(SECONDS)
        at_once -= 1
        if looks == 1:
            raise OSError("the disk is gone")
        return list(found)

    monkeypatch.setattr(behind.manager, "adapters", look)

    async def tell(tabs: list[Any]) -> None:
        for tab in tabs:
            await asyncio.wait_for(tab.controls_changed.wait(), SECONDS)
            tab.controls_changed.clear()

    async def chat() -> None:
        tabs = [behind.tab_sessions.open(Owner(f"visitor {n}")) for n in range(9)]
        watch = ModelWatcher(behind.chat_service, None)
        for _ in tabs:
            watch.begin()
        while not looks:
            await asyncio.sleep(0.005)
        may_end.set()
        await tell(tabs)
        before = looks
        while looks < before + 3:
            await asyncio.sleep(0.005)
        assert not any(tab.controls_changed.is_set() for tab in tabs)  # nothing is new
        found.extend(ADAPTERS)
        await tell(tabs)
        assert most == 1
        for tab in tabs:
            behind.tab_sessions.close(tab)
        assert watch._task
        await watch._task  # where no tab is open, nothing is looked at

    run(chat())
    assert [record.message for record in caplog.records] == ["The adapters could not be refreshed"]
    caplog.clear()


def test_page_numbers_are_the_same_for_every_tab() -> None:
    """They are how the stream and the page name a control."""
    first, second = (build_page(False, True)[1].controls.components for _ in range(2))
    assert [type(one) for one in first] == [type(one) for one in second]
    assert len(first) == len(set(first)) > 40
