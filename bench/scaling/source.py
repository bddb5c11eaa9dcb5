"""The model that is measured, and where what is made of it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.geometry import Geometry
from bench.random_model import write_model
from bench.rounds import Say
from bench.scaling.options import Options
from bench.stage import fingerprint
from model.folders.model_folder import ModelFolder, read_model_folder


@dataclass(frozen=True)
class Source:
    """A model folder in words and as it is. `kept` is for files that are made of it, `weights`
    where the cache of quantised weights is.
    """

    about: str
    folder: ModelFolder
    kept: Path
    weights: Path


def prepare(options: Options, cache: Path, say: Say) -> Source:
    """The model that was asked for, made now if it is a random one and not in `cache` yet.

    Raises:
        LinlyError: it cannot be read, or not be made.
    """
    base = options.base_model
    if base:
        folder = read_model_folder(base)
        kept = cache / "bench" / fingerprint(base)
        # The program's own entry, where it has one.
        return Source(base.name, folder, kept, cache)
    kept = cache / "bench" / options.geometry.name
    if not (kept / "model").exists():
        write_model(kept / "model", options.geometry, seed=0, say=say)
    about = f"random weights, {_sizes(options.geometry)}"
    return Source(about, read_model_folder(kept / "model"), kept, kept)


def _sizes(geometry: Geometry) -> str:
    return (
        f"{geometry.layers} layers, hidden {geometry.hidden}, "
        f"intermediate {geometry.intermediate}, {geometry.heads} heads, "
        f"{geometry.kv_heads} of keys, vocabulary {geometry.vocab}"
    )
