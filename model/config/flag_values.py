"""Parsers of the values of `app.py`'s flags."""

from __future__ import annotations

import argparse
import math
import re
from urllib.parse import urlsplit

LABEL_RE = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")  # of a host name
SIZES = {"M": 1 << 20, "G": 1 << 30}


def port(text: str) -> int:
    """A TCP port, 0 for any."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (a number from 0 to 65535)")
    return int(text)


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def hours(text: str) -> float:
    """A number of hours, 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours, 0 or more")
    return number


def adapter_names(text: str) -> tuple[str, ...]:
    """Names of adapters, with commas between."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("no adapter is named")
    return names


def memory_size(text: str) -> int:
    """A size in bytes, written with a unit: 500M or 4G."""
    number, unit = text[:-1], text[-1:].upper()
    if unit not in SIZES or not number.replace(".", "", 1).isdecimal() or float(number) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500M or 4G")
    return int(float(number) * SIZES[unit])


def host_names(text: str) -> tuple[str, ...]:
    """Host names as `_host_name` reads them, with commas between."""
    names = tuple(_host_name(name.strip()) for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("no host is named")
    return names


def _host_name(text: str) -> str:
    """A host name as browsers send it: in lower case, international names in their ASCII form.
    `*.` before it means its subdomains, `*` alone every host."""
    wildcard, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    try:
        name = name.removesuffix(".").lower().encode("idna").decode("ascii").lower()
    except UnicodeError:
        name = ""
    if text != "*" and not (len(name) <= 253 and all(map(LABEL_RE.fullmatch, name.split(".")))):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a host name such as chat.example.com (without scheme and port)"
        )
    return wildcard + name


def origin(text: str) -> str:
    """The origin of a web page: scheme, host and port."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an origin such as https://chat.example.com"
        )
    return f"{parts.scheme}://{parts.netloc}"


def engine_url(text: str) -> str:
    """The URL of a server's API; /v1 is added if the URL has no path."""
    if "@" in text:  # checked first, so that no other error message repeats a password
        raise argparse.ArgumentTypeError("the address contains a key or password: use --engine_key")
    try:
        parts = urlsplit(text)
        is_valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        is_valid = False
    if not is_valid or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an address such as http://127.0.0.1:8000/v1"
        )
    return text.rstrip("/") if parts.path.strip("/") else f"{text.rstrip('/')}/v1"
