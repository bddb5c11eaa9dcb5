"""Who may come in to the page; for the API see `api/test_keys`."""

from __future__ import annotations

from model.settings import Settings
from web.access import decide, passphrase
from web.passwords import hash_password


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


def test_a_hashed_password_comes_in_as_itself() -> None:
    hashed = hash_password("pass:word")
    login = decide(Settings(auth=(f"mei:{hashed}", "bo:plain"))).login
    assert login
    assert login("mei", "pass:word")
    assert login("bo", "plain")
    for user, password in [("mei", hashed), ("mei", "plain"), ("bo", hashed), ("other", "plain")]:
        assert not login(user, password)


def test_repr_shows_no_secret() -> None:
    rules = decide(Settings(auth=("mei:s3cret",), api_key=("s3cret",), admin_key="s3cret"))
    assert "s3cret" not in repr(rules)
    shared = decide(Settings(share=True))
    assert shared.passphrase
    assert shared.passphrase not in repr(shared)


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
