"""The LLaMA forward (Touvron et al. 2023, https://arxiv.org/abs/2302.13971) over ragged batches.

A batch is a run of rows: some sequences bring one row (decode), some a chunk (prefill). Linear
layers see all rows at once; attention and adapters go sequence by sequence, group by group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model.layers.attention import attend
from model.layers.kernels.records import KEY_BLOCK
from model.layers.kv_layout import CacheFormat, KeyValues
from model.layers.linear import Linear, make_linear
from model.layers.lora import FloatPair, Lora, LoraPair, LoraRows, add_deltas, int8_pair
from model.layers.rope import RotaryTable, rotate

if TYPE_CHECKING:
    from model.layers.kernels.decoder import Decoder


@dataclass(frozen=True)
class LlamaShape:
    """The sizes of a LLaMA, and what distinguishes its relatives by a flag."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    tied_head: bool

    @property
    def linear_sizes(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each linear layer that an adapter may change."""
        hidden, wide = self.hidden_size, self.intermediate_size
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "q_proj": (hidden, q),
            "k_proj": (hidden, kv),
            "v_proj": (hidden, kv),
            "o_proj": (q, hidden),
            "gate_proj": (hidden, wide),
            "up_proj": (hidden, wide),
            "down_proj": (wide, hidden),
        }


@dataclass(frozen=True)
class SequenceSlice:
    """The part of a sequence that a forward computes: its next `tokens`, over its `cache`.

    `scale` multiplies the deltas of `lora`; what that replaces, it replaces whole. At 0 the base
    answers alone.
    """

    tokens: Sequence[int]
    cache: KeyValues
    lora: Lora | None = None
    scale: float = 1.0

    @property
    def active(self) -> Lora | None:
        """The adapter, unless its strength is 0."""
        return self.lora if self.scale else None


@dataclass(frozen=True)
class _Rows:
    """A batch laid out as rows."""

    spans: Sequence[SequenceSlice]
    bounds: list[tuple[int, int]]
    loras: list[LoraRows]
    cos: Tensor
    sin: Tensor


class FusedLinear:
    """Linear layers that share their input, as one, with the adapters' deltas added to each."""

    def __init__(self, layer: int, linear: Linear, names: Sequence[str], sizes: Sequence[int]):
        self.layer = layer
        self.linear = linear
        edges = [0]
        for size in sizes:
            edges.append(edges[-1] + size)
        self.parts = [(name, *edge) for name, edge in zip(names, pairwise(edges), strict=True)]

    def __call__(self, x: Tensor, rows: _Rows) -> Tensor:
        y = self.linear(x)
        add_deltas(y, x, self.layer, self.parts, rows.loras)
        return y


class DecoderLayer:
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, index: int, shape: LlamaShape, make: Callable[..., Linear]) -> None:
        self.index = index
        self.shape = shape
        hidden, head, wide = shape.hidden_size, shape.head_dim, shape.intermediate_size
        q, kv = shape.num_heads * head, shape.num_kv_heads * head
        self.qkv = FusedLinear(
            index, make(hidden, q + 2 * kv), ("q_proj", "k_proj", "v_proj"), (q, kv, kv)
        )
        self.o = FusedLinear(index, make(q, hidden), ("o_proj",), (hidden,))
        self.gate_up = FusedLinear(
            index, make(hidden, 2 * wide), ("gate_proj", "up_proj"), (wide, wide)
        )
        self.down = FusedLinear(index, make(wide, hidden), ("down_proj",), (hidden,))
        self.input_norm = torch.ones(hidden)
        self.post_norm = torch.ones(hidden)

    def __call__(self, x: Tensor, rows: _Rows) -> Tensor:
        x = x + self._attention(rms_norm(x, self.input_norm, self.shape.rms_norm_eps), rows)
        return x + self._feed_forward(rms_norm(x, self.post_norm, self.shape.rms_norm_eps), rows)

    def _attention(self, x: Tensor, rows: _Rows) -> Tensor:
        shape = self.shape
        packed = self.qkv(x, rows).view(len(x), -1, shape.head_dim)
        q, k, v = packed.split([shape.num_heads, shape.num_kv_heads, shape.num_kv_heads], dim=1)
        q, k = rotate(q, rows.cos, rows.sin), rotate(k, rows.cos, rows.sin)
        out = []
        for span, (start, stop) in zip(rows.spans, rows.bounds, strict=True):
            keys, values = span.cache.append(self.index, k[start:stop], v[start:stop])
            out.append(attend(q[start:stop], keys, values))
        return self.o(torch.cat(out), rows)

    def _feed_forward(self, x: Tensor, rows: _Rows) -> Tensor:
        gate, up = self.gate_up(x, rows).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up, rows)


