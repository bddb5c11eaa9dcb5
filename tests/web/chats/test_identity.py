"""Whose chats are whose: cookies, accounts, and tabs that have neither."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from tests.fake import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from tests.web.browser import PATIENCE, Chat, chromium
from tests.web.page_client import Caller, said
from web import page_middleware
from web.chats import tab_sessions as tabs
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
    return [one for one in response.headers.get_list("set-cookie") if one.startswith(COOKIE)]


def test_a_browser_is_given_one_cookie(served: tuple[str, Path]) -> None:
    url, _ = served
    with httpx.Client(base_url=url) as client:
        (cookie,) = cookies(client.get("/"))
        assert re.fullmatch(
            rf"{COOKIE}=[\w-]{{43}}; Path=/; Max-Age=\d+; HttpOnly; SameSite=Lax", cookie
        )
        # Renewed at each visit: it lasts for a year, and with it went a daily visitor's chats.
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
def test_garbage_is_replaced(served: tuple[str, Path], garbage: str) -> None:
    url, _ = served
    sent = f"{COOKIE}={garbage}".encode("latin-1")
    (cookie,) = cookies(httpx.get(url, headers=[(b"cookie", sent)]))
    assert len(cookie.partition(";")[0]) == len(COOKIE) + 44


@pytest.mark.parametrize("token", ["t" * 40, "-_" * 40])
def test_a_valid_one_is_kept(served: tuple[str, Path], token: str) -> None:
    (cookie,) = cookies(httpx.get(served[0], headers={"cookie": f"a=b; {COOKIE}={token}; c=d"}))
    assert cookie.startswith(f"{COOKIE}={token}; Path=/; Max-Age={YEAR}; HttpOnly")


def scope(cookie: str = "") -> dict[str, Any]:
    """An ASGI scope of a request with this cookie header."""
    return {"type": "http", "headers": [(b"cookie", cookie.encode())] if cookie else []}


def test_a_cookie_of_https_stays_there() -> None:
    """Under a name that another host of the same site cannot set, nor a page without TLS."""
    plain, safe = (visitor_cookie(scope(), secure) for secure in (False, True))
    assert plain.startswith("linly_visitor=")
    assert safe.startswith("__Host-linly_visitor=")
    for one in (plain, safe):
        assert {"Path=/", "HttpOnly", "SameSite=Lax", f"Max-Age={YEAR}"} < set(one.split("; "))
    assert safe.endswith("; Secure")
    assert "Secure" not in plain


def test_by_tls_the_cookie_from_before_is_taken_over() -> None:
    """Or whoever puts TLS before the page would lose everybody's chats."""
    old, new = f"{COOKIE}={TOKEN}", f"{SECURE_COOKIE}={'u' * 43}"
    assert visitor_cookie(scope(old), secure=True).startswith(f"{SECURE_COOKIE}={TOKEN};")
    assert visitor_cookie(scope(f"{old}; {new}"), True).startswith(f"{SECURE_COOKIE}=uuu")
    assert owner_of(scope(old), "", secure=True) == owner_of(scope(old), "")
    # Without TLS anybody on the way could have set it.
    assert not owner_of(scope(new), "").kept


@pytest.mark.parametrize("proxied", [False, True])
def test_behind_a_proxy_with_tls_the_cookie_is_secure(
    served: tuple[str, Path], proxied: bool
) -> None:
    """uvicorn believes a proxy on this machine what it says of the scheme."""
    headers = {"X-Forwarded-Proto": "https"} if proxied else {}
    (cookie,) = httpx.get(served[0], headers=headers).headers.get_list("set-cookie")
    assert cookie.startswith(SECURE_COOKIE) is proxied
    assert cookie.endswith("; Secure") is proxied


def test_the_store_lets_nobody_in(served: tuple[str, Path]) -> None:
    """Whoever reads the file cannot be its visitors: it has a digest of the cookie's token."""
    url, folder = served
    with Caller(url) as caller:
        token = caller.client.cookies[COOKIE]
        assert said(caller.send("hello")) == ""
        assert "hello" in caller.export("all").text
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if token.encode() in path.read_bytes()]


