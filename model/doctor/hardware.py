"""Whether this machine can serve a model: its memory, and the GPU's age."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from model.diagnostics import Finding, finding
from model.folders.lazy_tensor import LazyTensor
from model.system_resources import available_memory

PROGRAM_BYTES = 1_000_000_000
POSITIONS = 2048  # where config.json tells none, or nonsense
CAPABILITY = (7, 5)  # what LLM.int8 needs (Turing)


def check_machine(config: Mapping[str, Any], tensors: Sequence[LazyTensor]) -> Iterator[Finding]:
    """The model's memory against what is free, and the GPU if there is one."""
    import torch

    needed = memory_in_8bit(config, tensors)
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        capability = torch.cuda.get_device_capability()
        if capability < CAPABILITY:
            name = torch.cuda.get_device_name()
            yield finding("gpu_old", name=name, capability="{}.{}".format(*capability))
    else:
        free = available_memory()
    code = "memory" if needed <= free else "memory_short"
    yield finding(code, needed=needed / 1e9, free=free / 1e9)


def memory_in_8bit(config: Mapping[str, Any], tensors: Sequence[LazyTensor]) -> int:
    """Bytes to serve it in 8-bit with one chat that fills its context: a byte a parameter, keys
    and values, and the program."""
    from model.layers.kernels.records import KV_BYTES  # imports numpy

    heads = config.get("num_attention_heads") or 1
    size = config.get("head_dim") or config["hidden_size"] // heads
    keys = (config.get("num_key_value_heads") or heads) * size
    layers, told = config.get("num_hidden_layers") or 0, config.get("max_position_embeddings")
    positions = told if isinstance(told, int) and told > 0 else POSITIONS
    chat = 2 * KV_BYTES * keys * layers * positions
    return sum(prod(tensor.shape) for tensor in tensors) + chat + PROGRAM_BYTES
