"""Access to the API: keys, the page's passwords, and requests without a key."""

from __future__ import annotations

import secrets
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.config.settings import Settings, read_settings
from model.errors import SettingsError
from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from web import passwords
from web.access import AccessPolicy, access_policy
from web.passwords import hash_password

LOCAL = ("127.0.0.1", 7860)


def scope(
    server: Any = LOCAL, client: Any = LOCAL, host: str = "127.0.0.1:7860", **headers: str
) -> dict[str, Any]:
    """Returns the ASGI scope of a request from `client` to the address `server`."""
    named = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    raw = [(name.encode(), value.encode()) for name, value in named.items()]
    return {"type": "http", "server": server, "client": client, "headers": raw}


def answer(url: str, key: str | None, path: str = "models") -> httpx.Response:
    sent = "" if key is None else f"Bearer {key}".strip()
    headers = {b"Authorization": sent.encode("latin-1")} if sent else {}
    return httpx.get(f"{url}/v1/{path}", headers=headers)


def test_any_of_the_keys_is_accepted() -> None:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with serving(
        manager, AccessPolicy(api_keys=("open-sesame", "second"), admin_key="boss")
    ) as url:
        for key in ("open-sesame", "second", "boss"):
            assert answer(url, key).status_code == 200
        for wrong in ("open", "", None, "open-sesame second", "ключ".encode().decode("latin-1")):
            refused = answer(url, wrong)
            assert (refused.status_code, refused.json()["error"]["code"]) == (
                401, "invalid_api_key",
            )  # fmt: skip
            assert refused.headers["www-authenticate"] == "Bearer"
        not_json = httpx.post(f"{url}/v1/chat/completions", content=b"not even JSON")
        assert not_json.status_code == 401  # the key is checked before the body is read
        assert httpx.get(f"{url}/health").status_code == 200


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all keys, so that the time does not reveal which one is similar."""
    compared: list[bytes] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return a == b

    monkeypatch.setattr(secrets, "compare_digest", compare)
    rules = AccessPolicy(api_keys=("one", "two"), admin_key="three")
    for key in ("one", "two", "three", "four"):
        compared.clear()
        rules.allows_api(scope(), key)
        assert compared == [b"one", b"two", b"three"]


def test_without_a_key_only_local_requests_are_accepted() -> None:
    rules = AccessPolicy()
    assert rules.allows_api(scope(), "")
    assert rules.allows_api(scope(server=("::1", 7860), client=("::1", 5), host="[::1]:7860"), "")
    assert rules.allows_api(scope(host="localhost:7860"), "")
    remote = [
        scope(server=("10.0.0.2", 7860), client=("10.0.0.3", 9)),
        scope(server=("10.0.0.2", 7860), client=("10.0.0.2", 9)),
        scope(client=("10.0.0.3", 9)),
        scope(server=None),
        scope(client=None),
        scope(host="evil.example:7860"),  # DNS rebinding
        scope(host=""),
        scope(host="[x"),
        scope(via="1.1 proxy"),
        scope(x_forwarded_proto="https"),
        scope(x_forwarded_for="10.0.0.3"),
        scope(forwarded="for=10.0.0.3"),
    ]
    for sender in remote:
        assert not rules.allows_api(sender, "")
        assert not rules.allows_api(sender, "guess")
        assert AccessPolicy(api_open=True).allows_api(sender, "")
        assert AccessPolicy(api_keys=("key",)).allows_api(sender, "key")


def test_a_public_link_without_a_password_has_no_api() -> None:
    rules = access_policy(Settings(share_public=True), link_port=9000)
    through = scope(server=("127.0.0.1", 9000))
    assert not rules.allows_api(through, "")
    assert rules.allows_api(scope(), "")


def test_a_refused_request_names_the_flag() -> None:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with serving(manager) as url:
        response = httpx.get(f"{url}/v1/models", headers={"X-Forwarded-For": "10.0.0.3"})
        assert response.status_code == 401
        assert "--api_key" in response.json()["error"]["message"]


@pytest.mark.parametrize("settings", [Settings(auth=("mei:pw",)), Settings(share=True)])
def test_a_page_with_a_password_has_no_open_api(settings: Settings) -> None:
    """The API has the same public address, and must not be a way around the login."""
    rules = access_policy(settings, link_port=9000)
    through = scope(server=("127.0.0.1", 9000))
    assert not rules.allows_api(through, "")
    assert rules.allows_api(through, rules.passphrase or "pw")
    # With accounts all visitors need a password; the passphrase is for the link only.
    assert rules.allows_api(scope(), "") is settings.share
    assert rules.allows_api(scope(), "pw") or settings.share


def test_api_keys_replace_passwords_as_keys() -> None:
    rules = access_policy(Settings(auth=("mei:pw",), api_key=("key",)))
    assert rules.allows_api(scope(), "key")
    assert not rules.allows_api(scope(), "pw")


def test_web_pages_of_an_origin_may_use_the_api() -> None:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    friend = "https://chat.example.com"
    with serving(manager, AccessPolicy(api_keys=("key",), origins=(friend,))) as url:
        preflight = {"Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type"}  # fmt: skip
        path = f"{url}/v1/chat/completions"
        allowed = httpx.options(path, headers={"Origin": friend, **preflight})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == friend
        other = httpx.options(path, headers={"Origin": "https://evil.example", **preflight})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers
        without_key = httpx.get(f"{url}/v1/models", headers={"Origin": friend})
        assert without_key.status_code == 401
        assert without_key.headers["access-control-allow-origin"] == friend
        page = httpx.get(f"{url}/", headers={"Origin": friend})
        assert page.headers.get("access-control-allow-origin") != friend


def test_a_password_that_is_not_latin_1_is_a_key_too() -> None:
    """Clients send it as UTF-8, and headers are read as Latin-1."""
    rules = access_policy(Settings(auth=("mei:密码",)))
    assert rules.allows_api(scope(), "密码".encode().decode("latin-1"))
    assert not rules.allows_api(scope(), "口令".encode().decode("latin-1"))


def test_a_hashed_password_is_a_key_and_its_hash_is_none() -> None:
    hashed = hash_password("密码")
    rules = access_policy(Settings(auth=(f"mei:{hashed}", "bo:plain")))
    sent = "密码".encode().decode("latin-1")
    assert rules.is_slow(scope(), sent)
    assert rules.allows_api(scope(), sent)
    assert not rules.is_slow(scope(), sent)  # it is remembered
    assert rules.allows_api(scope(), sent)
    assert rules.allows_api(scope(), "plain")
    for wrong in ("", hashed, hashed.partition("$argon2id")[2], "口令", "mei", "x" * 2000):
        assert not rules.allows_api(scope(), wrong)
    assert not rules.is_slow(scope(), "")  # a request without a key costs nothing


def test_api_keys_replace_hashed_passwords_as_keys() -> None:
    hashed = hash_password("pw")
    rules = access_policy(Settings(auth=(f"mei:{hashed}",), api_key=("key",)))
    assert rules.allows_api(scope(), "key")
    assert not rules.allows_api(scope(), "pw")
    assert not rules.is_slow(scope(), "pw")


def test_hashes_are_computed_in_worker_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes tens of milliseconds, which would delay all streams."""
    threads: list[str] = []
    verify = passwords.verify_password

    def record(password: str | bytes, stored: str) -> bool:
        threads.append(threading.current_thread().name)
        return verify(password, stored)

    monkeypatch.setattr(passwords, "verify_password", record)
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    rules = access_policy(Settings(auth=(f"mei:{hash_password('pw')}",)))
    with serving(manager, rules) as url:
        for _ in range(3):
            assert answer(url, "pw").status_code == 200
        assert len(threads) == 1  # computed once
        assert answer(url, "guess").status_code == 401
        assert answer(url, None).status_code == 401
        assert len(threads) == 2
        form = {"username": "mei", "password": "pw"}
        assert httpx.post(f"{url}/login", data=form).status_code == 303
        assert httpx.post(f"{url}/login", data={**form, "password": "guess"}).status_code == 401
    assert len(threads) == 4
    assert all("AnyIO worker" in name for name in threads)


