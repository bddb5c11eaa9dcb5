"""Who may come in: the page's password and the API's key."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from model.settings import Settings

ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that is misread when dictated


@dataclass(frozen=True)
class Access:
    """What visitors are asked for; None where nothing is.

    A page that asks for a password and an API without a key would leave the back door open, so
    the API then asks for the page's password as its key.

    `training` is the flag of that name. Who comes through the public link is known by the port that
    it leads to, `link_port`: what a visitor sends, such as a Host header, could be made up.
    """

    user: str | None = None
    password: str | None = None
    api_key: str | None = None
    training: str = "off"
    link_port: int | None = None

    @property
    def login(self) -> Callable[[str, str], bool] | None:
        """For Gradio: whether a user and a password may come in. Without `user`, any name may."""
        return self._allows if self.password else None

    def _allows(self, user: str, password: str) -> bool:
        right_user = self.user is None or _same(user, self.user)
        return _same(password, self.password or "") and right_user

    def may_train(self, scope: Mapping[str, Any]) -> bool:
        """Whether the request of this ASGI scope comes from somebody who may train here."""
        if self.training == "local":
            _, port = scope.get("server") or (None, None)
            return self.link_port is None or port != self.link_port
        return self.training == "everyone"

    def allows_key(self, key: str) -> bool:
        """Whether the API may be used with `key`."""
        return self.api_key is None or _same(key, self.api_key)


def decide(settings: Settings, link_port: int | None = None) -> Access:
    """`--auth` as it is; with `--share` alone, a passphrase made up now.

    `link_port` is the port that a public link leads to.
    """
    user, password = settings.credentials or (None, None)
    if settings.share and password is None:
        password = passphrase()
    key = settings.api_key or password
    return Access(user, password, key, settings.training, link_port)


def passphrase() -> str:
    """12 characters in groups of four, 59 bits."""
    groups = ("".join(secrets.choice(ALPHABET) for _ in range(4)) for _ in range(3))
    return "-".join(groups)


def _same(a: str, b: str) -> bool:
    return secrets.compare_digest(a.encode(), b.encode())
