"""Owners of chats by cookie or account, and the tabs of each owner."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from tests.web.browser import PATIENCE, ChatPage, chromium
from tests.web.page_client import Caller, shown_message
from web import page_middleware
from web.chats import tab_sessions
from web.chats.identity import (
    COOKIE,
    SECURE_COOKIE,
    SESSION,
    YEAR,
    Owner,
    owner_of,
    visitor_cookie,
)
from web.chats.tab_sessions import TabSession, TabSessions, TooManyTabsError

TOKEN = "t" * 43


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with serving(manager, data=tmp_path) as url:
        yield url, tmp_path


def cookies(response: httpx.Response) -> list[str]:
    headers = response.headers.get_list("set-cookie")
    return [header for header in headers if header.startswith(COOKIE)]


def test_cookie_is_set_once_for_a_browser(served: tuple[str, Path]) -> None:
    url, _ = served
    with httpx.Client(base_url=url) as client:
        (cookie,) = cookies(client.get("/"))
        assert re.fullmatch(
            rf"{COOKIE}=[\w-]{{43}}; Path=/; Max-Age=\d+; HttpOnly; SameSite=Lax", cookie
        )
        # Set again at each visit: after a year, it expired for a daily visitor, and took the chats.
        assert cookies(client.get("/")) == [cookie]
        assert cookies(client.get("/health")) == []
    with httpx.Client(base_url=url) as client:
        assert cookies(client.get("/")) != [cookie]
        assert cookies(client.get("/health")) == []
        for path in ("/page/chat.js", "/login", "/config", "/nothing"):
            assert cookies(client.get(path)) == []


@pytest.mark.parametrize(
    "garbage", ["", "x", "x" * 39, "x" * 81, "../" * 20, "<script>" * 6, "é" * 43, "a b" * 15]
)
def test_invalid_cookie_is_replaced(served: tuple[str, Path], garbage: str) -> None:
    url, _ = served
    header = f"{COOKIE}={garbage}".encode("latin-1")
    (cookie,) = cookies(httpx.get(url, headers=[(b"cookie", header)]))
    assert len(cookie.partition(";")[0]) == len(COOKIE) + 44


@pytest.mark.parametrize("token", ["t" * 40, "-_" * 40])
def test_valid_cookie_is_set_again(served: tuple[str, Path], token: str) -> None:
    (cookie,) = cookies(httpx.get(served[0], headers={"cookie": f"a=b; {COOKIE}={token}; c=d"}))
    assert cookie.startswith(f"{COOKIE}={token}; Path=/; Max-Age={YEAR}; HttpOnly")


def scope(cookie: str = "") -> dict[str, Any]:
    """Returns the ASGI scope of a request with this cookie header."""
    return {"type": "http", "headers": [(b"cookie", cookie.encode())] if cookie else []}


def test_cookie_over_tls_has_a_name_that_only_this_host_can_set() -> None:
    """Another host of the same site cannot set it, nor a page without TLS."""
    plain, safe = (visitor_cookie(scope(), secure) for secure in (False, True))
    assert plain.startswith("linly_visitor=")
    assert safe.startswith("__Host-linly_visitor=")
    for header in (plain, safe):
        assert {"Path=/", "HttpOnly", "SameSite=Lax", f"Max-Age={YEAR}"} < set(header.split("; "))
    assert safe.endswith("; Secure")
    assert "Secure" not in plain


def test_cookie_from_before_tls_is_taken_over() -> None:
    """Otherwise all visitors would lose their chats when the operator adds TLS."""
    old, new = f"{COOKIE}={TOKEN}", f"{SECURE_COOKIE}={'u' * 43}"
    assert visitor_cookie(scope(old), secure=True).startswith(f"{SECURE_COOKIE}={TOKEN};")
    assert visitor_cookie(scope(f"{old}; {new}"), True).startswith(f"{SECURE_COOKIE}=uuu")
    assert owner_of(scope(old), "", secure=True) == owner_of(scope(old), "")
    # Without TLS, anyone on the network path could have set it.
    assert not owner_of(scope(new), "").persistent


@pytest.mark.parametrize("proxied", [False, True])
def test_cookie_is_secure_behind_a_proxy_with_tls(served: tuple[str, Path], proxied: bool) -> None:
    """uvicorn trusts the scheme that a proxy on this machine reports."""
    headers = {"X-Forwarded-Proto": "https"} if proxied else {}
    (cookie,) = httpx.get(served[0], headers=headers).headers.get_list("set-cookie")
    assert cookie.startswith(SECURE_COOKIE) is proxied
    assert cookie.endswith("; Secure") is proxied


def test_store_contains_no_token(served: tuple[str, Path]) -> None:
    """A reader of the file cannot impersonate a visitor: it has only the token's digest."""
    url, folder = served
    with Caller(url) as caller:
        token = caller.client.cookies[COOKIE]
        assert shown_message(caller.send("hello")) == ""
        assert "hello" in caller.export("all").text
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if token.encode() in path.read_bytes()]


