"""Host names that requests may use."""

from __future__ import annotations

import socket

import pytest

from web.hosts import HostNames, host_name, is_loopback


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost:7860", "localhost"),
        ("127.0.0.1:7860", "127.0.0.1"),
        ("[::1]:7860", "::1"),
        ("[::1]", "::1"),
        ("chat.example.", "chat.example"),
        ("Chat.Example:443", "chat.example"),
        ("", ""),
        (":7860", ""),
        ("user@chat.example", ""),
        ("user:password@localhost", ""),
        ("localhost/evil.example", ""),
        ("localhost?evil.example", ""),
        ("localhost#evil.example", ""),
        ("localhost:port", ""),
        ("localhost:99999", ""),
        ("[::1", ""),
        ("[nonsense]", ""),
        ("\x00", "\x00"),
    ],
)
def test_host_name(header: str, name: str) -> None:
    assert host_name(header) == name


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.8.9.1", "::1"]
)  # fmt: skip
def test_this_machine_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "localhost.evil.example", "evil.example", "10.0.0.1", "0.0.0.0", "::", "1"]  # noqa: S104
)  # fmt: skip
def test_other_machines_are_not(host: str) -> None:
    assert not is_loopback(host)


FOREIGN = [
    "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evillocalhost", "",
    "a@localhost", "localhost@evil.example", "xlocalhost:7860", "127.0.0.1:port",
]  # fmt: skip


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "::1"])
def test_a_server_on_loopback_allows_loopback_names_only(name: str) -> None:
    """Foreign names can come from DNS rebinding."""
    names = HostNames(name)
    for header in ("localhost", "LOCALHOST:7860", "127.0.0.1:1", "[::1]:7860", "chat.localhost"):
        assert names.allows(header)
    own = socket.gethostname()
    for header in (*FOREIGN, "10.0.0.1", "192.168.1.5:7860", own if own != "localhost" else "x"):
        assert not names.allows(header)


def test_a_server_on_all_addresses_allows_addresses_and_the_machine_s_name() -> None:
    """DNS rebinding cannot use them."""
    names = HostNames("0.0.0.0")  # noqa: S104
    own = socket.gethostname().lower()
    for header in ("10.0.0.1:7860", "[fe80::1]:7860", own, f"{own.partition('.')[0]}.local:7860"):
        assert names.allows(header)
    for header in (*FOREIGN, f"{own}.evil.example"):
        assert not names.allows(header)


def test_server_name_and_allowed_hosts_are_allowed() -> None:
    names = HostNames("Chat.Example", ("Other.example", "*.Wild.example"))
    for header in ("chat.example:7860", "other.example", "OTHER.example:1", "a.wild.example",
                   "a.b.wild.example", "localhost"):  # fmt: skip
        assert names.allows(header)
    for header in (*FOREIGN, "wild.example", "notwild.example", "sub.other.example"):
        assert not names.allows(header)


def test_additional_names_are_allowed_for_one_request() -> None:
    names = HostNames()
    assert not names.allows("abc.share.example")
    assert names.allows("abc.share.example", ["abc.share.example"])
    assert not names.allows("evil.example", ["abc.share.example"])
    assert not names.allows("", [""])


def test_star_allows_every_name() -> None:
    names = HostNames("127.0.0.1", ("*",))
    for header in ("evil.example", "10.0.0.1"):
        assert names.allows(header)
