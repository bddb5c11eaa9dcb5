"""Values of secret flags: which are taken, and that no refusal repeats one."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from model.config.secret_values import MAX_PASSWORD_BYTES, is_hash, one_key, user_and_password

HASH = (
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA"
    "$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g"
)


def refusal(parse: Callable[[str], object], text: str) -> str:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        parse(text)
    return str(caught.value)


@pytest.mark.parametrize(
    "account",
    ["anna:pw", "anna:p:w", "anna:#p w", "安娜:密码", f"anna:{HASH}", "anna:$argon", "anna:$2b$x",
     "anna:" + "x" * MAX_PASSWORD_BYTES],
)  # fmt: skip
def test_valid_account_is_accepted_unchanged(account: str) -> None:
    assert user_and_password(account) == account


@pytest.mark.parametrize(
    "stored",
    [
        "$argon2", "$argon2id$", HASH + "=", HASH + "\n", HASH[:-1] + "!", HASH[:-1] + "h",
        HASH.replace("argon2id", "argon2i"), HASH.replace("v=19", "v=16"),
        HASH.replace("m=19456", "m=7"), HASH.replace("t=2", "t=0"), HASH.replace("p=1", "p=0"),
        HASH.replace("m=19456", "m=524288"), HASH.replace("t=2", "t=17"),
        HASH.replace("p=1", "p=17"), HASH.replace("m=19456", "m=²"),
        HASH.replace("c29tZXNhbHRzb21lc2FsdA", "c2FsdA"),
        "=19=19456,t=2,p=1",  # what a shell makes of a hash in double quotes
        "hunter2" * 200,
    ],
)  # fmt: skip
def test_malformed_hash_or_long_password_is_refused(stored: str) -> None:
    said = refusal(user_and_password, f"anna:{stored}")
    assert "password" in said
    assert stored not in said


def test_hash_with_other_costs_is_accepted() -> None:
    for cost in ("m=65536,t=3,p=4", "m=8,t=1,p=1", "m=262144,t=16,p=16"):
        user_and_password("anna:" + HASH.replace("m=19456,t=2,p=1", cost))


def test_hash_is_recognised_by_its_prefix() -> None:
    assert is_hash(HASH)
    assert not is_hash("hunter2")
    assert not is_hash("x" + HASH)


@pytest.mark.parametrize("key", [HASH, "sk s3cret", "s3cret\x00", "schlüssel-s3cret"])
def test_error_does_not_repeat_an_invalid_key(key: str) -> None:
    """A hash is refused as a key: clients would have to send the hash itself."""
    assert key not in refusal(one_key, key)
    assert "s3cret" not in refusal(one_key, key)
