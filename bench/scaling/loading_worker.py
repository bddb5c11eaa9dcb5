"""The process whose memory is measured: loads a model once, says how long it took, and waits.

`python -m bench.scaling.loading_worker FOLDER CACHE source|cache` prints a JSON object as its one
line: `seconds`, and `cached`, whether the weights came from the cache. Then it reads one line:
`keep` lets it put the weights into the cache. Its end is its standard input's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from model.folders.model_folder import read_model_folder
from model.system_resources import available_cores
from model.weight_cache import DONE, WeightCache

if TYPE_CHECKING:
    from model.layers.llama import Llama


class Watched(WeightCache):
    """Tells whether it was used, and writes only when it is told to."""

    used = False

    def load(self, *arguments: object) -> bool:
        self.used = super().load(*arguments)  # type: ignore[arg-type]
        return self.used

    def save_later(self, *_: object) -> None:
        pass

    def keep(self, model: Llama) -> None:
        """Write the entry where there is none."""
        if not (self._entry / DONE).is_file():
            self.save(model)


def main(path: Path, cache: Path, kind: str) -> None:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # as when the program serves; before torch's import
    import torch
    from transformers.models.llama import modeling_llama  # noqa: F401 (seconds that are not ours)

    from model.weight_loader import load_model

    torch.set_num_threads(available_cores())
    folder = read_model_folder(path)
    forget([*folder.weight_files, *(cache / "weights").rglob("*.safetensors")])
    weights = Watched(cache, folder)
    began = time.perf_counter()
    model = load_model(
        folder, quantization="8bit", device="cpu", context_length=None,
        progress=lambda _: None, cache=weights if kind == "cache" else None,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "cached": weights.used}), flush=True)
    if sys.stdin.readline().strip() == "keep":
        weights.keep(model)
        print("kept", flush=True)
    sys.stdin.read()


def forget(files: Iterable[Path]) -> None:
    """Drop what the system holds of `files` in memory, so that they come off the disk."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())  # what is still to be written is not dropped
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
