"""Helpers: writes adapters that fit a tiny base, and reads them through a registry."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from model.folders.base_info import BaseInfo
from model.folders.tensor_schema import expected_tensors
from model.layers.linear import Linear
from model.layers.lora import FloatPair, Lora, LoraMaker
from model.serving.adapter_registry import AdapterRegistry

SIZES = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True,
}  # fmt: skip
BASE = BaseInfo("tiny", expected_tensors(SIZES))
CONFIG = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": "all-linear"}
Q = "base_model.model.model.layers.{}.self_attn.q_proj"
DOWN = "base_model.model.model.layers.{}.mlp.down_proj"
# Layers that an adapter has of its own, and the config for them.
OWN_LAYERS = {
    "base_model.model.model.embed_tokens.weight": torch.ones(BASE.rows, 16),
    "base_model.model.lm_head.weight": torch.ones(BASE.rows, 16) * 2,
}
OWN_LAYERS_CONFIG = {"modules_to_save": ["embed_tokens", "lm_head"]}


def pair(module: str, inputs: int, outputs: int, rank: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(len(module) + inputs)
    return {
        f"{module}.lora_A.weight": torch.randn(rank, inputs),
        f"{module}.lora_B.weight": torch.randn(outputs, rank),
    }


def sound_tensors() -> dict[str, Tensor]:
    """q_proj of layer 0 and down_proj of layer 1, as they fit BASE."""
    return {**pair(Q.format(0), 16, 32), **pair(DOWN.format(1), 40, 16)}


def write_adapter(
    path: Path,
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    card: Any = None,
) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
    save_file(
        dict(sound_tensors() if tensors is None else tensors), path / "adapter_model.safetensors"
    )
    if card is not None:
        (path / "linly_adapter.json").write_text(json.dumps(card), encoding="utf-8")
    return path


class PairMaker:
    """A LoraMaker that keeps pairs as they are, for adapters without layers of their own."""

    def make_lora_pair(self, a: Tensor, b: Tensor, scaling: float) -> FloatPair:
        return FloatPair(a, b, scaling)

    def make_layer(self, weight: Tensor) -> Linear:
        raise AssertionError("this adapter has no layers of its own")


def load_lora(registry: AdapterRegistry, name: str, maker: LoraMaker | None = None) -> Lora:
    return registry.load(name, registry.get(name).digest, maker or PairMaker())


def touch(path: Path) -> None:
    """Gives a file a later time, as if it had been written again."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))


def scanned_registry(folder: Path, templates: tuple[str, ...] = ("linly",)) -> AdapterRegistry:
    registry = AdapterRegistry(folder, BASE, templates)
    registry.scan()
    return registry


def problem_text(folder: Path) -> str:
    """The problem of the only adapter in `folder`, with its remedy."""
    (adapter,) = AdapterRegistry(folder, BASE, ("linly",)).scan()
    assert not adapter.ready
    assert adapter.problem
    text = f"{adapter.problem.message()}. {adapter.problem.remedy()}"
    assert adapter.problem.remedy()
    assert "\n" not in text
    return text
