"""Whether memory and disk hold what is measured, before anything is loaded."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from bench.peers.base import PeerMissing
from bench.scaling.options import BEHIND, Options
from bench.scaling.source import Source
from model.system_resources import available_memory
from model.types import SettingsError

FLOAT16_BYTES = 2
Q8_SHARE = 34 / 32  # bytes a parameter: 32 of int8 share a float16
SPARE_BYTES = 1_500_000_000  # of memory and of disk


def check_memory(config: Mapping[str, Any], int8_bytes: int, options: Options) -> int:
    """Bytes of the int8 weights, and of the keys and values of all contexts or of all users.

    Raises:
        SettingsError: they are more than there is memory.
    """
    # These import torch, which takes seconds: a wrong flag has been refused by now.
    from model.engine.kv_cache import rounded
    from model.engine.local_engine import PREFILL_CHUNK

    positions = max(
        sum(rounded(context + PREFILL_CHUNK) for context in options.context),
        max(*options.users, *options.adapters) * rounded(BEHIND + 1),
    )
    needed, free = int8_bytes + positions * _position_bytes(config), available_memory()
    if needed > free:
        raise SettingsError(
            f"The weights, keys and values take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of "
            "memory are free",
            "Choose shorter --context, fewer --users or fewer --layers.",
        )
    return needed


def check_room(source: Source, int8_bytes: int, ours: int) -> None:
    """Refuse llama.cpp where the disk has no room for its file, or memory for it beside `ours`.

    Where memory is short, its weights would be read off the disk again at every turn.

    Raises:
        PeerMissing: in one sentence.
    """
    needed = int(int8_bytes * Q8_SHARE)
    both, free = ours + needed + SPARE_BYTES, available_memory()
    if both > free:
        raise PeerMissing(
            f"both models together take {both / 1e9:.1f} GB and {free / 1e9:.1f} GB of memory are "
            "free: choose fewer --layers"
        )
    source.kept.mkdir(parents=True, exist_ok=True)
    is_made = (source.kept / "base.gguf").exists()
    if not is_made and shutil.disk_usage(source.kept).free < needed + SPARE_BYTES:
        raise PeerMissing(f"there is no room for a file of {needed / 1e9:.1f} GB in {source.kept}")


def _position_bytes(config: Mapping[str, Any]) -> int:
    """What the keys and values of one token take, in all layers."""
    heads = int(config["num_attention_heads"])
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    kv_heads = config.get("num_key_value_heads") or heads
    return 2 * FLOAT16_BYTES * int(config["num_hidden_layers"]) * int(kv_heads) * int(head_dim)
