"""Reads the flags of `finetune.py`: alpaca-lora's flags under their names, and more."""

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
from model.errors import SettingsError
from model.tensor_names import LINEAR_MODULES

DESCRIPTION = """\
Train a LoRA adapter on dialogues. Some defaults depend on the data and the base. To continue an
interrupted training, run the same command again.
"""
HYPERPARAMETERS = (
    "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "num_epochs", "batch_size",
    "micro_batch_size", "learning_rate", "warmup_steps", "cutoff_len", "val_set_size",
    "train_on_inputs", "group_by_length", "early_stopping_patience", "seed",
)  # fmt: skip
WANDB_FLAGS = ("wandb_project", "wandb_run_name", "wandb_watch", "wandb_log_model")


@dataclass(frozen=True)
class TrainingOptions:
    """The flags of a training run. In `hyperparameters`, None means a default from the data."""

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


def read_training_options(argv: Sequence[str]) -> TrainingOptions:
    """Reads `argv`, without the program's name.

    Raises:
        SettingsError: a flag or its value is wrong.
    """
    args = vars(build_parser().read(argv))
    wandb = {name: args[name] for name in WANDB_FLAGS if args[name]}
    if wandb and importlib.util.find_spec("wandb") is None:
        raise SettingsError("wandb_not_installed")
    return TrainingOptions(
        data_path=args["data_path"],
        output_dir=args["output_dir"],
        base_model=args["base_model"],
        template=args["prompt_template_name"],
        description=args["description"],
        hyperparameters={name: args[name] for name in HYPERPARAMETERS},
        resume_from=args["resume_from_checkpoint"],
        dtype=args["dtype"],
        quantization=args["quantization"],
        device=args["device"],
        gradient_checkpointing=args["gradient_checkpointing"],
        threads=args["threads"],
        evaluate=args["eval"],
        wandb=wandb,
        progress=args["progress"],
        command=shlex.join(["python", "finetune.py", *argv]),
    )


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="finetune.py", description=DESCRIPTION, allow_abbrev=False)
    _add_paths(parser.add_argument_group("data and folders"))
    _add_training(parser.add_argument_group("training"))
    _add_lora(parser.add_argument_group("adapter"))
    _add_compute(parser.add_argument_group("machine and output"))
    return parser


def _add_paths(group: Any) -> None:
    add = group.add_argument
    add("--base_model", type=_not_blank, metavar="B",
        help="base model: a folder, a name in models/, a hub id, or smollm2-135m-instruct "
        "(default: the folder Open-Linly-13b if it exists, else "
        "smollm2-135m-instruct)")  # fmt: skip
    add("--data_path", type=_not_blank, required=True, metavar="D",
        help="training data: a file of JSON or JSON Lines with instruction/input/output, messages "
        "or conversations, or a data set on the hub (org/name)")  # fmt: skip
    add("--output_dir", type=Path, default=Path("lora-alpaca"), metavar="O",
        help="folder to create for the adapter (default: lora-alpaca)")  # fmt: skip
    add("--prompt_template_name", type=_not_blank, metavar="T",
        help="prompt template in prompts/ (default: the base's own)")  # fmt: skip
    add("--description", default="", help="one line about the adapter, shown in the page")
    add("--resume_from_checkpoint", nargs="?", const="last", metavar="C",
        help="checkpoint to continue from, or adapter to start with (to continue an interrupted "
        "training, run the same command without this flag)")  # fmt: skip


