"""Checks that this machine can serve a model: its memory, and the age of its GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from model.diagnostics import Finding, finding
from model.folders.lazy_tensor import LazyTensor
from model.system_resources import available_memory

PROGRAM_BYTES = 1_000_000_000
DEFAULT_POSITIONS = 2048  # if config.json has no number or a wrong one
MIN_CAPABILITY = (7, 5)  # of a GPU for LLM.int8 (Turing)


def check_hardware(config: Mapping[str, Any], tensors: Sequence[LazyTensor]) -> Iterator[Finding]:
    """Compares the memory that the model needs with the free memory; warns about an old GPU."""
    import torch

    needed = memory_in_8bit(config, tensors)
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        capability = torch.cuda.get_device_capability()
        if capability < MIN_CAPABILITY:
            name = torch.cuda.get_device_name()
            yield finding("gpu_old", name=name, capability="{}.{}".format(*capability))
    else:
        free = available_memory()
    code = "memory" if needed <= free else "memory_short"
    yield finding(code, needed=needed / 1e9, free=free / 1e9)


def memory_in_8bit(config: Mapping[str, Any], tensors: Sequence[LazyTensor]) -> int:
    """Bytes to serve the model in 8-bit with one chat that fills its context: a byte a parameter,
    keys and values, and the program."""
    from model.layers.kernels.records import KV_BYTES  # imports numpy

    heads = config.get("num_attention_heads") or 1
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    kv_size = (config.get("num_key_value_heads") or heads) * head_dim
    layers, positions = config.get("num_hidden_layers") or 0, config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions <= 0:
        positions = DEFAULT_POSITIONS
    kv_cache = 2 * KV_BYTES * kv_size * layers * positions
    return sum(prod(tensor.shape) for tensor in tensors) + kv_cache + PROGRAM_BYTES
