"""The end of a tab's stream: by its client, the server, or a fault."""

from __future__ import annotations

import json
import socket as sockets
from typing import Any

import pytest

from tests.web.page_client import Caller, shown_message
from tests.web.ui.stream_page import ServePage, shows, stream_of, until
from web.access import AccessPolicy
from web.chats import tab_sessions
from web.chats.identity import Owner
from web.listen_socket import bind
from web.public_link.limits import LinkRules, PublicLink
from web.ui import tab_stream

pytestmark = [pytest.mark.usefixtures("no_fault"), pytest.mark.slow]


def test_stream_sends_signs_of_life(serve_page: ServePage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tab_stream, "BEAT_SECONDS", 0.1)
    page = serve_page()
    with Caller(page.url) as caller:
        stream_of(caller).until(lambda tab: sum("beat" in event for event in tab.events) > 3)


def test_stream_of_a_client_that_reads_nothing_is_closed(
    serve_page: ServePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The visitor's other tabs go on."""
    monkeypatch.setattr(tab_stream, "SEND_SECONDS", 0.5)
    page = serve_page()
    chat = {"messages": [{"role": "user", "content": "x" * 1_500_000}] * 3}
    with Caller(page.url) as caller, Caller(page.url) as other:
        assert shown_message(caller.import_text(json.dumps(chat))) == ""
        stream_of(caller).until(lambda tab: tab.log.get("messages"))
        number = stream_of(caller).log["chat"]
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
        stream_of(caller).until(shows("base heard: hello "))
        other.begin("hi")
        until(lambda: len(page.service.tab_sessions) == 2)
        slow.close()


@pytest.mark.parametrize("error", [ValueError, RuntimeError, OSError])
def test_stream_that_fails_is_closed_and_logged(
    serve_page: ServePage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:  # fmt: skip
    """No fault may be taken for a client that is gone."""
    page = serve_page()
    with Caller(page.url) as caller:
        stream_of(caller).until(lambda tab: tab.sidebar)

        def broken(*args: Any) -> None:
            raise error("a fault")

        with monkeypatch.context() as patch:
            patch.setattr(tab_stream, "sidebar_value", broken)
            caller.call("new_chat")
            stream_of(caller).ended()
        assert [record.message for record in caplog.records] == ["The stream of a tab failed"]
        caplog.clear()
        again = caller.open()
        again.until(lambda tab: tab.sidebar)
        again.close()


def test_stream_refuses_too_many_tabs(
    serve_page: ServePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tab_sessions, "MAX_TABS_OF_VISITOR", 2)
    page = serve_page()
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
        assert shown_message(other.send("hello")) == ""
        second.close()
        until(lambda: len(page.service.tab_sessions) == 2)
        third = caller.open()
        third.until(lambda tab: tab.tab)
        third.close()


@pytest.mark.parametrize("how", ["close", "gone"])
def test_stream_that_is_closed_frees_its_tab(
    serve_page: ServePage, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(tab_sessions, "MAX_TABS_OF_VISITOR", 4)
    page = serve_page()
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
        others = [caller.open() for _ in range(3)]  # the closed tabs do not count any more
        for other in others:
            other.until(lambda tab: tab.sidebar)
            other.close()
    until(lambda: len(page.service.tab_sessions) == 0)
    until(lambda: not page.service.watcher.running)


@pytest.mark.parametrize("message", ["hello", b"\x00\xff", ""])
def test_stream_closes_when_the_client_sends_a_message(
    serve_page: ServePage, message: str | bytes
) -> None:
    """A message of bytes left a stack trace in the terminal."""
    page = serve_page()
    with Caller(page.url) as caller:
        stream_of(caller).socket.send(message)
        assert stream_of(caller).ended() == 1008
        big = caller.open()
        big.socket.send(b"x" * 5_000)
        assert big.ended() in (1008, 1009)


def test_stream_of_a_guest_ends_with_the_link(
    serve_page: ServePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tab_stream, "BEAT_SECONDS", 0.1)
    tunnel = bind("127.0.0.1", 0)
    port = tunnel.getsockname()[1]
    public = PublicLink(LinkRules(), lambda: None)
    page = serve_page(access=AccessPolicy(link_port=port), link=tunnel, public=public)
    with Caller(f"http://127.0.0.1:{port}") as guest, Caller(page.url) as local:
        stream_of(guest).until(lambda tab: tab.sidebar)
        public.until = 0.0  # its time is over
        assert stream_of(guest).ended() == 4410
        local.begin("hello")
        stream_of(local).until(shows("base heard: hello "))