def _add_training(group: Any) -> None:
    add = group.add_argument
    add(
        "--num_epochs", type=_positive_number, default=3.0, help="passes over the data (default: 3)"
    )
    add("--batch_size", type=_positive_integer,
        help="chats per optimizer step (default: up to 128, so that there are 60 steps)",
    )  # fmt: skip
    add("--micro_batch_size", type=_positive_integer, default=4,
        help="chats computed at once (default: 4)")  # fmt: skip
    add("--learning_rate", type=_positive_number,
        help="highest learning rate (default: 3e-4 at a hidden size of 4096, more for smaller "
        "bases)",
    )  # fmt: skip
    add("--warmup_steps", type=_integer,
        help="steps until the highest learning rate (default: one step in twenty)")  # fmt: skip
    add("--cutoff_len", type=_positive_integer, default=512,
        help="maximum tokens of a chat; longer ones are cut (default: 512)")  # fmt: skip
    add("--val_set_size", type=_integer,
        help="chats held out to evaluate with (default: one in ten)")  # fmt: skip
    _add_switch(
        add, "--train_on_inputs", False, "train on the users' messages, too (default: False)"
    )
    _add_switch(add, "--add_eos_token", True, "ignored: the end of a reply is always trained")
    _add_switch(
        add, "--group_by_length", False, "put chats of similar length in one batch (default: False)"
    )
    add("--early_stopping_patience", type=_integer, default=3,
        help="evaluations without improvement until the training ends "
        "(default: 3; 0: never)")  # fmt: skip
    add(
        "--seed",
        type=_seed,
        default=42,
        help="seed: the same seed gives the same adapter (default: 42)",
    )


def _add_lora(group: Any) -> None:
    add = group.add_argument
    add("--lora_r", type=_positive_integer, default=8, help="rank (default: 8)")
    add("--lora_alpha", type=_positive_integer, default=16, help="alpha (default: 16)")
    add("--lora_dropout", type=_fraction, default=0.05, help="dropout (default: 0.05)")
    add("--lora_target_modules", type=_module_names, default=LINEAR_MODULES, metavar="M[,M…]",
        help=f"trained layers: all (default), or some of {', '.join(LINEAR_MODULES)}")  # fmt: skip


def _add_compute(group: Any) -> None:
    add = group.add_argument
    add("--device", choices=("auto", "cpu", "cuda"), default="auto",
        help="device of the training (default: auto)")  # fmt: skip
    add("--quantization", choices=("auto", "8bit", "4bit", "none"), default="auto",
        help="format of the base's weights during training "
        "(default: 8bit on CUDA, none on the CPU)")  # fmt: skip
    add("--dtype", choices=("auto", "bf16", "fp32"), default="auto",
        help="number format of the base (default: auto, 16 bits on CUDA; on the CPU bf16 if the "
        "processor computes in it, else fp32)")  # fmt: skip
    _add_switch(add, "--gradient_checkpointing", None,
                "use less memory and a third more time (default: only on CUDA)")  # fmt: skip
    add("--threads", type=_positive_integer, help="CPU threads (default: one per core)")
    _add_switch(add, "--eval", False,
                "evaluate base and adapter on the held-out chats and write their replies side by "
                "side; if --output_dir has an adapter, only evaluate (default: False)")  # fmt: skip
    for name in WANDB_FLAGS:
        add(f"--{name}", default="", help=argparse.SUPPRESS)
    add("--progress", choices=("bar", "json"), default="bar",
        help="progress: bar (default), or json (one JSON object a line on standard output, for "
        "programs)")  # fmt: skip


def _add_switch(add: Callable[..., Any], flag: str, default: bool | None, text: str) -> None:
    """Adds a flag that is written `--flag`, `--flag=True` or `--flag False`."""
    add(flag, nargs="?", const=True, default=default, type=_boolean, metavar="BOOL", help=text)


def _boolean(text: str) -> bool:
    if text.lower() in TRUE_WORDS:
        return True
    if text.lower() in FALSE_WORDS:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def _positive_integer(text: str) -> int:
    value = _integer(text)
    if value == 0:
        raise argparse.ArgumentTypeError("it must be above 0")
    return value


def _integer(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def _seed(text: str) -> int:
    value = _integer(text)
    if value >= 2**32:  # numpy's limit
        raise argparse.ArgumentTypeError("it must be below 2^32")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _positive_number(text: str) -> float:
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _fraction(text: str) -> float:
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _module_names(text: str) -> tuple[str, ...]:
    """Parses `[q_proj,v_proj]`, as alpaca-lora has it, or the same without brackets."""
    if text == "all":
        return LINEAR_MODULES
    names = [name.strip(" '\"") for name in text.strip("[]() ").split(",")]
    unknown = [name for name in names if name not in LINEAR_MODULES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(LINEAR_MODULES)}")
    return tuple(name for name in LINEAR_MODULES if name in names)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the value is empty")
    return text
