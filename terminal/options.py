"""Reads the flags of `inference_LLaMA.py` into one frozen `TerminalOptions`.

The flags about the model are those of `app.py`, and can come from the same environment variables.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.config.argument_parser import ArgumentParser, not_empty
from model.config.process_secrets import without_secrets
from model.config.server_flags import build_parser
from model.config.settings import Settings, read_settings
from model.errors import RequestError, SettingsError
from model.sampling import SAMPLING_PARAMETERS, Sampling
from model.types import MAX_ADAPTER_SCALE, ChatRequest, Message

# Flags that app.py has, too.
SHARED_FLAGS = (
    "base_model", "adapters_dir", "prompts_dir", "quantization", "device", "threads",
    "context_length", "max_sequences", "cache_memory", "cache_dir", "data_dir", "engine_url",
    "engine_key",
)  # fmt: skip
SAMPLING_FLAGS = [name for name, parameter in SAMPLING_PARAMETERS.items() if parameter.help]
DESCRIPTION = """\
Chat in the terminal with a LLaMA-family model and its LoRA adapters. With --data_file, or when
lines come from a pipe, the program answers each line and writes one line of JSON for it.
"""
EPILOG = """\
A line of --data_file is a JSON object with "prompt", with "instruction" and an optional "input",
or with "messages"; or a JSON string; or a plain question. Flags of the model can also be set in the
environment: --base_model as LINLY_BASE_MODEL.
"""


@dataclass(frozen=True)
class RequestDefaults:
    """Settings of all requests.

    Without an `adapter`, the base answers. `template` None means the adapter's or the model's own.
    """

    adapter: str | None = None
    adapter_scale: float = 1.0
    template: str | None = None
    system: str = ""
    sampling: Sampling = field(default_factory=Sampling)

    def request(self, messages: Sequence[Message], *, drop_oldest: bool) -> ChatRequest:
        """A request with the system prompt, unless the messages begin with their own."""
        add_system = self.system.strip() and messages[0].role != "system"
        system = (Message("system", self.system),) if add_system else ()
        return ChatRequest(
            (*system, *messages), self.adapter, self.adapter_scale, self.sampling, self.template,
            drop_oldest,
        )  # fmt: skip


@dataclass(frozen=True)
class TerminalOptions:
    """The program's options. `lora_model` is a folder or a name, as the user typed it."""

    settings: Settings
    lora_model: str | None
    defaults: RequestDefaults
    batch: bool
    data_file: Path | None
    output_file: Path | None


def read_terminal_options(
    argv: Sequence[str], environ: Mapping[str, str], *, has_keyboard: bool
) -> TerminalOptions:
    """Reads `argv`, without the program's name, and the environment.

    Args:
        has_keyboard: the user can type; else the lines to answer come from standard input.

    Raises:
        SettingsError: a flag or its value is wrong.
    """
    args = {k: v for k, v in vars(_parser().read(argv)).items() if v is not None}
    batch = "data_file" in args or not has_keyboard
    if "output_file" in args and not batch:
        raise SettingsError("output_file_without_input")
    defaults = RequestDefaults(
        adapter_scale=args.get("scale", 1.0),
        template=args.get("prompt_template"),
        system=args.get("system", ""),
        sampling=_sampling(args),
    )
    shared = [f"--{name}={args[name]}" for name in SHARED_FLAGS if name in args]
    settings = read_settings(shared, without_secrets(environ, keep=SHARED_FLAGS))
    return TerminalOptions(
        settings, args.get("lora_model"), defaults, batch,
        args.get("data_file"), args.get("output_file"),
    )  # fmt: skip


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="inference_LLaMA.py", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False
    )  # fmt: skip
    add = parser.add_argument
    add(
        "--lora_model", type=not_empty, metavar="A",
        help="LoRA adapter: a folder, or a name in --adapters_dir (default: none)",
    )  # fmt: skip
    add(
        "--scale", type=_adapter_scale, metavar="S",
        help=f"strength of the adapter, from 0 to {MAX_ADAPTER_SCALE:g} (default: 1)",
    )  # fmt: skip
    add(
        "--prompt_template", type=not_empty, metavar="NAME",
        help="prompt template: a name in --prompts_dir, or model (default: the adapter's or the "
        "model's own)",
    )  # fmt: skip
    add("--system", metavar="TEXT", help="system prompt (default: none)")
    add("--data_file", type=Path, metavar="F", help="file of questions to answer, one a line")
    add(
        "--output_file", type=Path, metavar="G",
        help="file for the replies (default: standard output); the file of an earlier run is "
        "continued",
    )  # fmt: skip
    _add_sampling(parser.add_argument_group("sampling"))
    model = parser.add_argument_group("model")
    for action in build_parser()._actions:
        if action.dest in SHARED_FLAGS:
            model._add_action(action)
    return parser


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    add, defaults = group.add_argument, Sampling()
    for name in SAMPLING_FLAGS:
        value = getattr(defaults, name)
        kind, metavar = (int, "N") if isinstance(value, int) else (float, "X")
        add(
            f"--{name}",
            type=kind,
            metavar=metavar,
            help=f"{SAMPLING_PARAMETERS[name].help} (default: {value})",
        )
    add(
        "--max_new_tokens", type=int, metavar="N",
        help="maximum tokens of a reply (default: up to the end of the context)",
    )  # fmt: skip
    add(
        "--seed", type=int, metavar="N",
        help="seed: the same seed gives the same reply; line n of a file gets seed N + n "
        "(default: a new one each time)",
    )  # fmt: skip


def _sampling(args: Mapping[str, int | float]) -> Sampling:
    try:
        values = {name: args[name] for name in (*SAMPLING_FLAGS, "seed") if name in args}
        return Sampling(max_tokens=args.get("max_new_tokens"), **values)  # type: ignore[arg-type]
    except RequestError as error:
        reason = error.message.replace("max_tokens", "max_new_tokens")
        raise SettingsError("flag_value", reason=reason) from error


def _adapter_scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_ADAPTER_SCALE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a strength from 0 to {MAX_ADAPTER_SCALE:g}"
        )
    return value
