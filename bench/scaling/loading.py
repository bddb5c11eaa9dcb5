"""Loading: seconds and peak memory, from a model's files and from the cache of quantised weights.

`python -m bench.scaling.loading FOLDER CACHE source|cache` is the process that is measured, a new
one for each time, because memory used before would hide in the peak. Files are dropped from the
page cache first. It prints a JSON object in one line: `seconds`, `peak_bytes`, and `cached`, which
tells whether the weights came from the cache. Then it puts those from the files into the cache.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.common import drop_from_page_cache, log, peak_bytes, run_process
from bench.scaling.model import BenchModel
from model.folders.model_folder import ModelFolder, read_model_folder
from model.folders.weights import read_tensors
from model.system_resources import available_cores

SOURCE, CACHE = "source", "cache"
PROGRAM_BYTES = 1_500_000_000  # Python, torch, and what is being quantised


@dataclass(frozen=True)
class LoadCost:
    """One loading in a process of its own: seconds, and peak memory in bytes.

    `in_bounds`: it needed no more than `Loading.bound_bytes`.
    """

    seconds: float
    peak_bytes: int
    in_bounds: bool


@dataclass(frozen=True)
class Loading:
    """From the model's files, and from the cache of quantised weights, if there was room for one.

    The bound is the sum of the int8 weights, of the largest tensor in the files, and of the
    program.
    """

    int8_bytes: int
    largest_bytes: int
    bound_bytes: int
    source: LoadCost
    cache: LoadCost | None


def measure_loading(model: BenchModel, sizes: tuple[int, int]) -> Loading:
    """Load twice: from the model's files, which fills the cache, and from the cache.

    `sizes` are those of `weight_sizes`.

    Raises:
        CalledProcessError: a process failed.
    """
    int8, largest = sizes
    bound = memory_bound(int8, largest)
    log("loading from the model's files …")
    source, _ = _load(model, SOURCE, bound)
    log(f"  {source.seconds:.1f} s; loading from the cache of int8 weights …")
    cache, is_cached = _load(model, CACHE, bound)
    log(f"  {cache.seconds:.1f} s" if is_cached else "  there was no room for them")
    return Loading(int8, largest, bound, source, cache if is_cached else None)


def weight_sizes(folder: ModelFolder) -> tuple[int, int]:
    """Bytes of all weights at one a parameter, and of the largest tensor in the files.

    Raises:
        ModelFolderError: a file is torn.
    """
    sizes = [
        (weight.numel(), weight.nbytes)
        for _, weight in read_tensors(t for _, t in folder.tensors())
    ]
    return sum(count for count, _ in sizes), max(nbytes for _, nbytes in sizes)


def memory_bound(int8: int, largest: int) -> int:
    """How many bytes loading may need: never the whole model in 16 bits."""
    return int8 + largest + PROGRAM_BYTES


def _load(model: BenchModel, kind: str, bound: int) -> tuple[LoadCost, bool]:
    """The cost, and whether the weights came from the cache."""
    paths = [str(model.folder.path), str(model.weights)]
    command = [sys.executable, "-m", "bench.scaling.loading", *paths, kind]
    report = json.loads(run_process(command).lines[-1][1])
    peak = report["peak_bytes"]
    return LoadCost(report["seconds"], peak, peak <= bound), report["cached"]


def load_in_this_process(path: Path, cache: Path, kind: str) -> None:
    """The measured process."""
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # as the program serves; before torch is imported
    import torch
    from transformers.models.llama import modeling_llama  # noqa: F401 (not a part of loading)

    from model.weight_cache import DONE, WeightCache
    from model.weight_loader import load_model

    class ObservedCache(WeightCache):
        """Records whether it was used, and saves only on request."""

        used = False

        def load(self, *args: object) -> bool:
            self.used = super().load(*args)  # type: ignore[arg-type]
            return self.used

        def save_later(self, *_: object) -> None:
            pass

        @property
        def is_complete(self) -> bool:
            return (self._entry / DONE).is_file()

    torch.set_num_threads(available_cores())
    folder = read_model_folder(path)
    drop_from_page_cache([*folder.weight_files, *(cache / "weights").rglob("*.safetensors")])
    weights = ObservedCache(cache, folder)
    began = time.perf_counter()
    model = load_model(
        folder, quantization="8bit", device="cpu", context_length=None,
        progress=lambda _: None, cache=weights if kind == CACHE else None,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    peak = peak_bytes(os.getpid())
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "cached": weights.used}))
    if kind == SOURCE and not weights.is_complete:
        weights.save(model)


if __name__ == "__main__":
    load_in_this_process(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
