"""The flags of `finetune.py`: alpaca-lora's by their names, and some beside."""

from __future__ import annotations

import argparse
import importlib.util
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config.argument_parser import ArgumentParser
from model.config.settings import FALSE_WORDS, TRUE_WORDS
from model.tensor_names import LINEAR_MODULES as LINEAR
from model.types import SettingsError

ABOUT = """\
Train a LoRA adapter on dialogues. What is left out follows from the data and the base. An
interrupted training goes on with the same command.
"""
FLAGS_OF_RECIPE = (
    "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "num_epochs", "batch_size",
    "micro_batch_size", "learning_rate", "warmup_steps", "cutoff_len", "val_set_size",
    "train_on_inputs", "group_by_length", "early_stopping_patience", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class TrainingOptions:
    """What a training was told. `hyperparameters` has a None for each that is to be found."""

    data_path: str
    output_dir: Path
    base_model: str | None
    template: str | None
    description: str
    hyperparameters: dict[str, Any]
    resume_from: str | None
    dtype: str
    quantization: str
    device: str
    gradient_checkpointing: bool | None
    threads: int | None
    evaluate: bool
    wandb: dict[str, str]
    progress: str
    command: str


def read_options(argv: Sequence[str]) -> TrainingOptions:
    """The flags of `argv`, without the program's name.

    Raises:
        SettingsError: one of them is wrong.
    """
    read = vars(build_parser().read(argv))
    wandb = {name: read[name] for name in WANDB if read[name]}
    if wandb and importlib.util.find_spec("wandb") is None:
        raise SettingsError(
            "wandb_not_installed",
        )
    return TrainingOptions(
        data_path=read["data_path"],
        output_dir=read["output_dir"],
        base_model=read["base_model"],
        template=read["prompt_template_name"],
        description=read["description"],
        hyperparameters={name: read[name] for name in FLAGS_OF_RECIPE},
        resume_from=read["resume_from_checkpoint"],
        dtype=read["dtype"],
        quantization=read["quantization"],
        device=read["device"],
        gradient_checkpointing=read["gradient_checkpointing"],
        threads=read["threads"],
        evaluate=read["eval"],
        wandb=wandb,
        progress=read["progress"],
        command=shlex.join(["python", "finetune.py", *argv]),
    )


WANDB = ("wandb_project", "wandb_run_name", "wandb_watch", "wandb_log_model")


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="finetune.py", description=ABOUT, allow_abbrev=False)
    _add_places(parser.add_argument_group("what is trained"))
    _add_training(parser.add_argument_group("how it is trained"))
    _add_lora(parser.add_argument_group("the adapter"))
    _add_machine(parser.add_argument_group("the machine, and what is told"))
    return parser


def _add_places(group: Any) -> None:
    add = group.add_argument
    add("--base_model", type=_not_empty, metavar="B",
        help="a folder, a name in models/, a hub id, or the embedded default "
        "(default: Open-Linly-13b where that folder is, else the latter)")  # fmt: skip
    add("--data_path", type=_not_empty, required=True, metavar="D",
        help="JSON or JSON Lines of instruction/input/output, messages or conversations; or a "
        "data set on the hub (org/name)")  # fmt: skip
    add("--output_dir", type=Path, default=Path("lora-alpaca"), metavar="O",
        help="the adapter's folder, to be made (default: lora-alpaca)")  # fmt: skip
    add("--prompt_template_name", type=_not_empty, metavar="T",
        help="a template in prompts/ (default: the base's own)")  # fmt: skip
    add("--description", default="", help="one line about the adapter, for the page")
    add("--resume_from_checkpoint", nargs="?", const="last", metavar="C",
        help="a checkpoint to go on from, or an adapter to begin with (an interrupted training "
        "needs no flag: the same command goes on)")  # fmt: skip


