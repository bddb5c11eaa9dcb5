"""One decoder layer of a LLaMA, over the rows of a ragged batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from model.layers.attention import attend
from model.layers.linear import Linear
from model.layers.lora import LoraRows, add_deltas
from model.layers.rope import rotate
from model.tensor_names import ATTENTION_MODULES, GATE_UP_MODULES, MLP_MODULES, QKV_MODULES

if TYPE_CHECKING:
    from model.layers.llama import LlamaShape, SequenceSlice


@dataclass(frozen=True)
class BatchRows:
    """A batch laid out as rows: `bounds` has the first row of each slice and the one after its
    last; `cos` and `sin` are [rows, 1, head_dim]."""

    slices: Sequence[SequenceSlice]
    bounds: list[tuple[int, int]]
    loras: list[LoraRows]
    cos: Tensor
    sin: Tensor


class FusedLinear:
    """Linear layers that share their input, as one, with the adapters' deltas added to each.

    `parts` has (module name, first output, output after the last).
    """

    def __init__(self, layer: int, linear: Linear, modules: Sequence[str], sizes: Sequence[int]):
        self.layer = layer
        self.linear = linear
        edges = [0]
        for size in sizes:
            edges.append(edges[-1] + size)
        self.parts = [
            (module, *edge) for module, edge in zip(modules, pairwise(edges), strict=True)
        ]

    def __call__(self, x: Tensor, rows: BatchRows) -> Tensor:
        y = self.linear(x)
        add_deltas(y, x, self.layer, self.parts, rows.loras)
        return y


class DecoderLayer:
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, index: int, shape: LlamaShape, make: Callable[..., Linear]) -> None:
        self.index = index
        self.shape = shape

        def fuse(*modules: str) -> FusedLinear:
            inputs = shape.linear_sizes[modules[0]][0]
            outputs = [shape.linear_sizes[module][1] for module in modules]
            return FusedLinear(index, make(inputs, sum(outputs)), modules, outputs)

        self.qkv = fuse(*QKV_MODULES)
        self.o = fuse(ATTENTION_MODULES[-1])
        self.gate_up = fuse(*GATE_UP_MODULES)
        self.down = fuse(MLP_MODULES[-1])
        self.input_norm = torch.ones(shape.hidden_size)
        self.post_norm = torch.ones(shape.hidden_size)

    @property
    def fused_linears(self) -> dict[str, FusedLinear]:
        """All linear layers by name, in the order in which a forward uses them."""
        return {"qkv": self.qkv, "o": self.o, "gate_up": self.gate_up, "down": self.down}

    def __call__(self, x: Tensor, rows: BatchRows) -> Tensor:
        x = x + self._attention(rms_norm(x, self.input_norm, self.shape.rms_norm_eps), rows)
        return x + self._feed_forward(rms_norm(x, self.post_norm, self.shape.rms_norm_eps), rows)

    def _attention(self, x: Tensor, rows: BatchRows) -> Tensor:
        shape = self.shape
        qkv = self.qkv(x, rows).view(len(x), -1, shape.head_dim)
        q, k, v = qkv.split([shape.num_heads, shape.num_kv_heads, shape.num_kv_heads], dim=1)
        q, k = rotate(q, rows.cos, rows.sin), rotate(k, rows.cos, rows.sin)
        out = []
        for part, (start, stop) in zip(rows.slices, rows.bounds, strict=True):
            keys, values = part.cache.append(self.index, k[start:stop], v[start:stop])
            out.append(attend(q[start:stop], keys, values))
        return self.o(torch.cat(out), rows)

    def _feed_forward(self, x: Tensor, rows: BatchRows) -> Tensor:
        gate, up = self.gate_up(x, rows).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up, rows)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm (Zhang and Sennrich 2019) over the last axis, computed in float32."""
    in_float32 = x.float()
    in_float32 = in_float32 * torch.rsqrt(in_float32.pow(2).mean(-1, keepdim=True) + eps)
    return weight * in_float32.to(x.dtype)
