"""The flags of `inference_LLaMA.py`, read into one frozen `TerminalOptions`.

Flags about the model are those of `app.py` and come from the same environment.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.config.argument_parser import ArgumentParser
from model.config.process_secrets import without_secrets
from model.config.server_flags import build_parser
from model.config.settings import Settings, read_settings
from model.types import ChatRequest, Message, RequestError, Sampling, SettingsError

# Read as app.py reads them.
SHARED = ("base_model", "adapters_dir", "prompts_dir", "quantization", "device", "threads",
          "context_length", "max_sequences", "cache_memory", "cache_dir", "data_dir", "engine_url",
          "engine_key")  # fmt: skip
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
MAX_SCALE = 8.0
ABOUT = """\
Chat in the terminal with a LLaMA-family model and its LoRA adapters. With --data_file, or with
lines piped in, answer each line and write one JSON object a line.
"""
LINES = """\
A line of --data_file is a JSON object with "prompt", with "instruction" and perhaps "input", or
with "messages"; or a JSON string; or a plain question. Flags about the model can come from the
environment: --base_model as LINLY_BASE_MODEL.
"""


@dataclass(frozen=True)
class RequestDefaults:
    """How replies are to be made. None and "" mean the adapter's or the model's own."""

    adapter: str | None = None
    scale: float = 1.0
    template: str | None = None
    system: str = ""
    sampling: Sampling = field(default_factory=Sampling)

    def request(self, messages: Sequence[Message], *, drop_oldest: bool) -> ChatRequest:
        """The messages, behind the system prompt unless they bring their own."""
        wanted = self.system.strip() and messages[0].role != "system"
        system = (Message("system", self.system),) if wanted else ()
        return ChatRequest(
            (*system, *messages), self.adapter, self.scale, self.sampling, self.template,
            drop_oldest,
        )  # fmt: skip


@dataclass(frozen=True)
class TerminalOptions:
    """What the program was told. `lora_model` is a folder or a name, as it was typed."""

    settings: Settings
    lora_model: str | None
    defaults: RequestDefaults
    batch: bool
    data_file: Path | None
    output_file: Path | None


def read_options(
    argv: Sequence[str], environ: Mapping[str, str], *, has_keyboard: bool
) -> TerminalOptions:
    """Read `argv` (without the program's name) over `environ`.

    Args:
        has_keyboard: somebody types; else the lines to answer come from standard input.

    Raises:
        SettingsError: a flag or a value is wrong, in one sentence.
    """
    given = {k: v for k, v in vars(_parser().read(argv)).items() if v is not None}
    shared = [f"--{name}={given[name]}" for name in SHARED if name in given]
    batch = "data_file" in given or not has_keyboard
    if "output_file" in given and not batch:
        raise SettingsError(
            "output_file_without_input",
        )
    wishes = RequestDefaults(
        scale=given.get("scale", 1.0),
        template=given.get("prompt_template"),
        system=given.get("system", ""),
        sampling=_sampling(given),
    )
    settings = read_settings(shared, without_secrets(environ, keep=SHARED))
    return TerminalOptions(
        settings, given.get("lora_model"), wishes, batch,
        given.get("data_file"), given.get("output_file"),
    )  # fmt: skip


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="inference_LLaMA.py", description=ABOUT, epilog=LINES, allow_abbrev=False
    )  # fmt: skip
    add = parser.add_argument
    add(
        "--lora_model", type=_not_empty, metavar="A",
        help="a LoRA adapter: a folder, or a name in the adapters folder (default: none)",
    )  # fmt: skip
    add(
        "--scale", type=_scale, metavar="S",
        help=f"the adapter's strength, from 0 to {MAX_SCALE:g} (default: 1)",
    )  # fmt: skip
    add(
        "--prompt_template", type=_not_empty, metavar="NAME",
        help="a template in prompts/, or model (default: the adapter's or the model's own)",
    )  # fmt: skip
    add("--system", metavar="TEXT", help="what the model is told before the chat")
    add("--data_file", type=Path, metavar="F", help="questions to answer, one a line")
    add(
        "--output_file", type=Path, metavar="G",
        help="where replies go (default: standard output); a file of an earlier run is continued",
    )  # fmt: skip
    _add_sampling(parser.add_argument_group("how words are chosen"))
    model = parser.add_argument_group("the model")
    for action in build_parser()._actions:
        if action.dest in SHARED:
            model._add_action(action)
    return parser


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    add, usual = group.add_argument, Sampling()
    texts = {
        "temperature": "0 always takes the likeliest word",
        "top_p": "only the likeliest words that together have this share; 1: off",
        "top_k": "only that many words; 0: off",
        "min_p": "only words with this share of the likeliest one's; 0: off",
        "repetition_penalty": "above 1, what was said becomes less likely; 1: off",
    }
    for name, text in texts.items():
        value = getattr(usual, name)
        kind, metavar = (int, "N") if isinstance(value, int) else (float, "X")
        add(f"--{name}", type=kind, metavar=metavar, help=f"{text} (default: {value})")
    add(
        "--max_new_tokens", type=int, metavar="N",
        help="longest reply in tokens (default: what the context has room for)",
    )  # fmt: skip
    add(
        "--seed", type=int, metavar="N",
        help="the same seed gives the same reply; line n of a file gets seed N + n",
    )  # fmt: skip


def _sampling(given: Mapping[str, int | float]) -> Sampling:
    try:
        values = {name: given[name] for name in SAMPLING if name in given}
        return Sampling(max_tokens=given.get("max_new_tokens"), **values)  # type: ignore[arg-type]
    except RequestError as error:
        said = error.message.replace("max_tokens", "max_new_tokens")
        raise SettingsError("flag_value", reason=said) from error


def _scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_SCALE:
        raise argparse.ArgumentTypeError(f"{text!r} is no strength from 0 to {MAX_SCALE:g}")
    return value


def _not_empty(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the value is empty")
    return text