def _add_training(group: Any) -> None:
    add = group.add_argument
    add("--num_epochs", type=_above_zero, default=3.0, help="times to go through the data (3)")
    add("--batch_size", type=_count, help="chats an optimizer step (default: up to 128, so that "
        "there are 60 steps)")  # fmt: skip
    add("--micro_batch_size", type=_count, default=4, help="chats computed at once (4)")
    add("--learning_rate", type=_above_zero,
        help="the highest (default: 3e-4 at a width of 4096, more for narrower bases)")  # fmt: skip
    add("--warmup_steps", type=_whole, help="steps up to it (default: one in twenty)")
    add("--cutoff_len", type=_count, default=512, help="longest chat in tokens (512)")
    add("--val_set_size", type=_whole,
        help="chats held out to measure with (default: one in ten)")  # fmt: skip
    _switch(add, "--train_on_inputs", False, "learn what people say, too")
    _switch(add, "--add_eos_token", True, "the end of a reply is always learned; for old commands")
    _switch(add, "--group_by_length", False, "chats of like length in one batch")
    add("--early_stopping_patience", type=_whole, default=3,
        help="end when so many measurements have brought no better one (3; 0: never)")  # fmt: skip
    add("--seed", type=_seed, default=42, help="the same seed gives the same adapter (42)")


def _add_lora(group: Any) -> None:
    add = group.add_argument
    add("--lora_r", type=_count, default=8, help="rank (8)")
    add("--lora_alpha", type=_count, default=16, help="alpha (16)")
    add("--lora_dropout", type=_share, default=0.05, help="dropout (0.05)")
    add("--lora_target_modules", type=_modules, default=LINEAR, metavar="M[,M…]",
        help=f"all (the default), or some of {', '.join(LINEAR)}")  # fmt: skip


def _add_machine(group: Any) -> None:
    add = group.add_argument
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--quantization", choices=("auto", "8bit", "4bit", "none"), default="auto",
        help="of the base while it is trained on: 8bit on CUDA, none on the CPU")  # fmt: skip
    add("--dtype", choices=("auto", "bf16", "fp32"), default="auto",
        help="on the CPU: bf16 where the processor computes in it, else fp32")  # fmt: skip
    _switch(add, "--gradient_checkpointing", None, "less memory, a third more time (default: on "
            "CUDA)")  # fmt: skip
    add("--threads", type=_count, help="threads on the CPU (default: the cores there are)")
    _switch(add, "--eval", False, "measure base and adapter on the held-out chats, and write their "
            "replies side by side; with a finished output_dir nothing is trained")  # fmt: skip
    for name in WANDB:
        add(f"--{name}", default="", help=argparse.SUPPRESS)
    add("--progress", choices=("bar", "json"), default="bar",
        help="json: a line of JSON on stdout for each event, for programs")  # fmt: skip


def _switch(add: Callable[..., Any], flag: str, default: bool | None, text: str) -> None:
    """A flag that old commands pass as `--flag`, `--flag=True` and `--flag False`."""
    add(flag, nargs="?", const=True, default=default, type=_truth, metavar="BOOL", help=text)


def _truth(text: str) -> bool:
    if text.lower() in TRUE_WORDS:
        return True
    if text.lower() in FALSE_WORDS:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def _count(text: str) -> int:
    value = _whole(text)
    if value == 0:
        raise argparse.ArgumentTypeError("it must be above 0")
    return value


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def _seed(text: str) -> int:
    value = _whole(text)
    if value >= 2**32:  # numpy's limit
        raise argparse.ArgumentTypeError("it must be below 2^32")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _above_zero(text: str) -> float:
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _modules(text: str) -> tuple[str, ...]:
    """`[q_proj,v_proj]` as alpaca-lora takes it, or without brackets."""
    if text == "all":
        return LINEAR
    names = [name.strip(" '\"") for name in text.strip("[]() ").split(",")]
    unknown = [name for name in names if name not in LINEAR]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(LINEAR)}")
    return tuple(name for name in LINEAR if name in names)


def _not_empty(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the value is empty")
    return text
