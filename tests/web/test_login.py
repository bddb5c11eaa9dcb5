"""The login page and the login cookie."""

from __future__ import annotations

import dataclasses
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from itsdangerous import URLSafeTimedSerializer
from websockets.exceptions import InvalidStatus

from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from tests.web.page_client import FORM, Stream
from web import login
from web.access import AccessPolicy
from web.listen_socket import bind
from web.login import COOKIE, SECONDS, Logins, key_in
from web.public_link.limits import LinkRules, PublicLink
from web.rate_limits import AttemptLimiter

MEI, LIN = ("mei", "mei's 密码"), ("lin", "lin's")
ACCOUNTS = dict([MEI, LIN])
PASSPHRASE = "abcd-efgh-jkmn"
NAME = "abc.share.example"


@dataclass
class Page:
    """The URLs of a page at its own port and at the link's, and its data folder."""

    own: str
    link: str
    folder: Path


@contextmanager
def served(folder: Path, accounts: dict[str, str] | None = None,
           passphrase: str | None = None) -> Iterator[Page]:  # fmt: skip
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    tunnel: socket.socket = bind("127.0.0.1", 0)
    port = tunnel.getsockname()[1]
    access = AccessPolicy(accounts or {}, passphrase, link_port=port)
    public = PublicLink(LinkRules(), lambda: None, passphrase)
    public.opened(f"https://{NAME}")
    with serving(manager, access, link=tunnel, data=folder, public=public) as url:
        yield Page(url, f"http://127.0.0.1:{port}", folder)


