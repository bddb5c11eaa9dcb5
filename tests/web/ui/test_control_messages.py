"""Messages of a tab's stream that update controls."""

from __future__ import annotations

import json

import pytest

from model.serving.adapter_folders import Adapter
from model.translations import verbatim
from tests.fake_engine import ADAPTERS
from tests.web.page_client import Caller, Stream, shown_message
from tests.web.ui.stream_page import ServePage, stream_of
from web.chats.store.errors import StoreError
from web.chats.tab_sessions import TabSession
from web.ui import model_watcher, tab_stream
from web.ui.controls import Updates
from web.ui.page import build_page

pytestmark = pytest.mark.usefixtures("no_fault")


def test_stream_sends_only_changed_controls(serve_page: ServePage) -> None:
    page = serve_page()
    snippet = page.number(lambda ui: ui.settings.library.snippet)
    meter = page.number(lambda ui: ui.meter)
    with Caller(page.url) as caller:
        tab = stream_of(caller)
        tab.until(lambda tab: snippet in tab.updates() and meter in tab.updates())
        count = len(tab.events)
        assert shown_message(caller.call("language", language="en")) == ""
        assert shown_message(caller.call("save_snippet", name="mine", message="text")) == ""
        tab.until(lambda tab: "mine" in json.dumps(tab.updates()[snippet]))
        numbers = [
            number for event in tab.events[count:] for number, _ in event.get("controls", [])
        ]
        assert set(numbers) - {meter} == {snippet}


def test_stream_confirms_what_a_response_has_changed(serve_page: ServePage) -> None:
    """The page drops the older of two: a response may arrive after a later update."""
    page = serve_page()
    snippet = page.number(lambda ui: ui.settings.library.snippet)
    with Caller(page.url) as caller:
        tab = stream_of(caller)
        assert shown_message(caller.call("save_snippet", name="mine", message="text")) == ""
        tab.until(lambda tab: "mine" in json.dumps(tab.updates().get(snippet)))
        count = len(tab.events)
        response = caller.call("use_snippet", name="mine").json()
        assert [snippet, {"value": None}] in response["controls"]

        def orders(tab: Stream) -> list[int]:
            events = tab.events[count:]
            return [e["order"] for e in events if snippet in dict(e.get("controls", []))]

        tab.until(orders)
        assert orders(tab)[0] > response["order"]


def test_stream_confirms_once_the_store_can_be_read_again(
    serve_page: ServePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tab_stream, "RETRY_SECONDS", 0.05)
    page = serve_page()
    number = page.number(lambda ui: ui.settings.library.snippet_name)
    with Caller(page.url) as caller:
        tab = stream_of(caller)
        caller.call("save_snippet", name="mine", message="text")
        tab.until(lambda tab: "mine" in json.dumps([*tab.updates().values()]))
        count = len(tab.events)
        failures = [StoreError(verbatim("The disk is gone"))]
        all_updates = page.service.controls.all

        def fail_once(session: TabSession) -> Updates:
            if failures:
                raise failures.pop()
            return all_updates(session)

        monkeypatch.setattr(page.service.controls, "all", fail_once)
        caller.call("delete_snippet", name="mine")
        tab.until(
            lambda tab: any(number in dict(e.get("controls", [])) for e in tab.events[count:])
        )
    assert failures == []


def test_a_tab_without_a_stream_gets_no_order(serve_page: ServePage) -> None:
    """Its next stream counts anew, and sends everything."""
    page = serve_page()
    with Caller(page.url) as caller:
        stream_of(caller)
        caller.call("save_snippet", name="mine", message="text")
        caller.tab = "gone"
        response = caller.call("use_snippet", name="mine").json()
    assert (response["lost"], response["order"]) == (True, None)
    assert response["controls"]


def test_stream_labels_follow_the_language_of_the_tab(serve_page: ServePage) -> None:
    page = serve_page()
    send = page.number(lambda ui: ui.send)
    with Caller(page.url) as caller:
        tab = stream_of(caller)
        other = caller.open("?language=zh")
        tab.until(lambda tab: tab.updates().get(send) == {"value": "Send"})
        other.until(lambda tab: tab.updates().get(send) == {"value": "发送"})
        assert shown_message(caller.call("language", language="zh")) == ""
        tab.until(lambda tab: tab.updates().get(send) == {"value": "发送"})
        tab.until(lambda tab: tab.log["language"] == "zh")
        caller.call("language", language="en")
        tab.until(lambda tab: tab.updates().get(send) == {"value": "Send"})
        assert other.updates()[send] == {"value": "发送"}
        other.close()
        unknown = caller.open("?language=xx")
        unknown.until(lambda tab: tab.updates().get(send) == {"value": "Send"})
        unknown.close()


def test_stream_hides_a_drop_down_before_it_loses_choices(
    serve_page: ServePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradio's list, while it is open, fails on a missing choice, and never opens again."""
    monkeypatch.setattr(model_watcher, "POLL_SECONDS", 0.05)
    adapters: list[Adapter] = list(ADAPTERS)
    page = serve_page(adapters=adapters)
    number = page.number(lambda ui: ui.adapter)
    with Caller(page.url) as caller:
        tab = stream_of(caller)
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


def test_numbers_of_controls_are_the_same_for_every_tab() -> None:
    """The stream and the page name controls by these numbers."""
    first, second = (build_page(False, True)[1].controls.components for _ in range(2))
    assert [type(one) for one in first] == [type(one) for one in second]
    assert len(first) == len(set(first)) > 40