class Llama:
    """A LLaMA-family model. Made empty; `model.weight_loader` fills it.

    Args:
        shape: the sizes.
        dtype: type of the activations.
        device: "cpu" or "cuda".
        quantization: "8bit", "4bit" or "none", for the linear layers.
        inv_freq, rope_scaling: see `RotaryTable`.
        context_length: positions to serve, in tokens.
    """

    def __init__(
        self,
        shape: LlamaShape,
        *,
        dtype: torch.dtype,
        device: str,
        quantization: str,
        inv_freq: Tensor,
        rope_scaling: float,
        context_length: int,
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.device = device
        self.context_length = context_length
        self.quantization = quantization

        def make(in_features: int, out_features: int, embedding: bool = False) -> Linear:
            return make_linear(
                in_features, out_features, quantization=quantization,
                dtype=dtype, device=device, embedding=embedding,
            )  # fmt: skip

        self._make = make
        self.embed_tokens = make(shape.hidden_size, shape.vocab_size, embedding=True)
        self.layers = [DecoderLayer(i, shape, make) for i in range(shape.num_layers)]
        self.norm = torch.ones(shape.hidden_size)
        self.lm_head = self.embed_tokens
        if not shape.tied_head:
            self.lm_head = make(shape.hidden_size, shape.vocab_size, embedding=True)
        self._rope = RotaryTable(inv_freq.to(device), rope_scaling, context_length)
        self.decoder: Decoder | None = None

    @property
    def _is_compact(self) -> bool:
        return self.device == "cpu" and self.quantization != "none"

    @property
    def cache_format(self) -> CacheFormat:
        """How its sequences keep keys and values.

        Beside 8-bit weights 16 bits are fine enough; and compiled code wants keys in blocks.
        """
        shape, compact = self.shape, self._is_compact
        return CacheFormat(
            shape.num_layers, shape.num_kv_heads, shape.head_dim,
            torch.float16 if compact else self.dtype, self.device, KEY_BLOCK if compact else 1,
        )  # fmt: skip

    def set_decoder(self, decoder: Decoder) -> None:
        """Compute with compiled code from the next forward on."""
        self.decoder = decoder

    def close(self) -> None:
        """End the threads that compute, if it has any of its own. Nothing may run."""
        if self.decoder:
            self.decoder.close()

    @property
    def batch_invariant(self) -> bool:
        """Whether a token's logits are the same to the last bit in any company."""
        return self.decoder is not None

    @property
    def rotary(self) -> tuple[Tensor, Tensor]:
        """cos and sin, float32 [context_length, head_dim]."""
        return self._rope.cos, self._rope.sin

    def linears(self) -> Iterator[Linear]:
        """Every linear layer, the head last."""
        for layer in self.layers:
            yield from (p.linear for p in (layer.qkv, layer.o, layer.gate_up, layer.down))
        yield self.lm_head

    def forward(self, spans: Sequence[SequenceSlice], every_position: bool = False) -> Tensor:
        """Advance every span's cache by its tokens.

        Spans with the same adapter and scale should stand together: each run of them is one
        group of rows.

        Returns:
            Logits after the last token of each span, float32 [spans, vocab_size], or with
            `every_position` after every token, [tokens, vocab_size]. Where an adapter brings a
            larger vocabulary they are as wide as that, and what others do not have is -inf.
        """
        if self.decoder and self.decoder.takes(spans):
            return torch.from_numpy(self._decode(self.decoder, spans, every_position))
        return self._forward(spans, every_position)

    def logits(
        self, spans: Sequence[SequenceSlice], every_position: bool = False
    ) -> NDArray[np.float32]:
        """As `forward`, for whoever samples: theirs to change until the next call.

        Compiled code is reached without torch: each call of that costs more than it does
        elsewhere, because the weights have just swept everything else out of the caches.
        """
        if self.decoder and self.decoder.takes(spans):
            return self._decode(self.decoder, spans, every_position)
        return self._forward(spans, every_position).cpu().numpy()

    def _decode(
        self, decoder: Decoder, spans: Sequence[SequenceSlice], every_position: bool
    ) -> NDArray[np.float32]:
        logits = decoder.forward(spans, every_position)
        for span in spans:
            span.cache.advance(len(span.tokens))
        return logits

    @torch.inference_mode()
    def _forward(self, spans: Sequence[SequenceSlice], every_position: bool) -> Tensor:
        rows = self._lay_out(spans)
        x = self._embed(spans).to(self.dtype)
        for layer in self.layers:
            x = layer(x, rows)
        for span in spans:
            span.cache.advance(len(span.tokens))
        if not every_position:
            x = x[torch.tensor([stop - 1 for _, stop in rows.bounds], device=self.device)]
        x = rms_norm(x, self.norm, self.shape.rms_norm_eps)
        counts = [len(span.tokens) if every_position else 1 for span in spans]
        return self._heads(x, spans, counts)

    def make_lora_pair(self, a: Tensor, b: Tensor, scaling: float) -> LoraPair:
        """A low-rank update, from `a` [rank, in] and `b` [out, rank] of any float type."""
        if self._is_compact:
            return int8_pair(a, b, scaling)
        a, b = (side.to(self.device, self.dtype, copy=True) for side in (a, b))
        return FloatPair(a, b, scaling)

    def make_layer(self, weight: Tensor) -> Linear:
        """An adapter's own embedding or head, [rows, hidden_size], as the base's are."""
        layer = self._make(self.shape.hidden_size, len(weight), embedding=True)
        layer.put(0, weight)
        return layer

    def _embed(self, spans: Sequence[SequenceSlice]) -> Tensor:
        """[tokens, hidden_size]."""

        def rows(layer: Linear, some: Iterable[SequenceSlice]) -> Tensor:
            ids = [token for span in some for token in span.tokens]
            return layer.rows(torch.tensor(ids, device=self.device))

        layers = [(span.active and span.active.embedding) or self.embed_tokens for span in spans]
        if len(set(layers)) == 1:
            return rows(layers[0], spans)
        return torch.cat([rows(*part) for part in zip(layers, ([s] for s in spans), strict=True)])

    def _heads(self, x: Tensor, spans: Sequence[SequenceSlice], counts: Sequence[int]) -> Tensor:
        """Logits of so many rows of `x` for each span, float32 [rows, widest vocabulary]."""
        layers = [(span.active and span.active.head) or self.lm_head for span in spans]
        if len(set(layers)) == 1:
            return layers[0](x).float()
        parts = zip(layers, x.split(list(counts)), strict=True)
        logits = [layer(part).float() for layer, part in parts]
        widest = max(layer.out_features for layer in layers)
        padding = [(0, widest - layer.out_features) for layer in layers]
        padded = zip(logits, padding, strict=True)
        return torch.cat([functional.pad(part, pad, value=-torch.inf) for part, pad in padded])

    def _lay_out(self, spans: Sequence[SequenceSlice]) -> _Rows:
        bounds: list[tuple[int, int]] = []
        positions: list[int] = []
        start = 0
        for span in spans:
            count = len(span.tokens)
            bounds.append((start, start + count))
            positions.extend(range(span.cache.length, span.cache.length + count))
            start += count
        cos, sin = self._rope.at(torch.tensor(positions, device=self.device), self.dtype)
        return _Rows(spans, bounds, _group_loras(spans, bounds), cos, sin)


def _group_loras(
    spans: Sequence[SequenceSlice], bounds: Sequence[tuple[int, int]]
) -> list[LoraRows]:
    """Neighbouring spans with the same adapter and scale as one group of rows."""
    groups: list[LoraRows] = []
    for span, (start, stop) in zip(spans, bounds, strict=True):
        lora = span.active
        if lora is None:
            continue
        last = groups[-1] if groups else None
        joins = last and last.lora is lora and last.scale == span.scale and last.stop == start
        if last and joins:
            groups[-1] = LoraRows(last.start, stop, lora, span.scale)
        else:
            groups.append(LoraRows(start, stop, lora, span.scale))
    return groups


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm (Zhang and Sennrich 2019) over the last axis, computed in float32."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)
