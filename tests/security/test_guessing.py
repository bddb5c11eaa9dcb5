"""Guessing keys over HTTP, from one address and from many."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from web.access import AccessPolicy
from web.rate_limits import AttemptLimiter

ATTACKER, FRIEND = "203.0.113.7", "198.51.100.9"


@pytest.fixture
def url() -> Iterator[str]:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with serving(manager, AccessPolicy(api_keys=("right",), admin_key="boss")) as address:
        yield address


def ask(url: str, key: str | None, address: str | None, path: str = "models") -> httpx.Response:
    """Sends a request as a proxy on this machine does for a client at `address`."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    headers |= {} if address is None else {"X-Forwarded-For": address}
    return httpx.get(f"{url}/v1/{path}", headers=headers)


def guess(url: str, address: str, times: int = AttemptLimiter.PAIR_FAILURES) -> None:
    for number in range(times):
        assert ask(url, f"wrong{number}", address).status_code == 401


def test_an_address_with_too_many_wrong_keys_is_refused(url: str) -> None:
    guess(url, ATTACKER)
    for key in ("wrong9", "right", "boss"):
        refused = ask(url, key, ATTACKER)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "too_many_attempts"
        assert 0 < int(refused.headers["retry-after"]) <= AttemptLimiter.PAIR_SECONDS
    for address in (FRIEND, None):
        assert ask(url, "right", address).status_code == 200


def test_a_right_key_is_not_refused_for_wrong_keys_of_other_addresses(url: str) -> None:
    for number in range(30):
        guess(url, f"203.0.113.{number}", times=1)
    assert ask(url, "right", FRIEND).status_code == 200


def test_addresses_of_one_ipv6_network_are_one(url: str) -> None:
    for number in range(AttemptLimiter.PAIR_FAILURES):
        assert ask(url, f"wrong{number}", f"2001:db8::{number + 1}").status_code == 401
    assert ask(url, "wrong", "2001:db8::ffff").status_code == 429
    assert ask(url, "right", "2001:db8:0:1::1").status_code == 200


def test_this_machine_and_requests_without_a_key_do_not_count(url: str) -> None:
    for number in range(20):
        assert ask(url, f"wrong{number}", None).status_code == 401
        assert ask(url, None, ATTACKER).status_code == 401
    assert ask(url, "right", None).status_code == 200
    assert ask(url, "right", ATTACKER).status_code == 200


def test_a_client_with_an_old_key_does_not_lock_its_neighbours_out(url: str) -> None:
    for _ in range(20):
        assert ask(url, "old", FRIEND).status_code == 401
    assert ask(url, "right", FRIEND).status_code == 200


def test_a_user_cannot_guess_the_admin_key(url: str) -> None:
    """The API key is right; each wrong admin key counts."""
    assert ask(url, "right", ATTACKER, "adapters").status_code == 403
    guess(url, ATTACKER, times=4)
    assert ask(url, "boss", ATTACKER, "adapters").status_code == 429
    assert ask(url, "boss", FRIEND, "adapters").status_code == 200
