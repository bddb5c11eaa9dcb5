"""Who may come in: the page's password and the API's key."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from model.settings import Settings

ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that is misread when dictated


@dataclass(frozen=True)
class Access:
    """What visitors are asked for; None where nothing is.

    A page that asks for a password and an API without a key would leave the back door open, so
    the API then asks for the page's password as its key.
    """

    user: str | None = None
    password: str | None = None
    api_key: str | None = None

    @property
    def login(self) -> Callable[[str, str], bool] | None:
        """For Gradio: whether a user and a password may come in. Without `user`, any name may."""
        return self._allows if self.password else None

    def _allows(self, user: str, password: str) -> bool:
        right_user = self.user is None or _same(user, self.user)
        return _same(password, self.password or "") and right_user

    def allows_key(self, key: str) -> bool:
        """Whether the API may be used with `key`."""
        return self.api_key is None or _same(key, self.api_key)


def decide(settings: Settings) -> Access:
    """`--auth` as it is; with `--share` alone, a passphrase made up now."""
    user, password = settings.credentials or (None, None)
    if settings.share and password is None:
        password = passphrase()
    return Access(user, password, settings.api_key or password)


def passphrase() -> str:
    """12 characters in groups of four, 59 bits."""
    groups = ("".join(secrets.choice(ALPHABET) for _ in range(4)) for _ in range(3))
    return "-".join(groups)


def _same(a: str, b: str) -> bool:
    return secrets.compare_digest(a.encode(), b.encode())
