"""Who may come in: the page's password and the API's key."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from model.settings import Settings

ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that is misread when dictated


@dataclass(frozen=True)
class Access:
    """What visitors are asked for: the password of one of the `accounts`, or the `passphrase`
    with any name, or nothing where there is neither.

    A page that asks for a password and an API without a key would leave the back door open, so
    the API then asks for one of the page's passwords as its key.

    `training` is the flag of that name. Who comes through the public link is known by the port that
    it leads to, `link_port`: what a visitor sends, such as a Host header, could be made up.
    """

    accounts: Mapping[str, str] = field(default_factory=dict)
    passphrase: str | None = None
    api_key: str | None = None
    training: str = "off"
    link_port: int | None = None

    @property
    def login(self) -> Callable[[str, str], bool] | None:
        """For Gradio: whether a user and a password may come in."""
        return self._allows if self.accounts or self.passphrase else None

    def _allows(self, user: str, password: str) -> bool:
        if self.passphrase is not None:
            return _same(password, self.passphrase)
        # Compared also where there is no such user, who would else be known by a quicker answer.
        return _same(password, self.accounts.get(user, "")) and user in self.accounts

    def may_train(self, scope: Mapping[str, Any]) -> bool:
        """Whether the request of this ASGI scope comes from somebody who may train here."""
        if self.training == "local":
            return not self.through_link(scope)
        return self.training == "everyone"

    def through_link(self, scope: Mapping[str, Any]) -> bool:
        """Whether the request of this ASGI scope comes through the public link."""
        _, port = scope.get("server") or (None, None)
        return self.link_port is not None and port == self.link_port

    def allows_key(self, key: str) -> bool:
        """Whether the API may be used with `key`."""
        if self.api_key is not None:
            return _same(key, self.api_key)
        passwords = [*self.accounts.values(), *([self.passphrase] if self.passphrase else [])]
        # All of them are compared, so that the time tells nothing.
        matches = [_same(key, password) for password in passwords]
        return not passwords or any(matches)


def decide(settings: Settings, link_port: int | None = None) -> Access:
    """`--auth` as it is; with `--share` alone, a passphrase made up now.

    `link_port` is the port that a public link leads to.
    """
    accounts = settings.accounts
    made_up = passphrase() if settings.share and not accounts else None
    return Access(accounts, made_up, settings.api_key, settings.training, link_port)


def passphrase() -> str:
    """12 characters in groups of four, 59 bits."""
    groups = ("".join(secrets.choice(ALPHABET) for _ in range(4)) for _ in range(3))
    return "-".join(groups)


def _same(a: str, b: str) -> bool:
    return secrets.compare_digest(a.encode(), b.encode())
