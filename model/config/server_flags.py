"""The flags of `app.py`, with their help texts and the parsers of their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from model.config.argument_parser import ArgumentParser, not_empty
from model.config.flag_values import (
    adapter_names,
    engine_url,
    host_names,
    hours,
    memory_size,
    origin,
    port,
    positive,
)
from model.config.secret_values import database_url, keys, one_key, user_and_password

EMBEDDED_DEFAULT = "smollm2-135m-instruct"
# The values of these flags never get into messages, logs, command lines or child processes.
SECRET_FLAGS = ("auth", "api_key", "admin_key", "engine_key", "database_url")

AddFlag = Callable[..., object]


def build_parser() -> ArgumentParser:
    """Builds the parser of `app.py`'s flags. It has no defaults: those are in `Settings`."""
    parser = ArgumentParser(
        prog="app.py",
        description="Chat in a browser with a LLaMA-family model and its LoRA adapters.",
        epilog="Every flag can also be set in the environment: --server_port as LINLY_SERVER_PORT, "
        "or LINLY_SERVER_PORT_FILE with the path of a file that contains the value.",
        argument_default=None,
        allow_abbrev=False,
    )
    parser.secret_flags = frozenset(SECRET_FLAGS)
    _add_model_flags(parser.add_argument)
    _add_page_flags(parser.add_argument)
    _add_access_flags(parser.add_argument)
    _add_engine_flags(parser.add_argument)
    _add_storage_and_log_flags(parser.add_argument)
    return parser


def _add_model_flags(add: AddFlag) -> None:
    """Adds the flags that say which model, adapters and templates are served."""
    add(
        "--base_model",
        type=not_empty,
        metavar="MODEL",
        help="base model: a folder, a name in models/, a hub id, or "
        f"{EMBEDDED_DEFAULT} (default: the folder Open-Linly-13b if it exists, else "
        f"{EMBEDDED_DEFAULT})",
    )
    add(
        "--adapters_dir",
        type=Path,
        metavar="DIR",
        help="folder that contains PEFT LoRA adapter folders (default: adapters)",
    )
    add(
        "--prompts_dir",
        type=Path,
        metavar="DIR",
        help="folder of prompt templates (default: prompts)",
    )
    add(
        "--quantization",
        choices=["8bit", "4bit", "none"],
        help="format of the base's weights: 8bit (default), 4bit (needs a CUDA GPU), "
        "none (float32 on the CPU, 16 bits on CUDA)",
    )


def _add_page_flags(add: AddFlag) -> None:
    """Adds the flags of the page and of its public link."""
    add(
        "--server_name",
        type=not_empty,
        metavar="ADDRESS",
        help="address to listen on (default: 127.0.0.1; 0.0.0.0: all addresses)",
    )
    add(
        "--server_port",
        type=port,
        metavar="PORT",
        help="port to listen on (default: 7860; 0: any free port)",
    )
    add(
        "--share",
        action="store_true",
        default=None,
        help="open a temporary public link and print it with the passphrase for its visitors",
    )
    add(
        "--share_public",
        action="store_true",
        default=None,
        help="open a public link without a passphrase: everyone who has the link can chat",
    )
    add(
        "--share_hours",
        type=hours,
        metavar="HOURS",
        help="hours until the public link ends (default: 72; 0: never)",
    )
    add(
        "--share_messages",
        type=positive,
        metavar="N",
        help="maximum replies of each visitor of the public link (default: no limit)",
    )
    add(
        "--share_adapters",
        type=adapter_names,
        metavar="A,B",
        help="adapters that visitors of the public link may use; base: no adapter (default: all)",
    )


