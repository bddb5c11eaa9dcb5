"""Who may come in."""

from __future__ import annotations

import pytest

from model.settings import Settings
from web.access import decide, passphrase


def test_without_flags_nothing_is_asked() -> None:
    rules = decide(Settings())
    assert rules.login is None
    assert rules.allows_key("")


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


@pytest.mark.parametrize("settings", [Settings(auth=("mei:pw",)), Settings(share=True)])
def test_a_page_with_a_password_has_no_open_api(settings: Settings) -> None:
    """The API lies on the same public address; it must not be a way around the login."""
    rules = decide(settings)
    assert not rules.allows_key("")
    assert rules.allows_key(rules.passphrase or "pw")


def test_an_api_key_of_its_own_wins() -> None:
    rules = decide(Settings(auth=("mei:pw",), api_key="key"))
    assert rules.allows_key("key")
    assert not rules.allows_key("pw")


def test_passphrases_differ() -> None:
    assert len({passphrase() for _ in range(100)}) == 100
