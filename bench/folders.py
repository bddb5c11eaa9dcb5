"""Measures what converting, checking and merging a large model costs on this machine.

`python bench/folders.py [--layers N] [--rounds N] [--json]` makes a TencentPretrain checkpoint with
random weights of Open-Linly-13B's geometry and a few of its layers, and an adapter for it; then in
turns copies it, converts it, merges the adapter and checks the result. Speeds are compared with
that of copying; memory is the peak of each command. `--help` lists the flags.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

# A script's import path begins with its own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import common
from bench.random_model import (
    CONTROL_TOKENS,
    SPREAD,
    Geometry,
    add_geometry,
    geometry_of,
    random_tensors,
)
from model.convert.spm_file import GGML, write_spm
from model.convert.tencent import LAYER_NAMES, NAMES

LAYERS = 6
INPUTS = ("checkpoint.bin", "tokenizer.model", "adapter")
RANK = 16
UNKNOWN, CONTROL, BYTE, NORMAL = 2, 3, 6, 1  # SentencePiece's types of tokens


# Of each command by its name, in each round: `seconds`, `bytes_per_second` written, `peak_bytes`.
Costs = Mapping[str, list[dict[str, float]]]


@common.script
def main() -> int:
    parser = common.script_parser("folders", __doc__, rounds=3)
    add_geometry(parser, LAYERS)
    parser.add_argument(
        "--dir", type=Path, metavar="DIR",
        help="folder on the disk to measure, with space for four times the model "
        "(default: the system's temporary folder)",
    )  # fmt: skip
    args = parser.read(sys.argv[1:])
    geometry = geometry_of(args, LAYERS)
    with tempfile.TemporaryDirectory(prefix="linly-bench-", dir=args.dir) as scratch:
        costs = measure_commands(geometry, args.rounds, Path(scratch))
    return common.print_figures(summary(costs), args.json, table)


def measure_commands(geometry: Geometry, rounds: int, scratch: Path) -> Costs:
    """Runs every command in each round; the costs by the command's name."""
    common.log(f"writing a checkpoint with {geometry.layers} layers …")
    # In a process of its own: what a parent uses counts as the peak of the commands it starts.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(write_inputs, geometry, scratch).result()
    source, tokenizer, adapter = (str(scratch / name) for name in INPUTS)
    copy, converted, merged = (str(scratch / name) for name in ("copy.bin", "converted", "merged"))
    merge = ("merge", "--base_model", converted, "--lora_model", adapter, "--output_dir", merged)
    commands: dict[str, tuple[str, Sequence[str]]] = {
        "copy": (copy, ["cp", source, copy]),
        "convert": (converted, _model("convert", source, converted, "--tokenizer", tokenizer)),
        "merge": (merged, _model(*merge)),
        "check": (merged, _model("check", merged)),
    }
    costs: Costs = {name: [] for name in commands}
    for number in range(rounds):
        for name, (output, command) in commands.items():
            cost = _measure(command, Path(output), writes=name != "check")
            peak = f"{cost['peak_bytes'] / 1e9:.2f} GB"
            common.log(f"round {number + 1}: {name} {cost['seconds']:.1f} s, {peak}")
            costs[name].append(cost)
        Path(copy).unlink()
        for folder in (converted, merged):
            shutil.rmtree(folder)
    return costs


def _model(*words: str) -> list[str]:
    return [sys.executable, "-m", "model", *words]


def _measure(command: Sequence[str], output: Path, writes: bool) -> dict[str, float]:
    """Run a command until its output is on the disk, from where its input comes, too.

    Raises:
        CalledProcessError: it failed.
    """
    common.drop_from_page_cache(output.parent.rglob("*"))
    began = time.perf_counter()
    result = common.run_process(command)
    paths = (output, *output.rglob("*")) if writes else ()
    files = [path for path in paths if path.is_file()]
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    seconds = time.perf_counter() - began
    speed = sum(file.stat().st_size for file in files) / seconds
    return {"seconds": seconds, "bytes_per_second": speed, "peak_bytes": result.peak_bytes}


def summary(costs: Costs) -> common.Figures:
    """Medians by command: seconds, bytes a second, peak memory, and the speed over copying."""
    figures = {name: common.command_costs(runs) for name, runs in costs.items()}
    copy = figures["copy"]["bytes_per_second"]
    return {"machine": common.machine()} | {
        name: {**cost, "over_copy": cost["bytes_per_second"] / copy}
        for name, cost in figures.items()
    }


def table(figures: common.Figures) -> str:
    rows = [["", "s", "MB/s", "over copying", "most memory, GB"]]
    for name, values in figures.items():
        if name != "machine":
            speed = f"{values['bytes_per_second'] / 1e6:.0f}" if values["over_copy"] else ""
            ratio = f"{values['over_copy']:.2f}" if values["over_copy"] else ""
            peak = f"{values['peak_bytes'] / 1e9:.2f}"
            rows.append([name, f"{values['seconds']:.1f}", speed, ratio, peak])
    return f"{figures['machine']}\n\n{common.format_table(rows)}"


def write_inputs(geometry: Geometry, folder: Path) -> None:
    """Write a TencentPretrain checkpoint, its SentencePiece model and an adapter into `folder`."""
    checkpoint, _, adapter = (folder / name for name in INPUTS)
    write_checkpoint(geometry, checkpoint)
    write_sentencepiece(geometry.vocab, folder)
    write_random_adapter(geometry, adapter)


def write_checkpoint(geometry: Geometry, path: Path) -> None:
    """Write a .bin in float16, all of which is in memory meanwhile."""
    import torch

    names = {name: tencent_name for tencent_name, name in NAMES.items()}
    in_layer = {name: tencent_name for tencent_name, name in LAYER_NAMES.items()}
    weights = {}
    for tensor in random_tensors(geometry, seed=0):
        if (name := names.get(tensor.name)) is None:
            layer, part = tensor.name.removeprefix("model.layers.").split(".", 1)
            name = f"encoder.transformer.{layer}.{in_layer[part]}"
        weights[name] = tensor.read()
    torch.save(weights, path)


def write_sentencepiece(vocab_size: int, folder: Path) -> None:
    """Write a tokenizer.model of LLaMA's control tokens, the 256 bytes, and words."""
    tokens = [*CONTROL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256
    words = [f"w{number}" for number in range(vocab_size - len(tokens))]
    fields = {
        "tokens": tokens + words,
        "token_type": types + [NORMAL] * len(words),
        "scores": [0.0] * len(tokens) + [-float(number) for number in range(len(words))],
        "unknown_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    write_spm(lambda name, default=None: fields.get(name.removeprefix(GGML), default), folder)


def write_random_adapter(geometry: Geometry, folder: Path) -> None:
    """Write a LoRA of rank RANK on all linear layers, in float16."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    tensors, modules = {}, set()
    for name, shape in geometry.tensors().items():
        if not name.endswith("_proj.weight"):
            continue
        module = name.removesuffix(".weight")
        modules.add(module.rpartition(".")[2])
        for side, size in (("A", (RANK, shape[1])), ("B", (shape[0], RANK))):
            values = torch.randn(size, generator=generator) * SPREAD
            tensors[f"base_model.model.{module}.lora_{side}.weight"] = values.half()
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": sorted(modules),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