def _add_access_flags(add: AddFlag) -> None:
    """Adds the flags that say who may use the page and the API."""
    add(
        "--auth",
        type=user_and_password,
        action="append",
        metavar="USER:PASSWORD",
        help="account for the login; can be passed several times (in LINLY_AUTH: one a line), and "
        "each account has its own chats",
    )
    add(
        "--auth_file",
        type=Path,
        metavar="FILE",
        help="file of accounts, one USER:PASSWORD a line; a password can be a hash: "
        "python -m web.passwords USER prints such a line",
    )
    add(
        "--api_key",
        type=keys,
        action="append",
        metavar="KEY",
        help="key for /v1 (Authorization: Bearer KEY); can be passed several times (in "
        "LINLY_API_KEY: separated by spaces). Without a key, only this machine may use /v1",
    )
    add(
        "--api_key_file",
        type=Path,
        metavar="FILE",
        help="file of API keys, one a line; other users of the machine cannot see it, unlike flags",
    )
    add(
        "--api_without_key",
        action="store_true",
        default=None,
        help="allow other machines to use /v1 without a key",
    )
    add(
        "--allow_origin",
        type=origin,
        action="append",
        metavar="ORIGIN",
        help="origin whose web pages may use /v1 from a browser, such as https://chat.example.com; "
        "can be passed several times (default: none)",
    )
    add(
        "--allowed_hosts",
        type=host_names,
        action="extend",
        metavar="NAME,NAME",
        help="more host names of the page, such as chat.example.com or *.example.com; *: any name. "
        "Always allowed: loopback names, IP addresses, --server_name and this machine's own name",
    )
    add(
        "--admin_key",
        type=one_key,
        metavar="KEY",
        help="key for loading, unloading and rescanning adapters through /v1/adapters",
    )


def _add_engine_flags(add: AddFlag) -> None:
    """Adds the flags of the engine: remote server, queue, memory, threads."""
    add(
        "--engine_url",
        type=engine_url,
        metavar="URL",
        help="OpenAI-compatible model server that generates the replies, such as vLLM at "
        "http://gpu-box:8000/v1; this program then reads only the tokenizer of --base_model",
    )
    add("--engine_key", type=one_key, metavar="KEY", help="API key of that model server")
    add(
        "--max_sequences",
        type=positive,
        metavar="N",
        help="maximum replies generated at the same time (default: 16); more wait in a queue",
    )
    add(
        "--max_waiting",
        type=positive,
        metavar="N",
        help="maximum replies in that queue (default: 256); more are refused, with a time to wait",
    )
    add(
        "--cache_memory",
        type=memory_size,
        metavar="SIZE",
        help="memory for the KV cache of running and idle chats, such as 500M or 4G "
        "(default: half of the free memory after the model is loaded)",
    )
    add(
        "--threads",
        type=positive,
        metavar="N",
        help="CPU threads for the model (default: the cores that this program may use)",
    )
    add(
        "--context_length",
        type=positive,
        metavar="TOKENS",
        help="maximum tokens of prompt and reply (default: the length of the model's training)",
    )


def _add_storage_and_log_flags(add: AddFlag) -> None:
    """Adds the flags of chats, training, logs and the device."""
    add(
        "--data_dir",
        type=Path,
        metavar="DIR",
        help="folder in which chats are saved (default: your data folder)",
    )
    add(
        "--database_url",
        type=database_url,
        metavar="URL",
        help="PostgreSQL database in which chats are saved instead, also for several replicas: "
        "postgresql://user:password@host/database (other users of the machine can see flags, but "
        "not LINLY_DATABASE_URL)",
    )
    add(
        "--training",
        choices=["local", "everyone", "off"],
        help="who may train adapters in the page: local (default: everyone except visitors of a "
        "public link), everyone, off",
    )
    add(
        "--log_format",
        choices=["text", "json"],
        help="format of the log in the terminal: text (default), or json (one object a line)",
    )
    add(
        "--log_requests",
        action="store_true",
        default=None,
        help="log a line for each request to the API and for each reply",
    )
    add(
        "--log_prompts",
        action="store_true",
        default=None,
        help="log the text of prompts and replies in these lines, too",
    )
    add("--device", choices=["auto", "cpu", "cuda"], help="device of the model (default: auto)")
    add(
        "--cache_dir",
        type=Path,
        metavar="DIR",
        help="folder for downloaded and converted models (default: your cache folder)",
    )
