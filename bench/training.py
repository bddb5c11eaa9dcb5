"""What training an adapter costs on this machine, beside a plain transformers Trainer with peft.

`python bench/training.py [--data FILE] [--chats N] [--rounds N] [--json]` runs `finetune.py` and a
plain script in turns on the same dialogues, with the same recipe: seconds of the training alone and
of the whole command, the most memory, and the held-out loss. `--help` has the rest.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

# Started as a script, Python only looks beside it.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.ending import told
from bench.flags import Parser, positive
from bench.machine import machine
from bench.rounds import Say, to_stderr
from bench.timed import Timed, timed
from model.system_resources import available_cores

CHECKOUT = Path(__file__).parents[1]
DATA = CHECKOUT / "training" / "chats" / "lighthouse.jsonl"
CHATS, ROUNDS = 100, 3
OURS, PLAIN = "finetune.py", "plain Trainer + peft"


@dataclass(frozen=True)
class Run:
    """Seconds of the training alone and of the whole command, bytes, nats a token."""

    training: float
    whole: float
    peak: int
    loss: float


Rounds = Mapping[str, list[Run]]


def main() -> int:
    return told(_figures)


def _figures() -> str:
    given = _parser().given(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="linly-bench-") as scratch:
        data = _first(given["data"], given["chats"], Path(scratch))
        rounds = measure(data, given["dtype"], given["rounds"], Path(scratch), to_stderr)
    figures = summary(rounds)
    return json.dumps(figures) if given["json"] else table(figures)


def _parser() -> Parser:
    about = (__doc__ or "").split("\n\n")[0]
    parser = Parser(prog="bench/training.py", description=about, allow_abbrev=False)
    add = parser.add_argument
    add("--data", type=Path, default=DATA, metavar="FILE", help="JSON Lines of dialogues")
    add("--chats", type=positive, default=CHATS, metavar="N", help="the first so many (100)")
    add("--rounds", type=positive, default=ROUNDS, metavar="N", help="default: 3")
    add("--dtype", choices=("auto", "bf16", "fp32"), default="auto", help="of the base")
    add("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _first(data: Path, chats: int, scratch: Path) -> Path:
    path = scratch / "dialogues.jsonl"
    lines = data.read_text(encoding="utf-8").splitlines(keepends=True)[:chats]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def measure(data: Path, dtype: str, rounds: int, scratch: Path, say: Say) -> Rounds:
    """Both in each round, each of them first in every second one."""
    flags = ["--data_path", str(data), "--dtype", dtype, "--early_stopping_patience", "0"]
    job = _job(flags, scratch)
    found: dict[str, list[Run]] = {OURS: [], PLAIN: []}
    for number in range(rounds):
        names = (OURS, PLAIN) if number % 2 == 0 else (PLAIN, OURS)
        for name in names:
            output = scratch / f"{number}-{names.index(name)}"
            run = _ours(flags, output) if name == OURS else _plain(job, output, scratch)
            say(
                f"round {number + 1}: {name} trained {run.training:.1f} s, {run.whole:.1f} s in "
                f"all, {run.peak / 1e9:.2f} GB, held-out loss {run.loss:.3f}"
            )
            found[name].append(run)
    return found


def _ours(flags: Sequence[str], output: Path) -> Run:
    command = [sys.executable, "finetune.py", *flags, "--output_dir", str(output)]
    done = timed([*command, "--progress", "json"])
    card = json.loads((output / "linly_adapter.json").read_text(encoding="utf-8"))
    training = _when(done, "saving") - _when(done, "training")
    return Run(training, done.seconds, done.peak, card["training"]["loss"]["adapter"])


def _when(done: Timed, stage: str) -> float:
    """Seconds until a stage began."""
    told = ((at, json.loads(line)) for at, line in done.lines)
    return next(at for at, event in told if event.get("name") == stage)


def _job(flags: Sequence[str], scratch: Path) -> dict[str, object]:
    """What `finetune.py` makes of the flags, for the plain script."""
    from training.base_context import resolve_base
    from training.base_loader import resolve_compute_config
    from training.collator import training_rows
    from training.data_preparation import prepare_data
    from training.options import read_options
    from training.trainer import TrainerConfig

    options = read_options([*flags, "--output_dir", str(scratch / "unused")])
    ground = resolve_base(options)
    material = prepare_data(options, ground, lambda _: None)
    computer = resolve_compute_config("cpu", "auto", options.dtype, None, None)
    plan = TrainerConfig(material.learned, material.held_out, material.hyperparameters, computer)
    return {
        "base": str(ground.folder.path),
        "dtype": computer.dtype,
        "threads": available_cores(),
        "recipe": material.hyperparameters.to_json(),
        "interval": plan.interval,
        "learned": training_rows(material.learned),
        "held_out": training_rows(material.held_out),
    }


def _plain(job: Mapping[str, object], output: Path, scratch: Path) -> Run:
    file = scratch / "job.json"
    file.write_text(json.dumps({**job, "output": str(output)}), encoding="utf-8")
    done = timed([sys.executable, "-m", "bench.learning.plain", str(file)])
    told = json.loads(done.lines[-1][1])
    return Run(told["train_seconds"], done.seconds, done.peak, told["loss"])


def summary(rounds: Rounds) -> dict[str, object]:
    """Medians by name, and how many times as fast ours is: the medians of each round's ratio."""
    figures: dict[str, object] = {"machine": machine()}
    for name, runs in rounds.items():
        figures[name] = {
            "training_seconds": median(run.training for run in runs),
            "whole_seconds": median(run.whole for run in runs),
            "peak_bytes": max(run.peak for run in runs),
            "held_out_loss": median(run.loss for run in runs),
        }
    pairs = list(zip(rounds[OURS], rounds[PLAIN], strict=True))
    figures["ratios"] = {
        "training": median(plain.training / ours.training for ours, plain in pairs),
        "whole": median(plain.whole / ours.whole for ours, plain in pairs),
    }
    return figures


def table(figures: Mapping[str, object]) -> str:
    lines = [str(figures["machine"]), "",
             "| | training, s | whole command, s | most memory, GB | held-out loss |",
             "|---|---|---|---|---|"]  # fmt: skip
    for name in (OURS, PLAIN):
        values = figures[name]
        assert isinstance(values, dict)  # noqa: S101 (made above)
        lines.append(
            f"| {name} | {values['training_seconds']:.1f} | {values['whole_seconds']:.1f} | "
            f"{values['peak_bytes'] / 1e9:.2f} | {values['held_out_loss']:.3f} |"
        )
    ratios = figures["ratios"]
    assert isinstance(ratios, dict)  # noqa: S101
    lines.append(f"| times as fast | {ratios['training']:.2f} | {ratios['whole']:.2f} | | |")
    return "\n".join(lines)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
