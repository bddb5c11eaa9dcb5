"""The flags of `app.py`, with their help: how each value is written, and what it becomes."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from urllib.parse import urlsplit

from model.flags import Parser

EMBEDDED_DEFAULT = "smollm2-135m-instruct"
SIZES = {"M": 1 << 20, "G": 1 << 30}


def build_parser() -> Parser:
    """The flags of `app.py`, with their help. No default here: see `_defaults`."""
    parser = Parser(
        prog="app.py",
        description="Chat in a browser with a LLaMA-family model and its LoRA adapters.",
        epilog="Every flag can come from the environment: --server_port as LINLY_SERVER_PORT.",
        argument_default=None,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--base_model",
        type=_not_empty,
        metavar="MODEL",
        help="a model folder, a name in models/, a hub id, or "
        f"{EMBEDDED_DEFAULT} (default: Open-Linly-13b if that folder is there, else the latter)",
    )
    add(
        "--adapters_dir",
        type=Path,
        metavar="DIR",
        help="a folder of PEFT LoRA adapter folders (default: adapters)",
    )
    add("--prompts_dir", type=Path, metavar="DIR", help="prompt templates (default: prompts)")
    add(
        "--quantization",
        choices=["8bit", "4bit", "none"],
        help="weights of the base: 8bit "
        "(default), 4bit (needs a CUDA GPU), none (float32 on the CPU, 16 bits on CUDA)",
    )
    add(
        "--server_name",
        type=_not_empty,
        metavar="ADDRESS",
        help="address to listen on (default: 127.0.0.1; 0.0.0.0 for every one)",
    )
    add("--server_port", type=_port, metavar="PORT", help="port (default: 7860; 0: any free one)")
    add(
        "--share",
        action="store_true",
        default=None,
        help="print a temporary public link and the passphrase that its visitors must enter",
    )
    add(
        "--share_public",
        action="store_true",
        default=None,
        help="a public link with no passphrase: whoever has it can chat",
    )
    add(
        "--share_hours",
        type=_hours,
        metavar="HOURS",
        help="after which the public link ends (default: 72; 0: never)",
    )
    add(
        "--share_messages",
        type=_positive,
        metavar="N",
        help="replies for each visitor of the public link (default: no limit)",
    )
    add(
        "--share_adapters",
        type=_names,
        metavar="A,B",
        help="the adapters that visitors of the public link may use; base is the base alone "
        "(default: all of them)",
    )
    add(
        "--auth",
        type=_user_and_password,
        action="append",
        metavar="USER:PASSWORD",
        help="ask visitors for these; given several times, each account has its own chats "
        "(in LINLY_AUTH: one a line)",
    )
    add(
        "--api_key",
        type=_keys,
        action="append",
        metavar="KEY",
        help="a key that /v1 asks for (Authorization: Bearer KEY); may be given several times "
        "(in LINLY_API_KEY: with spaces between). Without any, only this machine may use /v1",
    )
    add(
        "--api_key_file",
        type=Path,
        metavar="FILE",
        help="a file of such keys, one a line; the machine's other users do not see it",
    )
    add(
        "--api_without_key",
        action="store_true",
        default=None,
        help="let other machines use /v1 without a key, too",
    )
    add(
        "--allow_origin",
        type=_origin,
        action="append",
        metavar="ORIGIN",
        help="let web pages of this origin, such as https://chat.example.com, use /v1 from a "
        "browser; may be given several times (default: none)",
    )
    add(
        "--admin_key",
        type=_one_key,
        metavar="KEY",
        help="the key that loads, unloads and rescans adapters through /v1/adapters",
    )
    add(
        "--engine_url",
        type=_url,
        metavar="URL",
        help="answer through this OpenAI-compatible server, such as vLLM: http://gpu-box:8000/v1. "
        "Of --base_model only its tokenizer is read then",
    )
    add("--engine_key", type=_one_key, metavar="KEY", help="the key that this server asks for")
    add(
        "--max_sequences",
        type=_positive,
        metavar="N",
        help="replies made at the same time (default: 16); more wait in a queue",
    )
    add(
        "--max_waiting",
        type=_positive,
        metavar="N",
        help="how many may wait there (default: 256); more are told when to try again",
    )
    add(
        "--cache_memory",
        type=_size,
        metavar="SIZE",
        help="memory for the keys and values of running and idle chats, as in 500M or 4G "
        "(default: half of what is free once the model is loaded)",
    )
    add(
        "--threads",
        type=_positive,
        metavar="N",
        help="threads that compute on the CPU (default: the cores that this program may use)",
    )
    add(
        "--context_length",
        type=_positive,
        metavar="TOKENS",
        help="longest prompt with its reply (default: what the model was trained for)",
    )
    add(
        "--data_dir",
        type=Path,
        metavar="DIR",
        help="where chats are kept (default: your data folder)",
    )
    add(
        "--database_url",
        type=_database_url,
        metavar="URL",
        help="keep chats in this PostgreSQL instead, for several replicas at once: "
        "postgresql://user:password@host/database (the machine's other users see flags, not "
        "LINLY_DATABASE_URL)",
    )
    add(
        "--training",
        choices=["local", "everyone", "off"],
        help="who may train adapters in the page: local (default) is everybody but the visitors of "
        "a public link",
    )
    add(
        "--log_format",
        choices=["text", "json"],
        help="what the terminal gets to see: text (default), or a JSON object a line",
    )
    add(
        "--log_requests",
        action="store_true",
        default=None,
        help="a line for each request to the API and for each reply",
    )
    add(
        "--log_prompts",
        action="store_true",
        default=None,
        help="in these lines what was asked and said, too",
    )
    add("--device", choices=["auto", "cpu", "cuda"], help="where the model runs (default: auto)")
    add(
        "--cache_dir",
        type=Path,
        metavar="DIR",
        help="where the embedded default model is kept (default: your cache folder)",
    )
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a number from 0 to 65535")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = -1
    if not 0 <= hours < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours")
    return hours


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("no adapter is named")
    return names


def _size(text: str) -> int:
    number, unit = text[:-1], text[-1:].upper()
    if unit not in SIZES or not number.replace(".", "", 1).isdecimal() or float(number) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, as in 500M or 4G")
    return int(float(number) * SIZES[unit])


def _keys(text: str) -> str:
    """Keys with white space between."""
    for key in text.split():
        _one_key(key)
    return _not_empty(text.strip())


def _one_key(text: str) -> str:
    if not text.isascii() or any(not character.isprintable() for character in text):
        raise argparse.ArgumentTypeError("a key is of ASCII letters, digits and signs")
    if " " in text:
        raise argparse.ArgumentTypeError("a key has no spaces")
    return _not_empty(text)


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is no origin, as in https://chat.example.com")
    return f"{parts.scheme}://{parts.netloc}"


def _url(text: str) -> str:
    """Where /v1 begins: it is added where only a host is given."""
    parts = urlsplit(text)
    try:
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(f"{text!r} is no address, as in http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise argparse.ArgumentTypeError("keys do not belong into an address: use --engine_key")
    return text.rstrip("/") if parts.path.strip("/") else f"{text.rstrip('/')}/v1"


def _database_url(text: str) -> str:
    """An address as libpq reads it. What is wrong with one is told without its password."""
    scheme, colon, _ = text.partition("://")
    if scheme not in ("postgresql", "postgres"):
        kind = f"{scheme}://" if colon else "it"
        raise argparse.ArgumentTypeError(f"{kind} is no PostgreSQL: it begins with postgresql://")
    if not _reads_as_address(text):
        raise argparse.ArgumentTypeError(
            "no address as in postgresql://user:password@host/database; in a password, signs like "
            "@ : / ? # % are written as %40 and so on"
        )
    return text


def _reads_as_address(url: str) -> bool:
    """Also, a password with signs that are not written as they should be must not be taken for a
    host or a database, whose name would be told."""
    from psycopg import ProgrammingError  # few pass an address, so few wait for this
    from psycopg.conninfo import conninfo_to_dict

    try:
        given = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    except (ProgrammingError, UnicodeError):
        return False
    names = given.get("host", "") + given.get("dbname", "")
    ports = given.get("port", "").replace(",", "")
    return "@" not in names and (not ports or ports.isdecimal())


def _not_empty(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the value is empty")
    return text


def _user_and_password(text: str) -> str:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise argparse.ArgumentTypeError("expected user:password, both of them not empty")
    return text