def test_an_admin_key_alone_does_not_close_the_api() -> None:
    rules = AccessPolicy(admin_key="boss")
    assert rules.allows_api(scope(), "")
    assert not rules.allows_admin("")
    assert not AccessPolicy().allows_admin("")


def test_keys_come_from_flags_the_environment_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# who has which\nalpha  # Ann\n\nbeta gamma\nalpha\n")
    assert read_settings(["--api_key", "a", "--api-key", "b"], {}).api_key == ("a", "b")
    assert read_settings([], {"LINLY_API_KEY": "a b\nc"}).api_key == ("a", "b", "c")
    both = read_settings(["--api_key", "a", "--api_key_file", str(file)], {})
    assert both.api_key == ("a", "alpha", "beta", "gamma")
    assert read_settings([], {"LINLY_API_KEY_FILE": str(file)}).api_key[0] == "alpha"


@pytest.mark.parametrize("text", [None, "", "# nothing\n", b"\xff\xfe\x00"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str | bytes | None) -> None:
    """An empty file must not open the API."""
    file = tmp_path / "keys"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError, match="--api_key_file"):
        read_settings(["--api_key_file", str(file)], {})


@pytest.mark.parametrize("key", ["ключ", "a\x00b", ""])
@pytest.mark.parametrize("flag", ["api_key", "admin_key", "engine_key"])
def test_a_key_that_no_header_can_carry_is_refused(flag: str, key: str) -> None:
    with pytest.raises(SettingsError, match=flag):
        read_settings([f"--{flag}={key}"], {})
