"""The model that `bench/scale.py` measures: found or made, checked against memory, and loaded.

This program loads it in this process, llama.cpp in a process of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from platformdirs import user_cache_path

from bench.common import BenchError, PeerError, PeerMissingError
from bench.peers.base import BenchFixtures
from bench.peers.llamacpp import LlamaCpp
from bench.random_model import Geometry, write_model
from bench.serving.fixtures import cache_key
from model.config.settings import APP_NAME
from model.folders.model_folder import ModelFolder, read_model_folder
from model.system_resources import available_memory

if TYPE_CHECKING:
    from model.layers.llama import Llama

CONTEXT = 128  # tokens before each user's next one, unless the context itself is measured
Q8_SHARE = 34 / 32  # bytes a parameter in Q8_0: 32 of int8 share a float16
SPARE_BYTES = 1_500_000_000  # of memory and of disk
MAX_SECONDS = 600.0  # of llama.cpp, for a reply
FIRST_ID = 3  # after the control tokens


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
        return BenchModel(base_model.name, folder, cache / "bench" / cache_key(base_model), cache)
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
    from model.engine.step_runner import PREFILL_CHUNK
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

    from model.engine.step_runner import PREFILL_CHUNK
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


class LlamaCppBaseline(LlamaCpp):
    """llama.cpp's server with one slot, on the same weights in Q8_0."""

    def __init__(self, model: BenchModel, scratch: Path, threads: int, steps: int) -> None:
        folder = model.folder.path
        fixtures = BenchFixtures(folder, scratch, (), model.cache, scratch, threads)
        tokens = min(steps, CONTEXT) + 1  # few, because they lengthen the context
        super().__init__(fixtures, slots=1, context=CONTEXT + 2 * tokens)
        self._request = {
            "prompt": list(range(FIRST_ID, FIRST_ID + CONTEXT)),
            "n_predict": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "samplers": ["top_k"],
            "cache_prompt": True,
        }

    def token_seconds(self) -> float:
        """The server's own figure for a token after the first one, without the prompt and HTTP.

        Raises:
            PeerError: it did not answer, or with too few tokens.
        """
        url = f"{self.address}/completion"
        try:
            with self.awake():
                answer = httpx.post(url, json=self._request, timeout=MAX_SECONDS)
        except httpx.TransportError as error:
            raise PeerError(f"it does not answer: {error}") from error
        if not answer.is_success:
            raise PeerError(f"it answers {answer.status_code}: {answer.text[:200]}")
        timings = answer.json()["timings"]
        count = timings["predicted_n"]
        if count != self._request["n_predict"]:
            raise PeerError(f"a reply ended after {count} tokens")
        return float(timings["predicted_ms"]) / 1000 / (count - 1)


@contextmanager
def started_llama_cpp(
    model: BenchModel, int8_bytes: int, own_bytes: int, scratch: Path, threads: int, steps: int
) -> Iterator[tuple[LlamaCppBaseline | None, str]]:
    """llama.cpp, warm and paused, and its description; or None, and why it is not measured.

    `own_bytes` is the memory that this program needs.

    Raises:
        PeerError: it does not start, or fails later.
    """
    baseline = LlamaCppBaseline(model, scratch, threads, steps)
    try:
        yield _start(baseline, model, int8_bytes, own_bytes)
    except PeerError as error:
        raise PeerError(f"llama.cpp: {error}. --no_llama_cpp leaves it out") from error
    finally:
        baseline.stop()


def _start(
    baseline: LlamaCppBaseline, model: BenchModel, int8_bytes: int, own_bytes: int
) -> tuple[LlamaCppBaseline | None, str]:
    try:
        check_room_for_llama_cpp(model, int8_bytes, own_bytes)
        about = baseline.start()
        baseline.token_seconds()
    except PeerMissingError as missing:
        return None, f"not measured, {missing}"
    return baseline, about