@pytest.fixture(scope="module", autouse=True)
def patient() -> Iterator[None]:
    """Raises the limits, as these tests try many wrong passwords."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("PAIR_FAILURES", "ADDRESS_FAILURES", "ACCOUNT_FAILURES"):
            patched.setattr(AttemptLimiter, name, 10_000)
        yield


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with served(tmp_path_factory.mktemp("accounts"), ACCOUNTS) as page:
        yield page


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with served(tmp_path_factory.mktemp("link"), passphrase=PASSPHRASE) as page:
        yield page


def browser(url: str, **headers: str) -> httpx.Client:
    return httpx.Client(base_url=url, trust_env=False, headers=headers, timeout=30)


def log_in(client: httpx.Client, user: str, password: str, **more: str) -> httpx.Response:
    return client.post("/login", data={"username": user, "password": password, **more})


def set_cookie(response: httpx.Response) -> str:
    """Returns the login cookie that a response sets; "" if there is none."""
    found = [header for header in response.headers.get_list("set-cookie") if COOKIE in header]
    return found[0] if found else ""


def is_logged_in(client: httpx.Client) -> bool:
    """Whether page, actions and streams are open to the client; asserts that all or none are."""
    acted = client.post("/page/actions/stop", content="{}", headers={"X-Linly-Tab": "x"})
    pairs = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    try:
        Stream(str(client.base_url).rstrip("/"), {"Cookie": pairs}).close()
        streamed = True
    except InvalidStatus:
        streamed = False
    shown = client.get("/")
    assert {shown.status_code == 200, acted.status_code != 401, streamed} in ({True}, {False})
    assert streamed or (shown.status_code, acted.status_code) == (401, 401)
    assert streamed or "<form" in shown.text
    assert streamed or "linly_visitor" not in str(shown.headers)
    return streamed


def test_login_with_a_right_password(page: Page) -> None:
    for url in (page.own, page.link):
        with browser(url) as client:
            assert not is_logged_in(client)
            answer = log_in(client, *MEI)
            assert (answer.status_code, answer.headers["location"]) == (303, "./")
            assert re.fullmatch(
                rf"{COOKIE}=[\w.-]+; Path=/; Max-Age={SECONDS}; HttpOnly; SameSite=Lax",
                set_cookie(answer),
            )
            assert is_logged_in(client)


@pytest.mark.parametrize(
    ("user", "password"),
    [("mei", "wrong"), ("mei", ""), ("", ""), MEI[::-1], ("mei", LIN[1]), ("nobody", MEI[1]),
     ("nobody", ""), ("MEI", MEI[1]), ("mei", f"{MEI[1]} "), ("mei", "x" * 1_001)],
)  # fmt: skip
def test_login_with_a_wrong_one(page: Page, user: str, password: str) -> None:
    with browser(page.own) as client:
        answer = log_in(client, user, password)
        assert (answer.status_code, set_cookie(answer)) == (401, "")
        assert "Wrong user name or password." in answer.text
        assert MEI[1] not in answer.text
        assert not is_logged_in(client)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xfe", b"username=mei", b"=&=&=", b"username=%ff&password=%ed%a0%80",
     b"&".join(b"a=b" for _ in range(50)), b"%00" * 100, b'{"username": "mei"}'],
)  # fmt: skip
def test_login_with_an_invalid_form(page: Page, body: bytes) -> None:
    with browser(page.own) as client:
        answer = client.post("/login", content=body)
        assert (answer.status_code, set_cookie(answer)) == (401, "")


def test_login_form_is_small(page: Page) -> None:
    with browser(page.own) as client:
        assert client.post("/login", content=b"x" * 8_001).status_code == 413


def test_login_leads_back_to_the_chat(page: Page) -> None:
    with browser(page.own) as client:
        assert 'name="chat" value="0a-b_1"' in client.get("/?chat=0a-b_1").text
        assert log_in(client, *MEI, chat="0a-b_1").headers["location"] == "./?chat=0a-b_1"
        for chat in ("//evil.example", "https://evil.example", '"><script>', "x" * 101, "a b"):
            assert chat not in client.get("/login", params={"chat": chat}).text
            assert log_in(client, *MEI, chat=chat).headers["location"] == "./"
        assert 'value="0a-b_1"' in log_in(client, "mei", "wrong", chat="0a-b_1").text


@pytest.mark.parametrize(
    ("language", "title"),
    [("en-US,en;q=0.9", 'lang="en"'), ("zh-CN,zh;q=0.9", 'lang="zh"'), ("fr", 'lang="en"'),
     ("", 'lang="en"'), ("zh", "用户名")],
)  # fmt: skip
def test_login_page_is_in_the_browser_s_language(page: Page, language: str, title: str) -> None:
    with browser(page.own, **{"Accept-Language": language}) as client:
        answer = client.get("/")
        assert title in answer.text
        assert (answer.status_code, answer.headers["cache-control"]) == (401, "no-store")
        if language == "zh":
            assert "用户名或密码不正确。" in log_in(client, "mei", "wrong").text


def test_each_account_sees_its_own_chats(page: Page) -> None:
    """In any browser."""
    with browser(page.own) as mei, browser(page.own) as lin:
        log_in(mei, *MEI)
        log_in(lin, *LIN)
        tab = {"X-Linly-Tab": "x"}
        sent = mei.post("/page/actions/send", json={"text": "secret", "form": FORM}, headers=tab)
        assert sent.status_code == 200
        for client, seen in ((mei, True), (lin, False)):
            found = client.post("/page/export", json={"kind": "all"}, headers=tab)
            assert ("secret" in found.text) is seen
        with browser(page.link) as again:
            log_in(again, *MEI)
            assert "secret" in again.post("/page/export", json={"kind": "all"}, headers=tab).text


def test_logout_takes_the_cookie_away(page: Page) -> None:
    with browser(page.own) as client:
        assert client.post("/logout").status_code == 401
        log_in(client, *MEI)
        assert client.get("/logout").status_code == 405  # an image's URL could log a user out
        answer = client.post("/logout")
        assert (answer.status_code, answer.headers["location"]) == (303, "./")
        assert f"{COOKIE}=; Path=/; Max-Age=0" in set_cookie(answer)
        assert not is_logged_in(client)


def signed(key: bytes, data: Any, salt: str = COOKIE) -> str:
    return str(URLSafeTimedSerializer(key, salt=salt).dumps(data))


def test_login_cookie_that_is_forged(page: Page) -> None:
    key = (page.folder / login.KEY_FILE).read_bytes()
    with browser(page.own) as client:
        log_in(client, *MEI)
        good = client.cookies[COOKIE]
        body, stamp, _ = good.rsplit(".", 2)
    proof = URLSafeTimedSerializer(key, salt=COOKIE).loads(good)["proof"]
    forged = [
        "", "x", "..", good[:-1], good[1:], f"{body}.{stamp}.", f"{body}.{stamp}", f"{good}x",
        signed(b"x" * 32, {"user": "mei", "proof": proof}),
        signed(key, {"user": "mei", "proof": proof}, "another salt"),
        # With the key, but without the account's password, or with another account's.
        signed(key, {"user": "lin", "proof": proof}),
        signed(key, {"user": "nobody", "proof": proof}),
        signed(key, {"user": "", "proof": proof}),
        signed(key, {"user": "mei", "proof": ""}),
        signed(key, {"user": "mei", "proof": "密"}),
        signed(key, {"user": "mei"}),
        signed(key, ["mei", proof]),
        signed(key, None),
    ]  # fmt: skip
    for value in forged:
        with browser(page.own) as client:
            client.cookies.set(COOKIE, value)
            assert client.get("/").status_code == 401, value
    with browser(page.own, Cookie=f"{COOKIE}={good}") as client:
        assert client.get("/").status_code == 200


def scope(cookie: str = "", port: int = 7860, **more: Any) -> dict[str, Any]:
    headers = [(b"host", b"127.0.0.1"), (b"cookie", cookie.encode())]
    return {"type": "http", "scheme": "http", "server": ("127.0.0.1", port), "headers": headers,
            **more}  # fmt: skip


def value(set_cookie: str) -> str:
    return set_cookie.partition(";")[0]


def test_login_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    logins = Logins(AccessPolicy(ACCOUNTS))
    cookie = value(logins.issue(scope(), "mei"))
    assert logins.account(scope(cookie)) == "mei"
    monkeypatch.setattr(login, "SECONDS", -1)
    assert logins.account(scope(cookie)) is None


def test_login_ends_with_its_password() -> None:
    logins = Logins(AccessPolicy(ACCOUNTS))
    cookie = value(logins.issue(scope(), "mei"))
    for accounts in ({**ACCOUNTS, "mei": "another"}, {"lin": ACCOUNTS["lin"]}, {}):
        assert (
            dataclasses.replace(logins, access=AccessPolicy(accounts)).account(scope(cookie))
            is None
        )
    others = dataclasses.replace(logins, access=AccessPolicy({**ACCOUNTS, "lin": "another"}))
    assert others.account(scope(cookie)) == "mei"


def test_login_outlives_a_restart(tmp_path: Path) -> None:
    for folder, is_same in ((tmp_path / "a", True), (tmp_path / "b", False)):
        folder.mkdir()
        with served(folder, ACCOUNTS) as page, browser(page.own) as client:
            log_in(client, *MEI)
            cookie = client.cookies[COOKIE]
        other = folder if is_same else tmp_path / "a"
        with served(other, ACCOUNTS) as page, browser(page.own) as client:
            client.cookies.set(COOKIE, cookie)
            assert is_logged_in(client) is is_same


def test_login_key_is_stored_in_the_folder(tmp_path: Path) -> None:
    key = key_in(tmp_path)
    assert (key_in(tmp_path), len(key)) == (key, 32)
    assert (tmp_path / login.KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert key_in(tmp_path / "nowhere") != key_in(tmp_path / "nowhere")  # not stored


def test_login_key_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program failed at its start with a stack trace."""
    monkeypatch.setattr(login, "KEY_SECONDS", 0.0)
    path = tmp_path / login.KEY_FILE
    path.write_bytes(b"torn")
    assert len(key_in(tmp_path)) == 32
    path.unlink()
    path.mkdir()
    assert len(key_in(tmp_path)) == 32


