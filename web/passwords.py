"""Hashes and verifies passwords of `--auth`; `python -m web.passwords` creates account lines.

Hashes are argon2id in its standard form, with the cost that OWASP's password storage cheat sheet
gives as a minimum for a service: 19 MiB, two passes, one lane. Measured on two cores: one
verification takes 23 ms of CPU time, and 30 to 45 ms beside other work. Threads may verify at the
same time.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from getpass import getpass
from typing import Any

import anyio
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error

from model.config.argument_parser import ArgumentParser
from model.config.secret_values import MAX_PASSWORD_BYTES, encoded, is_hash
from model.errors import LinlyError, SettingsError

__all__ = ["PasswordChecker", "hash_password", "is_hash", "verify_password"]

PASSES = 2
MEMORY_KIB = 19 * 1024
LANES = 1
MAX_CACHED_KEYS = 1024
MAX_THREADS = 2  # so that many logins at once take 38 MiB, not gigabytes


def hash_password(password: str) -> str:
    """Returns the argon2id hash of a password in its standard form.

    Raises:
        SettingsError: the password is empty or longer than 1 kB.
    """
    password_bytes = encoded(password)
    if not password_bytes:
        raise SettingsError("password_empty")
    if len(password_bytes) > MAX_PASSWORD_BYTES:
        raise SettingsError("password_too_long", max_password_bytes=MAX_PASSWORD_BYTES)
    return _hasher().hash(password_bytes)


def verify_password(password: str | bytes, stored: str) -> bool:
    """Whether `password` matches a stored password or hash; False if it is empty or over 1 kB.

    A hash takes tens of milliseconds, so do not call this on the event loop.
    """
    sent = encoded(password) if isinstance(password, str) else password
    if not 0 < len(sent) <= MAX_PASSWORD_BYTES:
        return False
    if not is_hash(stored):
        return secrets.compare_digest(sent, encoded(stored))
    try:
        return _hasher().verify(stored, sent)
    except (Argon2Error, ValueError):  # settings have checked its form
        return False


def _hasher() -> PasswordHasher:
    return PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES)


class PasswordChecker:
    """Verifies logins, and API keys that are passwords. Safe to call from any thread.

    It caches right keys, as digests with a secret of this process, so that argon2 runs once for
    each key and not for each request.
    """

    def __init__(self) -> None:
        self._digest_key = secrets.token_bytes(32)
        self._verified: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()
        self._limiter = anyio.CapacityLimiter(MAX_THREADS)

    def verify_account(self, accounts: Mapping[str, str], user: str, password: str) -> bool:
        """Whether `password` is that of `user`. If any password is hashed, the check takes as long
        for users that do not exist or have a plain password."""
        stored = accounts.get(user, "")
        is_right = verify_password(password, stored)
        if not is_hash(stored):
            decoy = next(filter(is_hash, accounts.values()), None)
            if decoy is not None:
                verify_password(password, decoy)
        return is_right and user in accounts

    def verify_key(self, key: bytes, stored: Iterable[str]) -> bool:
        """Whether an API key matches one of the stored hashes; a wrong key is verified against
        each of them."""
        hashes = tuple(stored)
        if self.has_verified(key, hashes):
            return True
        for hashed in hashes:
            if verify_password(key, hashed):
                self._remember(self._digest(key, hashed))
                return True
        return False

    def has_verified(self, key: bytes, stored: Iterable[str]) -> bool:
        """Whether the cache has an API key for one of the stored hashes; computes no argon2."""
        digests = [self._digest(key, hashed) for hashed in stored]
        with self._lock:
            cached = next((digest for digest in digests if digest in self._verified), None)
            if cached is not None:
                self._verified.move_to_end(cached)
        return cached is not None

    async def in_thread(self, check: Callable[..., bool], *args: Any) -> bool:
        """Runs a check of this class in a worker thread, MAX_THREADS at a time."""
        return await anyio.to_thread.run_sync(check, *args, limiter=self._limiter)

    def _digest(self, key: bytes, hashed: str) -> bytes:
        text = hashed.encode() + b"\0" + key
        return hashlib.blake2b(text, key=self._digest_key, digest_size=32).digest()

    def _remember(self, digest: bytes) -> None:
        with self._lock:
            self._verified[digest] = None
            if len(self._verified) > MAX_CACHED_KEYS:
                self._verified.popitem(last=False)


def main(argv: Sequence[str]) -> int:
    """Prints an account line; returns 0, 1 when interrupted, 2 for wrong use."""
    try:
        print(account_line(argv))
    except LinlyError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except (KeyboardInterrupt, EOFError):
        print("Interrupted: no line was written.", file=sys.stderr)
        return 1
    return 0


def account_line(argv: Sequence[str]) -> str:
    """Returns `user:hash`, with a password from the terminal or a pipe.

    Raises:
        SettingsError: a flag, the user or the password is invalid.
    """
    user: str | None = _parser().read(argv).user
    at_terminal = sys.stdin is not None and sys.stdin.isatty()
    if user is None and not at_terminal:
        raise SettingsError("user_missing")
    user = _checked_user(user if user is not None else _ask("User: "))
    return f"{user}:{hash_password(_ask_password() if at_terminal else _piped_password())}"


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m web.passwords",
        description="Print a line for the file of --auth_file: a user with a hashed password.",
        epilog="On a terminal, the program asks for the password twice and does not show it; in a "
        "pipe, it reads one line from standard input. It writes the line to standard output: "
        "add it to a file with `>> accounts`.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "user",
        nargs="?",
        metavar="USER",
        help="user name (default: the program asks for it on a terminal)",
    )
    return parser


def _checked_user(user: str) -> str:
    if not user or user != user.strip() or ":" in user or user.startswith("#"):
        raise SettingsError("user_name_invalid")
    if not user.isprintable():
        raise SettingsError("user_name_unprintable")
    return user


def _ask(prompt: str) -> str:
    print(prompt, end="", file=sys.stderr, flush=True)  # standard output may be the file
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.strip()


def _ask_password() -> str:
    password = getpass("Password: ")
    if getpass("Once more: ") != password:
        raise SettingsError("passwords_differ")
    return password


def _piped_password() -> str:
    data = sys.stdin.buffer.read(2 * MAX_PASSWORD_BYTES)
    try:
        password = data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SettingsError("password_not_utf8") from None
    if any(sign in password for sign in "\n\r\0"):
        raise SettingsError("password_not_one_line")
    return password


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
