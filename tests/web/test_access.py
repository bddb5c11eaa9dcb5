"""Who may come in to the page; for the API see `api/test_keys`."""

from __future__ import annotations

from model.settings import Settings
from web.access import decide, passphrase


def test_without_flags_nothing_is_asked() -> None:
    rules = decide(Settings())
    assert rules.login is None
    assert rules.keys == ()


def test_auth_asks_for_user_and_password() -> None:
    login = decide(Settings(auth=("mei:pass:word",))).login
    assert login
    assert login("mei", "pass:word")
    assert not login("mei", "other")
    assert not login("other", "pass:word")


def test_share_makes_a_passphrase_for_any_name() -> None:
    rules = decide(Settings(share=True))
    assert rules.login
    assert rules.passphrase
    assert rules.login("friend", rules.passphrase)
    assert not rules.login("friend", "guess")


def test_share_public_asks_for_nothing() -> None:
    assert decide(Settings(share_public=True)).login is None


def test_passphrases_differ() -> None:
    assert len({passphrase() for _ in range(100)}) == 100