def test_login_key_that_another_program_is_writing(tmp_path: Path) -> None:
    """Replicas that share a folder start at once: each must have the same one."""
    import threading

    path = tmp_path / login.KEY_FILE
    path.touch()
    timer = threading.Timer(0.1, path.write_bytes, (b"k" * 32,))
    timer.start()
    assert key_in(tmp_path) == b"k" * 32
    timer.join()


def test_passphrase_is_required_through_the_link_only(linked: Page) -> None:
    with browser(linked.own) as own:
        assert is_logged_in(own)
        answer = log_in(own, "friend", PASSPHRASE)
        assert (answer.status_code, set_cookie(answer)) == (401, "")
    with browser(linked.link) as client:
        assert "Enter any name and, as password, the passphrase." in client.get("/").text
        assert not is_logged_in(client)
        for wrong in ("", "guess", PASSPHRASE.upper(), f"{PASSPHRASE} "):
            assert log_in(client, "friend", wrong).status_code == 401
        assert log_in(client, "", PASSPHRASE).status_code == 303
        assert is_logged_in(client)
    # The name at the login is not an account: the browser's cookie identifies the visitor.
    with browser(linked.link) as client:
        log_in(client, "friend", PASSPHRASE)
        first = client.get("/").headers["set-cookie"]
        client.cookies.clear()
        log_in(client, "friend", PASSPHRASE)
        assert client.get("/").headers["set-cookie"] != first


