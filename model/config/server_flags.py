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
        epilog="Every flag can come from the environment: --server_port as LINLY_SERVER_PORT, or "
        "from the file that LINLY_SERVER_PORT_FILE names.",
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


def _add_page_flags(add: AddFlag) -> None:
    """Adds the flags of the page and of its public link."""
    add(
        "--server_name",
        type=not_empty,
        metavar="ADDRESS",
        help="address to listen on (default: 127.0.0.1; 0.0.0.0 for every one)",
    )
    add("--server_port", type=port, metavar="PORT", help="port (default: 7860; 0: any free one)")
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
        type=hours,
        metavar="HOURS",
        help="after which the public link ends (default: 72; 0: never)",
    )
    add(
        "--share_messages",
        type=positive,
        metavar="N",
        help="replies for each visitor of the public link (default: no limit)",
    )
    add(
        "--share_adapters",
        type=adapter_names,
        metavar="A,B",
        help="the adapters that visitors of the public link may use; base is the base alone "
        "(default: all of them)",
    )


def _add_access_flags(add: AddFlag) -> None:
    """Adds the flags that say who may use the page and the API."""
    add(
        "--auth",
        type=user_and_password,
        action="append",
        metavar="USER:PASSWORD",
        help="ask visitors for these; given several times, each account has its own chats "
        "(in LINLY_AUTH: one a line)",
    )
    add(
        "--auth_file",
        type=Path,
        metavar="FILE",
        help="a file of such accounts, one a line; the passwords may be hashes: "
        "python -m web.passwords makes such lines",
    )
    add(
        "--api_key",
        type=keys,
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
        type=origin,
        action="append",
        metavar="ORIGIN",
        help="let web pages of this origin, such as https://chat.example.com, use /v1 from a "
        "browser; may be given several times (default: none)",
    )
    add(
        "--allowed_hosts",
        type=host_names,
        action="extend",
        metavar="NAME,NAME",
        help="further names under which browsers may ask for the page, such as chat.example.com "
        "or *.example.com; * for any. Known without this flag: loopback names, IP addresses, "
        "--server_name and this machine's own name",
    )
    add(
        "--admin_key",
        type=one_key,
        metavar="KEY",
        help="the key that loads, unloads and rescans adapters through /v1/adapters",
    )


def _add_engine_flags(add: AddFlag) -> None:
    """Adds the flags of the engine: remote server, queue, memory, threads."""
    add(
        "--engine_url",
        type=engine_url,
        metavar="URL",
        help="answer through this OpenAI-compatible server, such as vLLM: http://gpu-box:8000/v1. "
        "Of --base_model only its tokenizer is read then",
    )
    add("--engine_key", type=one_key, metavar="KEY", help="the key that this server asks for")
    add(
        "--max_sequences",
        type=positive,
        metavar="N",
        help="replies made at the same time (default: 16); more wait in a queue",
    )
    add(
        "--max_waiting",
        type=positive,
        metavar="N",
        help="how many may wait there (default: 256); more are told when to try again",
    )
    add(
        "--cache_memory",
        type=memory_size,
        metavar="SIZE",
        help="memory for the keys and values of running and idle chats, as in 500M or 4G "
        "(default: half of what is free once the model is loaded)",
    )
    add(
        "--threads",
        type=positive,
        metavar="N",
        help="threads that compute on the CPU (default: the cores that this program may use)",
    )
    add(
        "--context_length",
        type=positive,
        metavar="TOKENS",
        help="longest prompt with its reply (default: what the model was trained for)",
    )


def _add_storage_and_log_flags(add: AddFlag) -> None:
    """Adds the flags of chats, training, logs and the device."""
    add(
        "--data_dir",
        type=Path,
        metavar="DIR",
        help="where chats are kept (default: your data folder)",
    )
    add(
        "--database_url",
        type=database_url,
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
