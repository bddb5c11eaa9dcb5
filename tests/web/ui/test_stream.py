"""Messages of a tab's stream: only changes, and only the visitor's own chats."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from model.translations import verbatim
from tests.fake_engine import FakeEngine
from tests.web.page_client import Caller, shown_message
from tests.web.ui.stream_page import ServePage, shows, stream_of
from web.chats.chat_list import ChatList
from web.chats.identity import Owner
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import StoreError
from web.ui import tab_stream

pytestmark = pytest.mark.usefixtures("no_fault")


def test_stream_begins_with_the_tab_and_all_that_it_shows(serve_page: ServePage) -> None:
    page = serve_page()
    with Caller(page.url) as caller:
        tab = stream_of(caller)
        tab.until(lambda tab: tab.log and tab.sidebar and page.number(lambda ui: ui.send) in
                  tab.updates())  # fmt: skip
        first, second, *_ = tab.events
        assert set(first) == {"tab", "version"}
        assert second["loaded_chat"] == ""
        assert page.service.tab_sessions.get(caller.tab or "", Owner("x")).lost
        assert tab.log["messages"] == tab.sidebar["chats"] == []
        assert len(tab.log["suggestions"]) == 3


def test_stream_opens_the_chat_of_the_address_before_it_names_the_tab(
    serve_page: ServePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that was sent before that began another chat."""
    page = serve_page()
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
        assert (shown_message(answer), answer.json()["chat"]) == ("", chat)
        again.until(lambda tab: len(tab.texts) == 4)
        assert again.events[1]["loaded_chat"] == chat
        assert again.log["language"] == "zh"
        again.close()


@pytest.mark.parametrize("chat", ["nonsense", "%00", "%ed%a0%80", "x" * 300, "others"])
def test_stream_refuses_a_chat_that_is_not_the_visitor_s(serve_page: ServePage, chat: str) -> None:
    page = serve_page()
    with Caller(page.url) as anna:
        anna.begin("secret")
        name = anna.form["loaded_chat"] if chat == "others" else chat
        with Caller(page.url, chat=name) as mallory:
            tab = stream_of(mallory)
            tab.until(lambda tab: tab.log and tab.sidebar)
            assert len(chat) > 100 or tab.events[1]["say"].startswith("This chat does not exist")
            assert tab.log["chat"] is None
            anna.begin("more that is secret")
            shown_message(mallory.call("new_chat"))
            assert "secret" not in json.dumps(tab.events)


def test_stream_sends_only_changes(serve_page: ServePage) -> None:
    """A long chat was sent again with each message."""
    page = serve_page()
    with Caller(page.url) as caller:
        tab = stream_of(caller)
        caller.begin("one")
        caller.begin("two")
        tab.until(shows("base heard: two "))
        assert tab.texts == ["one", "base heard: one ", "two", "base heard: two "]
        first, *_ = (message["id"] for message in tab.log["messages"])
        changes = [set(event["log"]["messages"]["changed"])
                for event in tab.events if "log" in event]  # fmt: skip
        assert sum(first in ids for ids in changes) == 1
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


def test_stream_live_sends_additions(serve_page: ServePage) -> None:
    """Neither the chat, nor the reply from its beginning."""
    engine = FakeEngine(lambda p, r: ["x" * 10_000, *["and on "] * 20], ticking=True)
    page = serve_page(engine)
    with Caller(page.url) as caller:
        tab = stream_of(caller)
        assert shown_message(caller.send("go")) == ""
        engine.tick()
        tab.until(lambda tab: "x" * 10_000 in tab.live.values())
        count = len(tab.events)
        for n in range(1, 4):
            engine.tick()
            tab.until(lambda tab, n=n: "x" * 10_000 + "and on " * n in tab.live.values())
        fresh = [event for event in tab.events[count:] if "live" in event]
        assert [event["live"] for event in fresh] == [[[1, "and on "]]] * 3
        # A tab that the visitor opens later gets the full text.
        later = caller.open(f"?chat={caller.form['loaded_chat']}")
        later.until(lambda tab: tab.live == stream_of(caller).live)
        tabs = (tab, later)
        for one in tabs:
            one.until(lambda one: len(one.texts) == 2)  # no log is being sent any more
        counts = [len(one.received) for one in tabs]
        engine.tick(30)
        for one, count in zip(tabs, counts, strict=True):
            one.until(shows("x" * 10_000 + "and on " * 20))
            logs = [text for text in one.received[count:] if '"log"' in text]
            assert 0 < max(map(len, logs)) < 5_000  # without the text that the tab has
        later.close()


def test_stream_tabs_of_one_visitor_show_the_same_chats(serve_page: ServePage) -> None:
    page = serve_page()
    with Caller(page.url) as caller, Caller(page.url) as other:
        second = caller.open()
        second.until(lambda tab: tab.sidebar)
        caller.begin("hello")
        second.until(lambda tab: [chat["title"] for chat in tab.sidebar["chats"]] == ["hello"])
        assert second.log["chat"] is None
        shown_message(other.call("new_chat"))
        assert stream_of(other).sidebar.get("chats", []) == []
        second.close()


def test_stream_recovers_when_the_store_can_be_read_again(
    serve_page: ServePage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tab_stream, "RETRY_SECONDS", 0.05)
    page = serve_page()
    with Caller(page.url) as caller:
        tab = stream_of(caller)
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
