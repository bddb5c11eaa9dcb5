"""The access policy: who may use the page, the API and training."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from model.config.settings import Settings
from web.hosts import HostNames, host_name, is_loopback
from web.passwords import PasswordChecker, is_hash

# Headers that proxies add. A request without them from a loopback address counts as local, also
# when a proxy on this machine sends it.
FORWARDED = (
    b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto",
    b"x-real-ip", b"cf-connecting-ip",
)  # fmt: skip
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # without characters that look or sound alike


@dataclass(frozen=True)
class AccessPolicy:
    """Which passwords and keys the page and the API require, and what visitors may do.

    The page requires the password of one of the `accounts`. Without accounts, visitors through the
    public link need the `passphrase`, with any user name.

    The API requires one of the `api_keys`. Without keys, one of the page's passwords is the key:
    otherwise the API would be a way around them. Without password or key, the API accepts loopback
    clients only, unless `api_open`.

    Web pages of the `origins` may call the API from a browser, with a key like other clients.

    `training` is the flag of that name. The public link leads to a port of its own, `link_port`,
    which identifies its visitors: they can forge what they send, such as a Host header.
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
        """Whether the page requires a password for the request of this ASGI scope."""
        return bool(self.accounts) or self._needs_passphrase(scope)

    def verify(self, scope: Mapping[str, Any], user: str, password: str) -> bool:
        """Whether the password is that of the user. Hashes take tens of milliseconds."""
        if self.accounts:
            return self.checker.verify_account(self.accounts, user, password)
        return self._needs_passphrase(scope) and _same(password, self.passphrase or "")

    def may_train(self, scope: Mapping[str, Any]) -> bool:
        """Whether the sender of the request of this ASGI scope may train adapters."""
        if self.training == "local":
            return not self.through_link(scope)
        return self.training == "everyone"

    def through_link(self, scope: Mapping[str, Any]) -> bool:
        """Whether the request of this ASGI scope comes through the public link."""
        _, port = scope.get("server") or (None, None)
        return self.link_port is not None and port == self.link_port

    def allows_api(self, scope: Mapping[str, Any], key: str) -> bool:
        """Whether the API accepts a request of this ASGI scope that has `key`."""
        keys = self.keys(scope)
        plain_keys = [stored for stored in (*keys, self.admin_key or "") if not is_hash(stored)]
        # Compares with all keys, so that the time does not reveal which one is similar.
        matches = [_same_key(key, stored) for stored in plain_keys]
        if key and (any(matches) or self.checker.verify_key(_key_bytes(key), _hashes(keys))):
            return True
        return not keys and (self.api_open or self.is_local(scope))

    def keys(self, scope: Mapping[str, Any]) -> tuple[str, ...]:
        """Returns the keys that the API accepts: the API keys, or else the page's passwords."""
        passphrases = (
            (self.passphrase,) if self.passphrase and self._needs_passphrase(scope) else ()
        )
        return self.api_keys or (*self.accounts.values(), *passphrases)

    def is_slow(self, scope: Mapping[str, Any], key: str) -> bool:
        """Whether checking `key` takes tens of milliseconds, because hashes have to be computed."""
        hashes = _hashes(self.keys(scope))
        return bool(key and hashes) and not self.checker.has_verified(_key_bytes(key), hashes)

    def allows_admin(self, key: str) -> bool:
        """Whether `key` is the admin key."""
        return self.admin_key is not None and _same_key(key, self.admin_key)

    def is_local(self, scope: Mapping[str, Any]) -> bool:
        """Whether a request comes from this machine itself, not through a proxy or the link.

        The Host header must be a loopback name too: a foreign web page in a local browser could
        reach this address under its own name (DNS rebinding).
        """
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        ends = [end[0] for end in (scope.get("server"), scope.get("client")) if end]
        host = host_name(headers.get(b"host", ""))
        return (
            len(ends) == 2
            and all(map(is_loopback, (*ends, host)))
            and not any(name in headers for name in FORWARDED)
            and not self.through_link(scope)
        )

    def _needs_passphrase(self, scope: Mapping[str, Any]) -> bool:
        return self.passphrase is not None and self.through_link(scope)


def access_policy(settings: Settings, link_port: int | None = None) -> AccessPolicy:
    """Returns the policy of the settings, with a new passphrase for `--share` without `--auth`.

    Args:
        link_port: the port that a public link leads to.
    """
    accounts = settings.accounts
    return AccessPolicy(
        accounts=accounts,
        passphrase=new_passphrase() if settings.share and not accounts else None,
        api_keys=settings.api_key,
        api_open=settings.api_without_key,
        origins=settings.allow_origin,
        admin_key=settings.admin_key,
        # With a remote engine, this machine does not have the base's weights.
        training="off" if settings.engine_url else settings.training,
        link_port=link_port,
        hosts=HostNames(settings.server_name, settings.allowed_hosts),
    )


def new_passphrase() -> str:
    """Returns 12 random characters in groups of four, 59 bits."""
    groups = ("".join(secrets.choice(ALPHABET) for _ in range(4)) for _ in range(3))
    return "-".join(groups)


def _hashes(keys: Iterable[str]) -> tuple[str, ...]:
    return tuple(filter(is_hash, keys))


def _same(a: str, b: str) -> bool:
    return secrets.compare_digest(a.encode(), b.encode())


def _same_key(sent: str, stored: str) -> bool:
    """Compares a header's value, which is decoded as Latin-1, with a key that clients send as
    UTF-8."""
    return secrets.compare_digest(_key_bytes(sent), stored.encode())


def _key_bytes(sent: str) -> bytes:
    return sent.encode("latin-1", "replace")