def test_login_cookie_with_tls_has_a_name_that_other_hosts_cannot_set() -> None:
    link = PublicLink(LinkRules(), lambda: None, PASSPHRASE, address=f"https://{NAME}")
    access = AccessPolicy(passphrase=PASSPHRASE, link_port=9000)
    logins = Logins(access, link)
    named = [(b"host", NAME.encode())]
    for sender, secure in (
        (scope(scheme="https"), True),
        (scope(scheme="wss"), True),
        (scope(), False),
        (scope(port=9000, headers=named), True),  # the tunnel's server has the certificate
        (scope(port=9000), False),
        (scope(headers=named), False),  # not through the link
    ):
        issued = logins.issue(sender, "friend")
        assert issued.startswith("__Host-linly_login=" if secure else "linly_login=")
        assert issued.endswith("; Secure") is secure
        assert logins.end(sender).startswith(issued.partition("=")[0] + "=;")
        assert "Path=/;" in issued
        assert "HttpOnly; SameSite=Lax" in issued
    safe = value(logins.issue(scope(port=9000, headers=named), "friend"))
    cookie = (b"cookie", safe.encode())
    assert logins.account(scope(port=9000, headers=[*named, cookie])) == ""
    plain = safe.removeprefix("__Host-")  # as another host of the same site could set it
    assert logins.account(scope(port=9000, headers=[*named, (b"cookie", plain.encode())])) is None


def test_login_with_the_passphrase_is_not_one_with_an_account() -> None:
    """The link's cookie is not valid for a page with accounts, and the reverse."""
    key = b"k" * 32
    shared = Logins(AccessPolicy(passphrase=PASSPHRASE, link_port=7860), key=key)
    with_accounts = Logins(AccessPolicy({"": PASSPHRASE, **ACCOUNTS}, link_port=7860), key=key)
    assert with_accounts.account(scope(value(shared.issue(scope(), "")))) is None
    assert shared.account(scope(value(with_accounts.issue(scope(), "mei")))) is None


def test_login_slows_guessing_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simultaneous guesses count, too; other accounts are not affected."""
    monkeypatch.setattr(AttemptLimiter, "PAIR_FAILURES", 5)
    with served(tmp_path, ACCOUNTS) as page, ThreadPoolExecutor(10) as pool:

        def guess(number: int) -> int:
            with browser(page.own) as client:
                return log_in(client, MEI[0], f"guess {number}").status_code

        statuses = list(pool.map(guess, range(20)))
        assert sorted(statuses) == [401] * 5 + [429] * 15
        with browser(page.own) as client:
            answer = log_in(client, *MEI)
            assert answer.status_code == 429
            assert int(answer.headers["Retry-After"]) > 0
            assert "too many wrong passwords" in answer.text
            assert log_in(client, *LIN).status_code == 303
