"""Loading: seconds and peak memory, from a model's files and from the cache of quantised weights.

Each in a process of its own, as memory that was taken before would hide in the peak. Files are
dropped from the system's memory before, so both come off the disk.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.machine import peak_bytes
from bench.peers.base import PeerError
from bench.peers.child import Child
from bench.rounds import Say
from bench.scaling.figures import Load, Loading
from bench.scaling.source import Source
from model.folders.model_folder import ModelFolder

SOURCE, CACHE = "source", "cache"
PROGRAM_BYTES = 1_500_000_000  # Python, torch, and what is quantised at a time


def measure_loading(source: Source, sizes: tuple[int, int], scratch: Path, say: Say) -> Loading:
    """Load twice. The first one's weights go into the cache, whence the second one takes them.

    `sizes` are what `weight_sizes` says.

    Raises:
        PeerError: a process ended; with its last words.
    """
    int8, largest = sizes
    bound = memory_bound(int8, largest)
    say("loading from the model's files …")
    first, _ = _load(source, SOURCE, bound, scratch)
    say(f"  {first.seconds:.1f} s; loading from the cache of int8 weights …")
    second, cached = _load(source, CACHE, bound, scratch)
    say(f"  {second.seconds:.1f} s" if cached else "  there was no room for them")
    return Loading(int8, largest, bound, first, second if cached else None)


def weight_sizes(folder: ModelFolder) -> tuple[int, int]:
    """Bytes of all weights at one a parameter, and of the largest tensor in the files.

    Raises:
        ModelFolderError: a file is torn.
    """
    from model.folders.weights import read_tensors

    sizes = [(weight.numel(), weight.nbytes) for _, weight in read_tensors(folder.weight_files)]
    return sum(count for count, _ in sizes), max(nbytes for _, nbytes in sizes)


def memory_bound(int8: int, largest: int) -> int:
    """What loading may take at the most, in bytes: never the whole model in 16 bits."""
    return int8 + largest + PROGRAM_BYTES


def _load(source: Source, kind: str, bound: int, scratch: Path) -> tuple[Load, bool]:
    """What it took, and whether the weights came from the cache."""
    paths = [str(source.folder.path), str(source.weights)]
    command = [sys.executable, "-m", "bench.scaling.loading_worker", *paths, kind]
    child = Child(command, scratch / f"loading-{kind}.log")
    try:
        told = json.loads(child.read())
        peak = peak_bytes(child.pid)
        if kind == SOURCE:
            child.write("keep")
            child.read()
    except PeerError as error:
        raise PeerError(f"loading: {error}") from error
    finally:
        child.stop()
    return Load(told["seconds"], peak, peak <= bound), told["cached"]