def test_owner_is_the_account_or_else_the_browser() -> None:
    browser = f"{COOKIE}={TOKEN}"
    anna = owner_of(scope(browser), "anna")
    assert (anna.id, anna.persistent) == ("account:anna", True)
    # With a passphrase, there is no account, whatever name the visitor typed.
    assert owner_of(scope(browser), "") == owner_of(scope(f"a=b; {browser}"), "")
    owner = owner_of(scope(browser), "")
    assert owner.persistent
    assert TOKEN not in owner.id
    assert owner != owner_of(scope(f"{COOKIE}={'u' * 43}"), "")
    session = owner_of(scope(f"{COOKIE}=garbage"), "")
    assert not session.persistent
    # Each request has another owner: an invalid cookie gives no identity.
    assert session != owner_of(scope(f"{COOKIE}=garbage"), "")
    assert session.id.startswith(SESSION)


def test_tab_is_found_by_its_owner_alone() -> None:
    tabs = TabSessions()
    anna, bert = Owner("browser:anna"), Owner("browser:bert")
    cookieless, another = (owner_of(scope(), "") for _ in range(2))
    annas, cookieless_tab = tabs.open(anna), tabs.open(cookieless)
    assert tabs.get(annas.id, anna) is annas
    # Without cookies each request has another owner; the tab's id is what they have in common.
    assert tabs.get(cookieless_tab.id, another) is cookieless_tab
    for tab_id, owner in (
        (annas.id, bert), (annas.id, another), (cookieless_tab.id, anna), ("made-up", anna),
        ("", anna),
    ):  # fmt: skip
        found = tabs.get(tab_id, owner)
        assert (found.owner, found.lost, found.chat) == (owner, True, None)
        assert len(tabs) == 2
    assert tabs.get(annas.id, anna, guest=True).lost  # it did not come through the link
    tabs.close(annas)
    tabs.close(annas)
    assert tabs.get(annas.id, anna).lost
    assert (annas.closed, len(tabs)) == (True, 1)


def test_tabs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a visitor, an address, the link's guests, and all together."""
    for name, most in (("TABS_OF_VISITOR", 2), ("TABS_OF_ADDRESS", 3), ("TABS_OF_GUESTS", 4)):
        monkeypatch.setattr(tab_sessions, f"MAX_{name}", most)
    monkeypatch.setattr(tab_sessions, "MAX_TABS", 9)
    tabs = TabSessions()

    def open_many(owner: str, **options: Any) -> list[TabSession]:
        opened = []
        for _ in range(20):
            try:
                opened.append(tabs.open(Owner(owner), **options))
            except TooManyTabsError:
                return opened
        raise AssertionError("no bound")

    first = open_many("anna", address="10.0.0.1")
    assert len(first) == 2
    assert len(open_many("bert", address="10.0.0.1")) == 1
    assert len(open_many("carla", address="10.0.0.1")) == 0
    guests = [tab for name in ("dora", "emil", "fred") for tab in open_many(name, guest=True)]
    assert len(guests) == 4
    assert len(open_many("gina")) == 2  # of this machine: its address is not counted
    assert len(tabs) == 9
    assert open_many("hans") == []
    for tab in [*first, *guests]:
        tabs.close(tab)
    assert tabs._counts.keys() == {("owner", "bert"), ("address", "10.0.0.1"), ("owner", "gina")}
    assert len(open_many("anna", address="10.0.0.1")) == 2


# Acts as a browser whose settings block cookies; the headless shell has no such setting.
BLOCKED = """for (const name of ['localStorage', 'sessionStorage', 'indexedDB']) {
  Object.defineProperty(window, name, {
    get() { throw new DOMException('Access is denied for this document.', 'SecurityError'); },
  });
}
Object.defineProperty(Document.prototype, 'cookie', { get: () => '', set: () => {} });"""


def dropped_cookie(scope: Any, secure: bool) -> str:
    """Returns a cookie that the browser drops at once."""
    return f"{COOKIE}=; Path=/; Max-Age=0"


@pytest.mark.browser
def test_page_works_in_a_browser_that_blocks_cookies_and_storage(
    served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocked cookies block the page's storage, too: the page stayed empty, and showed "Error"."""
    url, _ = served
    monkeypatch.setattr(page_middleware, "visitor_cookie", dropped_cookie)
    expect.set_options(timeout=PATIENCE)
    with chromium() as browser:
        context = browser.new_context()
        context.add_init_script(BLOCKED)
        chat = ChatPage(context.new_page()).open(url)
        expect(chat.sidebar).to_contain_text("Cookies are off, so the chats of this visit are not")
        chat.ask("hello")
        expect(chat.log).to_contain_text("base heard: hello")
        expect(chat.row("hello")).to_be_visible()
        assert context.cookies() == []
        chat.page.get_by_role("radio", name="中文").check()
        expect(chat.page.get_by_role("button", name="发送")).to_be_visible()
        chat.page.goto(url)
        expect(chat.log).not_to_contain_text("hello")
        expect(chat.row("hello")).to_have_count(0)
        assert chat.complaints == []
