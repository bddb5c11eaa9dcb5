"""Who may come in: the page's password and the API's key."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from model.config.settings import Settings
from web.hosts import HostNames, host_name, is_loopback
from web.passwords import PasswordChecker, is_hash

# What proxies add, where they are told to: one on this machine that adds none is this machine.
FORWARDED = (
    b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto",
    b"x-real-ip", b"cf-connecting-ip",
)  # fmt: skip
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that is misread when dictated


@dataclass(frozen=True)
class AccessPolicy:
    """What visitors are asked for: the password of one of the `accounts`; without accounts, those
    who come through the public link are asked for the `passphrase`, with any name.

    A page that asks for a password and an API without a key would leave the back door open, so
    the API then asks for one of the page's passwords as its key.

    Where there is neither a password nor a key, the API answers this machine alone, unless it is
    `api_open`: serving a page to others does not mean serving programs.

    Web pages of the `origins` may use it from a browser, with a key like everybody.

    `training` is the flag of that name. Who comes through the public link is known by the port that
    it leads to, `link_port`: what a visitor sends, such as a Host header, could be made up.
    """

    accounts: Mapping[str, str] = field(default_factory=dict, repr=False)
    passphrase: str | None = field(default=None, repr=False)
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    api_open: bool = False
    origins: tuple[str, ...] = ()
    admin_key: str | None = field(default=None, repr=False)
    training: str = "off"
    link_port: int | None = None
    hosts: HostNames = field(default_factory=HostNames)
    checker: PasswordChecker = field(default_factory=PasswordChecker, repr=False, compare=False)

    def needs_login(self, scope: Mapping[str, Any]) -> bool:
        """Whether the page asks the sender of this ASGI scope for a password."""
        return bool(self.accounts) or self._asks_passphrase(scope)

    def verify(self, scope: Mapping[str, Any], user: str, password: str) -> bool:
        """Whether a user and a password may come in. Hashes take tens of milliseconds."""
        if self.accounts:
            return self.checker.verify_account(self.accounts, user, password)
        return self._asks_passphrase(scope) and _same(password, self.passphrase or "")

    def may_train(self, scope: Mapping[str, Any]) -> bool:
        """Whether the request of this ASGI scope comes from somebody who may train here."""
        if self.training == "local":
            return not self.through_link(scope)
        return self.training == "everyone"

    def through_link(self, scope: Mapping[str, Any]) -> bool:
        """Whether the request of this ASGI scope comes through the public link."""
        _, port = scope.get("server") or (None, None)
        return self.link_port is not None and port == self.link_port

    def allows_api(self, scope: Mapping[str, Any], key: str) -> bool:
        """Whether the API answers a request of this ASGI scope that comes with `key`."""
        keys = self.keys(scope)
        plain = [known for known in (*keys, self.admin_key or "") if not is_hash(known)]
        # All of them are compared, so that the time tells nothing.
        matches = [_same_key(key, known) for known in plain]
        if key and (any(matches) or self.checker.verify_key(_key_bytes(key), _hashes(keys))):
            return True
        return not keys and (self.api_open or self.is_local(scope))

    def keys(self, scope: Mapping[str, Any]) -> tuple[str, ...]:
        """Those that the API asks for; the page's passwords, where it has no keys of its own."""
        made_up = (self.passphrase,) if self.passphrase and self._asks_passphrase(scope) else ()
        return self.api_keys or (*self.accounts.values(), *made_up)

    def is_slow(self, scope: Mapping[str, Any], key: str) -> bool:
        """Whether checking `key` takes tens of milliseconds, because hashes have to be computed."""
        hashes = _hashes(self.keys(scope))
        return bool(key and hashes) and not self.checker.has_verified(_key_bytes(key), hashes)

    def allows_admin(self, key: str) -> bool:
        """Whether adapters may be loaded and unloaded with `key`."""
        return self.admin_key is not None and _same_key(key, self.admin_key)

    def is_local(self, scope: Mapping[str, Any]) -> bool:
        """Whether a request comes from this machine itself, not through a proxy or the link.

        Another web page in a browser here could reach this address under a name of its own (DNS
        rebinding): so the name that was asked for counts, too.
        """
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        ends = [end[0] for end in (scope.get("server"), scope.get("client")) if end]
        asked = host_name(headers.get(b"host", ""))
        return (
            len(ends) == 2
            and all(map(is_loopback, (*ends, asked)))
            and not any(name in headers for name in FORWARDED)
            and not self.through_link(scope)
        )

    def _asks_passphrase(self, scope: Mapping[str, Any]) -> bool:
        return self.passphrase is not None and self.through_link(scope)


def decide(settings: Settings, link_port: int | None = None) -> AccessPolicy:
    """`--auth` as it is; with `--share` alone, a passphrase made up now.

    `link_port` is the port that a public link leads to.
    """
    accounts = settings.accounts
    made_up = passphrase() if settings.share and not accounts else None
    return AccessPolicy(
        accounts=accounts,
        passphrase=made_up,
        api_keys=settings.api_key,
        api_open=settings.api_without_key,
        origins=settings.allow_origin,
        admin_key=settings.admin_key,
        # Where the weights are elsewhere, so is what a training would take.
        training="off" if settings.engine_url else settings.training,
        link_port=link_port,
        hosts=HostNames(settings.server_name, settings.allowed_hosts),
    )


def passphrase() -> str:
    """12 characters in groups of four, 59 bits."""
    groups = ("".join(secrets.choice(ALPHABET) for _ in range(4)) for _ in range(3))
    return "-".join(groups)


def _hashes(keys: Iterable[str]) -> tuple[str, ...]:
    return tuple(filter(is_hash, keys))


def _same(a: str, b: str) -> bool:
    return secrets.compare_digest(a.encode(), b.encode())


def _same_key(sent: str, known: str) -> bool:
    """A header's letters are its bytes; a password of other letters is sent as UTF-8."""
    return secrets.compare_digest(_key_bytes(sent), known.encode())


def _key_bytes(sent: str) -> bytes:
    return sent.encode("latin-1", "replace")
