"""Whose chats are whose: cookies, accounts, and tabs that have neither."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
from playwright.sync_api import Route, expect

from tests.fake import FakeEngine, echo, fake_manager
from tests.web.browser import PATIENCE, Chat, chromium
from tests.web.handmade import Caller, said
from tests.web.serving import serving
from web.chats.identity import COOKIE, YEAR, VisitorCookie, owner_of

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
        assert cookies(client.get("/config")) == []


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


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", True)])
def test_a_cookie_of_https_stays_there(scheme: str, secure: bool) -> None:
    sent: list[Any] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "scheme": scheme, "headers": []}
    asyncio.run(VisitorCookie(page)(scope, None, send))  # type: ignore[arg-type]
    ((_, cookie),) = sent[0]["headers"]
    assert (b"; Secure" in cookie) == secure


def test_the_store_lets_nobody_in(served: tuple[str, Path]) -> None:
    """Whoever reads the file cannot be its visitors: it has a digest of the cookie's token."""
    url, folder = served
    with Caller(url) as caller:
        token = caller._client.cookies[COOKIE]
        assert said(caller.call("send", "hello", *caller.wishes)) == ""
        assert "hello" in caller.act({"kind": "export_all"}).text
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if token.encode() in path.read_bytes()]


def request(username: str | None = None, cookie: str = "", session: str = "s") -> gr.Request:
    made: Any = SimpleNamespace(
        username=username, cookies={COOKIE: cookie} if cookie else {}, session_hash=session
    )
    return made


def test_who_owns_what() -> None:
    anna = owner_of(request("anna", TOKEN), accounts=True)
    assert (anna.id, anna.kept) == ("account:anna", True)
    # With a passphrase, the name at the login is whatever was typed, and proves nothing.
    assert owner_of(request("anna", TOKEN), accounts=False) == owner_of(request(cookie=TOKEN), True)
    browser = owner_of(request(cookie=TOKEN), accounts=False)
    assert browser.kept
    assert TOKEN not in browser.id
    assert browser != owner_of(request(cookie="u" * 43), accounts=False)
    tab = owner_of(request(cookie="garbage"), accounts=False)
    assert not tab.kept
    assert tab != owner_of(request(session="other"), accounts=False)
    # Nobody is an account by a session or a cookie of that name.
    assert owner_of(request(session="anna"), True).id.startswith("session:")


# What a browser does whose cookies are blocked in its settings, which the headless shell lacks.
BLOCKED = """for (const name of ['localStorage', 'sessionStorage', 'indexedDB']) {
  Object.defineProperty(window, name, {
    get() { throw new DOMException('Access is denied for this document.', 'SecurityError'); },
  });
}
Object.defineProperty(Document.prototype, 'cookie', { get: () => '', set: () => {} });"""


def without_cookies(route: Route) -> None:
    answer = route.fetch()
    headers = {name: value for name, value in answer.headers.items() if name != "set-cookie"}
    route.fulfill(response=answer, headers=headers)
    route.request.frame.page.context.clear_cookies()


@pytest.mark.browser
def test_a_browser_that_keeps_nothing(served: tuple[str, Path]) -> None:
    """Blocked cookies block the page's storage, too: it stayed empty, and said "Error"."""
    url, _ = served
    expect.set_options(timeout=PATIENCE)
    with chromium() as browser:
        context = browser.new_context()
        context.add_init_script(BLOCKED)
        context.route(f"{url}/", without_cookies)
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
