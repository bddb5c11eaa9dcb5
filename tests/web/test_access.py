"""Access to the page; for the API see `api/test_keys`, for the login `test_login`."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from model.config.settings import Settings
from tests.web.api.test_keys import scope
from web.access import AccessPolicy, access_policy, new_passphrase
from web.passwords import hash_password

LINK_PORT = 9000
LINK: dict[str, Any] = scope(server=("127.0.0.1", LINK_PORT))
OWN: dict[str, Any] = scope()


def test_without_flags_the_page_is_open() -> None:
    rules = access_policy(Settings())
    assert not rules.needs_login(OWN)
    assert rules.keys(OWN) == ()


def test_auth_requires_user_and_password() -> None:
    rules = access_policy(Settings(auth=("mei:pass:word",)), LINK_PORT)
    for sender in (OWN, LINK):
        assert rules.needs_login(sender)
        assert rules.verify(sender, "mei", "pass:word")
        assert not rules.verify(sender, "mei", "pass")
        assert not rules.verify(sender, "mei", "")
        assert not rules.verify(sender, "other", "pass:word")
        assert not rules.verify(sender, "other", "")
    assert rules.keys(OWN) == ("pass:word",)


def test_a_password_is_valid_for_its_account_only() -> None:
    rules = access_policy(Settings(auth=("mei:one", "lin:two")))
    assert rules.verify(OWN, "lin", "two")
    assert not rules.verify(OWN, "lin", "one")


def test_a_hashed_password_is_verified() -> None:
    hashed = hash_password("pass:word")
    rules = access_policy(Settings(auth=(f"mei:{hashed}", "bo:plain")))
    assert rules.verify(OWN, "mei", "pass:word")
    assert rules.verify(OWN, "bo", "plain")
    for user, password in [("mei", hashed), ("mei", "plain"), ("bo", hashed), ("other", "plain")]:
        assert not rules.verify(OWN, user, password)


def test_repr_shows_no_secret() -> None:
    rules = access_policy(Settings(auth=("mei:s3cret",), api_key=("s3cret",), admin_key="s3cret"))
    assert "s3cret" not in repr(rules)
    shared = access_policy(Settings(share=True))
    assert shared.passphrase
    assert shared.passphrase not in repr(shared)


def test_share_makes_a_passphrase_that_is_valid_with_any_name() -> None:
    rules = access_policy(Settings(share=True), LINK_PORT)
    assert rules.passphrase
    assert rules.needs_login(LINK)
    assert rules.verify(LINK, "friend", rules.passphrase)
    assert rules.verify(LINK, "", rules.passphrase)
    assert not rules.verify(LINK, "friend", "guess")
    assert not rules.verify(LINK, "friend", "")


def test_the_passphrase_is_required_through_the_link_only() -> None:
    """Local visitors needed it, too."""
    rules = access_policy(Settings(share=True), LINK_PORT)
    assert rules.passphrase
    for sender in (OWN, scope(server=("10.0.0.2", 7860)), scope(server=None)):
        assert not rules.needs_login(sender)
        assert not rules.verify(sender, "friend", rules.passphrase)
        assert rules.keys(sender) == ()
    assert rules.keys(LINK) == (rules.passphrase,)


def test_the_port_and_not_a_header_identifies_requests_through_the_link() -> None:
    rules = access_policy(Settings(share=True), LINK_PORT)
    assert rules.needs_login(scope(server=("127.0.0.1", LINK_PORT), host="127.0.0.1:7860"))
    assert not rules.needs_login(scope(host=f"127.0.0.1:{LINK_PORT}"))


def test_share_public_requires_no_passphrase() -> None:
    rules = access_policy(Settings(share_public=True), LINK_PORT)
    assert not rules.needs_login(LINK)
    assert not rules.verify(LINK, "friend", "")


def test_with_accounts_there_is_no_passphrase() -> None:
    rules = access_policy(Settings(share=True, auth=("mei:one",)), LINK_PORT)
    assert rules.passphrase is None
    assert rules.needs_login(LINK)
    assert not rules.verify(LINK, "friend", "one")


@pytest.mark.parametrize("user", ["mei", "nobody"])
def test_a_password_is_compared_in_constant_time(
    user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if there is no such account: a quicker response would reveal that."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(secrets, "compare_digest", compare)
    AccessPolicy({"mei": "密码"}).verify(OWN, user, "密")
    assert len(compared) == 1


def test_passphrases_differ() -> None:
    assert len({new_passphrase() for _ in range(100)}) == 100
    assert all(len(new_passphrase()) == 14 for _ in range(100))
