"""Parsers of secret values: accounts, keys and database addresses.

Error messages never repeat the value. The format of password hashes is checked here, before
anything is served; `web.passwords` creates and verifies the hashes.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import re

from model.config.argument_parser import not_empty

MAX_PASSWORD_BYTES = 1024
MAX_HASH_MEMORY = 256 * 1024  # KiB, for one login
MAX_HASH_PASSES = 16
MAX_HASH_LANES = 16
HASH_PREFIX = "$argon2"
HASH_RE = re.compile(
    r"\$argon2id\$v=19\$m=(\d{1,9}),t=(\d{1,9}),p=(\d{1,9})"
    r"\$([A-Za-z\d+/]{11,86})\$([A-Za-z\d+/]{22,86})",
    re.ASCII,
)
# What remains of a hash after a shell or an .env file has replaced `$argon2id` as a variable.
HASH_REMAINS_RE = re.compile(r",t=\d+,p=\d+", re.ASCII)
MALFORMED_HASH = (
    "the password hash is not a complete argon2id hash, as `python -m web.passwords` makes it "
    "(on a command line, put it in single quotes)"
)


def is_hash(stored: str) -> bool:
    """Whether a stored password is a hash rather than the password itself."""
    return stored.startswith(HASH_PREFIX)


def user_and_password(text: str) -> str:
    """An account, `user:password`; the password in plain text or as an argon2id hash."""
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise argparse.ArgumentTypeError("expected user:password, both of them not empty")
    if len(encoded(password)) > MAX_PASSWORD_BYTES:
        raise argparse.ArgumentTypeError(f"a password is longer than {MAX_PASSWORD_BYTES} bytes")
    if is_hash(password) or HASH_REMAINS_RE.search(password):
        _check_hash(password)
    return text


def encoded(password: str) -> bytes:
    """Returns the bytes of a password; accepts any character."""
    return password.encode("utf-8", "surrogatepass")


def _check_hash(stored: str) -> None:
    parts = HASH_RE.fullmatch(stored)
    if parts is None or not all(map(_is_base64, parts.group(4, 5))):
        raise argparse.ArgumentTypeError(MALFORMED_HASH)
    memory, passes, lanes = map(int, parts.group(1, 2, 3))
    if memory > MAX_HASH_MEMORY or passes > MAX_HASH_PASSES or lanes > MAX_HASH_LANES:
        raise argparse.ArgumentTypeError(
            f"the password hash costs more than {MAX_HASH_MEMORY // 1024} MiB, {MAX_HASH_PASSES} "
            f"passes or {MAX_HASH_LANES} lanes"
        )
    if not passes or not lanes or memory < 8 * lanes:
        raise argparse.ArgumentTypeError(MALFORMED_HASH)


def _is_base64(text: str) -> bool:
    """Whether the text is base64 as argon2 writes it: without padding and superfluous bits."""
    padded = text + "=" * (-len(text) % 4)
    try:
        return base64.b64encode(base64.b64decode(padded, validate=True)).decode() == padded
    except binascii.Error:
        return False


def keys(text: str) -> str:
    """One or more keys, with white space between."""
    for key in text.split():
        one_key(key)
    return not_empty(text.strip())


def one_key(text: str) -> str:
    """A key that an HTTP header can contain."""
    if not text.isascii() or any(not character.isprintable() for character in text):
        raise argparse.ArgumentTypeError("a key must consist of ASCII letters, digits and signs")
    if " " in text:
        raise argparse.ArgumentTypeError("a key must not contain spaces")
    if is_hash(text):
        raise argparse.ArgumentTypeError("a key cannot be a hash; only passwords of --auth can")
    return not_empty(text)


def database_url(text: str) -> str:
    """An address of a PostgreSQL database, as libpq reads it."""
    scheme, colon, _ = text.partition("://")
    if scheme not in ("postgresql", "postgres"):
        kind = f"{scheme}://" if colon and scheme.isalpha() and len(scheme) <= 12 else "it"
        raise argparse.ArgumentTypeError(
            f"{kind} is not a PostgreSQL address, which begins with postgresql://"
        )
    if not _is_database_address(text):
        raise argparse.ArgumentTypeError(
            "it is not an address such as postgresql://user:password@host/database; in a password, "
            "write signs like @ : / ? # % as %40 and so on"
        )
    return text


def _is_database_address(url: str) -> bool:
    """Whether libpq reads the URL, and no part of a password as host or database.

    That happens if the password has signs that are not percent-encoded; then error messages with
    the host would show the password.
    """
    from psycopg import ProgrammingError  # imported here: few commands get an address
    from psycopg.conninfo import conninfo_to_dict

    try:
        fields = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    except (ProgrammingError, UnicodeError):
        return False
    names = fields.get("host", "") + fields.get("dbname", "")
    ports = fields.get("port", "").replace(",", "")
    return "@" not in names and (not ports or ports.isdecimal())
