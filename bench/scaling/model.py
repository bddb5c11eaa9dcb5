"""The model that `bench/scale.py` measures: found or made, checked against memory, and loaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_path

from bench.errors import BenchError, PeerMissingError
from bench.random_model import Geometry, write_model
from bench.serving.fixtures import fingerprint
from model.config.settings import APP_NAME
from model.folders.model_folder import ModelFolder, read_model_folder
from model.system_resources import available_memory

if TYPE_CHECKING:
    from model.layers.llama import Llama

CONTEXT = 128  # tokens before each user's next one, unless the context itself is measured
Q8_SHARE = 34 / 32  # bytes a parameter in Q8_0: 32 of int8 share a float16
SPARE_BYTES = 1_500_000_000  # of memory and of disk


@dataclass(frozen=True)
class BenchModel:
    """A model folder with its description.

    `cache` is for files made from it; the quantised weights are cached in `weights`.
    """

    about: str
    folder: ModelFolder
    cache: Path
    weights: Path


def prepare_model(base_model: Path | None, geometry: Geometry, cache: Path) -> BenchModel:
    """The model in `base_model`, or else a random one, made now if it is not in `cache` yet.

    Raises:
        LinlyError: it cannot be read or made.
    """
    if base_model:
        folder = read_model_folder(base_model)
        # `cache` is where the program itself keeps the quantised weights of this model.
        return BenchModel(base_model.name, folder, cache / "bench" / fingerprint(base_model), cache)
    folder_cache = cache / "bench" / geometry.name
    if not (folder_cache / "model").exists():
        write_model(folder_cache / "model", geometry, seed=0)
    about = (
        f"random weights, {geometry.layers} layers, hidden {geometry.hidden}, "
        f"intermediate {geometry.intermediate}, {geometry.heads} heads, "
        f"{geometry.kv_heads} of keys, vocabulary {geometry.vocab}"
    )
    return BenchModel(about, read_model_folder(folder_cache / "model"), folder_cache, folder_cache)


def check_memory(
    config: Mapping[str, Any], int8_bytes: int, contexts: Sequence[int], users: int
) -> int:
    """Bytes of the int8 weights, and of the KV caches of all `contexts` or of all `users`.

    Raises:
        BenchError: less memory is free.
    """
    # These import torch, which takes seconds; a wrong flag has been refused by now.
    from model.engine.kv_cache import rounded
    from model.engine.local_engine import PREFILL_CHUNK
    from model.layers.kernels.records import KV_BYTES

    positions = max(
        sum(rounded(context + PREFILL_CHUNK) for context in contexts), users * rounded(CONTEXT + 1)
    )
    heads = int(config["num_attention_heads"])
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    kv_size = int(config.get("num_key_value_heads") or heads) * int(head_dim)
    position_bytes = 2 * KV_BYTES * int(config["num_hidden_layers"]) * kv_size
    needed, free = int8_bytes + positions * position_bytes, available_memory()
    if needed > free:
        raise BenchError(
            f"The weights, keys and values take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of "
            "memory are free",
            "Choose shorter --context, fewer --users or fewer --layers.",
        )
    return needed


def check_room_for_llama_cpp(model: BenchModel, int8_bytes: int, own_bytes: int) -> None:
    """Refuse llama.cpp if the disk has no room for its file, or the memory for both programs.

    With too little memory its weights would be read from the disk again in every turn.
    `own_bytes` is the memory that this program needs.

    Raises:
        PeerMissingError: there is too little room.
    """
    needed = int(int8_bytes * Q8_SHARE)
    both, free = own_bytes + needed + SPARE_BYTES, available_memory()
    if both > free:
        raise PeerMissingError(
            f"both models together take {both / 1e9:.1f} GB and {free / 1e9:.1f} GB of memory are "
            "free: choose fewer --layers"
        )
    model.cache.mkdir(parents=True, exist_ok=True)
    is_made = (model.cache / "base.gguf").exists()
    if not is_made and shutil.disk_usage(model.cache).free < needed + SPARE_BYTES:
        raise PeerMissingError(
            f"there is no space for a file of {needed / 1e9:.1f} GB in {model.cache}"
        )


@contextmanager
def loaded_model(
    model: BenchModel, is_cached: bool, positions: int, users: int, threads: int
) -> Iterator[Llama]:
    """The model in this process as the program serves it: int8 weights and compiled kernels.

    Args:
        is_cached: the quantised weights are in the cache.
        positions: the longest context.
        users: the largest batch.

    Raises:
        LinlyError: this machine has no compiled kernels, or the model cannot be read.
    """
    import torch

    from model.engine.local_engine import PREFILL_CHUNK
    from model.layers.kernel_build import build_folder, make_decoder, supported
    from model.weight_cache import WeightCache
    from model.weight_loader import load_model

    if not supported("cpu", "8bit"):
        raise BenchError("Compiled decoding needs 64-bit Linux", "Measure there.")
    torch.set_num_threads(threads)
    llama = load_model(
        model.folder, quantization="8bit", device="cpu",
        context_length=max(positions, CONTEXT) + PREFILL_CHUNK, progress=lambda _: None,
        cache=WeightCache(model.weights, model.folder) if is_cached else None,
    )  # fmt: skip
    # The program's own cache: compiled code does not depend on the model.
    folder = build_folder(user_cache_path(APP_NAME))
    decoder = make_decoder(folder, llama, threads, PREFILL_CHUNK, users)
    llama.set_decoder(decoder)
    try:
        yield llama
    finally:
        decoder.close()