def test_who_owns_what() -> None:
    browser = f"{COOKIE}={TOKEN}"
    anna = owner_of(scope(browser), "anna")
    assert (anna.id, anna.kept) == ("account:anna", True)
    # With a passphrase, the name at the login is whatever was typed: no account is told.
    assert owner_of(scope(browser), "") == owner_of(scope(f"a=b; {browser}"), "")
    own = owner_of(scope(browser), "")
    assert own.kept
    assert TOKEN not in own.id
    assert own != owner_of(scope(f"{COOKIE}={'u' * 43}"), "")
    nobody = owner_of(scope(f"{COOKIE}=garbage"), "")
    assert not nobody.kept
    # Each is another one: nothing that a page sends makes it somebody.
    assert nobody != owner_of(scope(f"{COOKIE}=garbage"), "")
    assert nobody.id.startswith(SESSION)


def test_visits_a_tab_is_found_by_its_owner_alone() -> None:
    visits = TabSessions()
    anna, bert = Owner("browser:anna"), Owner("browser:bert")
    cookieless, another = (owner_of(scope(), "") for _ in range(2))
    tab, hers = visits.open(anna), visits.open(cookieless)
    assert visits.get(tab.id, anna) is tab
    # Without cookies each request has another owner; the id is what they have in common.
    assert visits.get(hers.id, another) is hers
    for number, owner in (
        (tab.id, bert), (tab.id, another), (hers.id, anna), ("made-up", anna), ("", anna),
    ):  # fmt: skip
        found = visits.get(number, owner)
        assert (found.owner, found.lost, found.chat) == (owner, True, None)
        assert len(visits) == 2
    assert visits.get(tab.id, anna, guest=True).lost  # another door
    visits.close(tab)
    visits.close(tab)
    assert visits.get(tab.id, anna).lost
    assert (tab.closed, len(visits)) == (True, 1)


def test_visits_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a visitor, of an address, of the link's guests, of all."""
    for name, most in (("TABS_OF_VISITOR", 2), ("TABS_OF_ADDRESS", 3), ("TABS_OF_GUESTS", 4)):
        monkeypatch.setattr(tabs, f"MAX_{name}", most)
    monkeypatch.setattr(tabs, "MAX_TABS", 9)
    visits = TabSessions()

    def opens(owner: str, **more: Any) -> list[TabSession]:
        opened = []
        for _ in range(20):
            try:
                opened.append(visits.open(Owner(owner), **more))
            except TooManyTabsError:
                return opened
        raise AssertionError("no bound")

    first = opens("anna", address="10.0.0.1")
    assert len(first) == 2
    assert len(opens("bert", address="10.0.0.1")) == 1
    assert len(opens("carla", address="10.0.0.1")) == 0
    guests = [*opens("dora", guest=True), *opens("emil", guest=True), *opens("fred", guest=True)]
    assert len(guests) == 4
    assert len(opens("gina")) == 2  # of this machine: no address is counted
    assert len(visits) == 9
    assert opens("hans") == []
    for visit in [*first, *guests]:
        visits.close(visit)
    assert visits._counts.keys() == {("owner", "bert"), ("address", "10.0.0.1"), ("owner", "gina")}
    assert len(opens("anna", address="10.0.0.1")) == 2


# What a browser does whose cookies are blocked in its settings, which the headless shell lacks.
BLOCKED = """for (const name of ['localStorage', 'sessionStorage', 'indexedDB']) {
  Object.defineProperty(window, name, {
    get() { throw new DOMException('Access is denied for this document.', 'SecurityError'); },
  });
}
Object.defineProperty(Document.prototype, 'cookie', { get: () => '', set: () => {} });"""


def dropped(scope: Any, secure: bool) -> str:
    """What such a browser makes of the page's cookie."""
    return f"{COOKIE}=; Path=/; Max-Age=0"


@pytest.mark.browser
def test_a_browser_that_keeps_nothing(
    served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocked cookies block the page's storage, too: it stayed empty, and said "Error"."""
    url, _ = served
    monkeypatch.setattr(page_middleware, "visitor_cookie", dropped)
    expect.set_options(timeout=PATIENCE)
    with chromium() as browser:
        context = browser.new_context()
        context.add_init_script(BLOCKED)
        chat = Chat(context.new_page()).open(url)
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
