"""Measures what training an adapter costs, beside a plain transformers Trainer with peft.

`python bench/training.py [--data FILE] [--chats N] [--rounds N] [--json]` runs `finetune.py` and
`baseline_trainer.py` in turns on the same dialogues, with the same hyperparameters: seconds of the
training alone and of the whole command, peak memory, and held-out loss. `--help` lists the flags.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

# A script's import path begins with its own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import common
from model.config.settings import CHECKOUT
from model.system_resources import available_cores

DATA = CHECKOUT / "training" / "chats" / "lighthouse.jsonl"
FINETUNE, BASELINE = "finetune.py", "plain Trainer + peft"


# Seconds of the training alone and of the whole command, peak bytes, and the loss in nats a token.
KEYS = ("training_seconds", "whole_seconds", "peak_bytes", "held_out_loss")

Costs = Mapping[str, list[dict[str, float]]]


@common.script
def main() -> int:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    parser = common.script_parser("training", __doc__, rounds=3)
    parser.add_argument(
        "--data",
        type=Path,
        default=DATA,
        metavar="FILE",
        help="file of dialogues in JSON Lines (default: the lighthouse's)",
    )
    common.add_number(parser, "chats", 100, "number of dialogues, from the start of the file")
    parser.add_argument(
        "--dtype",
        choices=("auto", "bf16", "fp32"),
        default="auto",
        help="type of the base's weights (default: auto)",
    )
    args = parser.read(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="linly-bench-") as folder:
        scratch = Path(folder)
        lines = args.data.read_text(encoding="utf-8").splitlines(keepends=True)[: args.chats]
        (scratch / "dialogues.jsonl").write_text("".join(lines), encoding="utf-8")
        costs = measure_trainings(args.dtype, args.rounds, scratch)
    return common.print_figures(summary(costs), args.json, table)


def measure_trainings(dtype: str, rounds: int, scratch: Path) -> Costs:
    """Both trainings on `scratch`/dialogues.jsonl in each round; they take turns in being first."""
    flags = ["--data_path", str(scratch / "dialogues.jsonl"), "--dtype", dtype]
    flags += ["--early_stopping_patience", "0"]
    job = _baseline_job(flags, scratch)
    costs: Costs = {FINETUNE: [], BASELINE: []}
    for number in range(rounds):
        names = (FINETUNE, BASELINE) if number % 2 == 0 else (BASELINE, FINETUNE)
        for name in names:
            output = scratch / f"{number}-{names.index(name)}"
            cost = _finetune(flags, output) if name == FINETUNE else _train(job, output, scratch)
            common.log(f"round {number + 1}: {name}: {', '.join(_cells(cost))}")
            costs[name].append(cost)
    return costs


def _finetune(flags: Sequence[str], output: Path) -> dict[str, float]:
    command = [sys.executable, "finetune.py", *flags, "--output_dir", str(output)]
    result = common.run_process([*command, "--progress", "json"])
    card = json.loads((output / "linly_adapter.json").read_text(encoding="utf-8"))
    events = [(seconds, json.loads(line)) for seconds, line in result.lines]
    began, ended = (
        next(seconds for seconds, event in events if event.get("name") == stage)
        for stage in ("training", "saving")
    )
    loss = card["training"]["loss"]["adapter"]
    return cost_of(ended - began, result.seconds, result.peak_bytes, loss)


def _baseline_job(flags: Sequence[str], scratch: Path) -> dict[str, object]:
    """What `finetune.py` makes of the flags, as the baseline's job."""
    from training.base_context import resolve_base
    from training.base_loader import resolve_compute_config
    from training.collator import training_rows
    from training.data_preparation import prepare_data
    from training.options import read_training_options
    from training.trainer import TrainerConfig

    options = read_training_options([*flags, "--output_dir", str(scratch / "unused")])
    base = resolve_base(options)
    data = prepare_data(options, base, lambda _: None)
    compute = resolve_compute_config("cpu", "auto", options.dtype, None, None)
    config = TrainerConfig(data.learned, data.held_out, data.hyperparameters, compute)
    return {
        "base": str(base.folder.path),
        "dtype": compute.dtype,
        "threads": available_cores(),
        "recipe": data.hyperparameters.to_json(),
        "interval": config.interval,
        "learned": training_rows(data.learned),
        "held_out": training_rows(data.held_out),
    }


def _train(job: Mapping[str, object], output: Path, scratch: Path) -> dict[str, float]:
    file = scratch / "job.json"
    file.write_text(json.dumps({**job, "output": str(output)}), encoding="utf-8")
    result = common.run_process([sys.executable, "-m", "bench.baseline_trainer", str(file)])
    report = json.loads(result.lines[-1][1])
    seconds, loss = report["train_seconds"], report["loss"]
    return cost_of(seconds, result.seconds, result.peak_bytes, loss)


def cost_of(*figures: float) -> dict[str, float]:
    """The figures of one training, named by KEYS."""
    return dict(zip(KEYS, figures, strict=True))


def summary(costs: Costs) -> common.Figures:
    """Medians by name; how many times as fast `finetune.py` is, by the medians of all ratios."""
    pairs = list(zip(costs[FINETUNE], costs[BASELINE], strict=True))
    return {
        "machine": common.machine(),
        **{name: common.command_costs(runs) for name, runs in costs.items()},
        "ratios": {
            name: median(other[f"{name}_seconds"] / own[f"{name}_seconds"] for own, other in pairs)
            for name in ("training", "whole")
        },
    }


def table(figures: common.Figures) -> str:
    ratios = [f"{ratio:.2f}" for ratio in figures["ratios"].values()]
    rows = [
        ["", "training", "whole command", "most memory", "held-out loss"],
        *([name, *_cells(figures[name])] for name in (FINETUNE, BASELINE)),
        ["times as fast", *ratios, "", ""],
    ]
    return f"{figures['machine']}\n\n{common.format_table(rows)}"


def _cells(cost: Mapping[str, float]) -> list[str]:
    training, whole, peak, loss = (cost[key] for key in KEYS)
    return [f"{training:.1f} s", f"{whole:.1f} s", f"{peak / 1e9:.2f} GB", f"{loss:.3f}"]


if __name__ == "__main__":
    sys.exit(main())
