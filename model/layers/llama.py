"""The LLaMA forward (Touvron et al. 2023, https://arxiv.org/abs/2302.13971) over ragged batches.

A batch is a list of rows: some sequences bring one row (decode), some a chunk (prefill). Linear
layers see all rows at once; attention goes sequence by sequence, adapters group by group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model.layers.decoder_layer import BatchRows, DecoderLayer, rms_norm
from model.layers.kernels.records import KEY_BLOCK
from model.layers.kv_layout import COMPACT_DTYPE, CacheFormat, KeyValues
from model.layers.linear import Linear, make_linear
from model.layers.lora import FloatPair, Lora, LoraPair, LoraRows, int8_pair
from model.layers.rope import RotaryTable
from model.tensor_names import linear_sizes

if TYPE_CHECKING:
    from model.layers.compiled_decoder import Decoder


@dataclass(frozen=True)
class LlamaShape:
    """The sizes of a LLaMA, and the flags that distinguish its relatives."""

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
        return linear_sizes(
            self.hidden_size, self.intermediate_size, self.num_heads, self.num_kv_heads,
            self.head_dim,
        )  # fmt: skip


@dataclass(frozen=True)
class SequenceSlice:
    """The part of a sequence that a forward computes: its next `tokens`, over its `cache`.

    `adapter_scale` multiplies the deltas of `lora`. It does not scale an embedding or a head that
    the adapter brings, but at 0 the base answers alone.
    """

    tokens: Sequence[int]
    cache: KeyValues
    lora: Lora | None = None
    adapter_scale: float = 1.0

    @property
    def active_lora(self) -> Lora | None:
        """The adapter, unless its scale is 0."""
        return self.lora if self.adapter_scale else None


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

        self._make_linear = make
        self.embed_tokens = make(shape.hidden_size, shape.vocab_size, embedding=True)
        self.layers = [DecoderLayer(i, shape, make) for i in range(shape.num_layers)]
        self.norm = torch.ones(shape.hidden_size)
        self.lm_head = self.embed_tokens
        if not shape.tied_head:
            self.lm_head = make(shape.hidden_size, shape.vocab_size, embedding=True)
        self._rope = RotaryTable(inv_freq.to(device), rope_scaling, context_length)
        self.decoder: Decoder | None = None

    @property
    def _is_int8_on_cpu(self) -> bool:
        return self.device == "cpu" and self.quantization != "none"

    @property
    def cache_format(self) -> CacheFormat:
        """How its sequences store keys and values.

        Beside 8-bit weights 16 bits are precise enough; and compiled code needs keys in blocks.
        """
        shape, compact = self.shape, self._is_int8_on_cpu
        return CacheFormat(
            shape.num_layers, shape.num_kv_heads, shape.head_dim,
            COMPACT_DTYPE if compact else self.dtype, self.device, KEY_BLOCK if compact else 1,
        )  # fmt: skip

    def set_decoder(self, decoder: Decoder) -> None:
        """Compute with compiled code from the next forward on."""
        self.decoder = decoder

    def close(self) -> None:
        """End the decoder's threads, if it has any. No forward may be running."""
        if self.decoder:
            self.decoder.close()

    @property
    def batch_invariant(self) -> bool:
        """Whether a token's logits are the same to the last bit in every batch."""
        return self.decoder is not None

    @property
    def rotary(self) -> tuple[Tensor, Tensor]:
        """cos and sin, float32 [context_length, head_dim]."""
        return self._rope.cos, self._rope.sin

    def linears(self) -> Iterator[Linear]:
        """Every linear layer, the head last."""
        for layer in self.layers:
            yield from (fused.linear for fused in layer.fused_linears.values())
        yield self.lm_head

    def forward(self, slices: Sequence[SequenceSlice], every_position: bool = False) -> Tensor:
        """Advance the cache of every slice by its tokens.

        Slices with the same adapter and scale should be neighbours: each run of them is one group
        of rows.

        Returns:
            Logits after the last token of each slice, float32 [slices, vocab_size], or with
            `every_position` after every token, [tokens, vocab_size]. Where an adapter brings a
            larger vocabulary they are as wide as that, and ids that others lack are -inf.
        """
        if self.decoder and self.decoder.fits(slices):
            return torch.from_numpy(self._decode(self.decoder, slices, every_position))
        return self._forward(slices, every_position)

    def logits(
        self, slices: Sequence[SequenceSlice], every_position: bool = False
    ) -> NDArray[np.float32]:
        """As `forward`, for a caller that samples: it may change the result until the next call.

        Compiled code is reached without torch: each call of torch costs more here than elsewhere,
        because the weights have just evicted everything else from the processor's caches.
        """
        if self.decoder and self.decoder.fits(slices):
            return self._decode(self.decoder, slices, every_position)
        return self._forward(slices, every_position).cpu().numpy()

    def _decode(
        self, decoder: Decoder, slices: Sequence[SequenceSlice], every_position: bool
    ) -> NDArray[np.float32]:
        logits = decoder.forward(slices, every_position)
        for part in slices:
            part.cache.advance(len(part.tokens))
        return logits

    @torch.inference_mode()
    def _forward(self, slices: Sequence[SequenceSlice], every_position: bool) -> Tensor:
        rows = self._lay_out(slices)
        x = self._embed(slices).to(self.dtype)
        for layer in self.layers:
            x = layer(x, rows)
        for part in slices:
            part.cache.advance(len(part.tokens))
        if not every_position:
            x = x[torch.tensor([stop - 1 for _, stop in rows.bounds], device=self.device)]
        x = rms_norm(x, self.norm, self.shape.rms_norm_eps)
        counts = [len(part.tokens) if every_position else 1 for part in slices]
        return self._head_logits(x, slices, counts)

    def make_lora_pair(self, a: Tensor, b: Tensor, scaling: float) -> LoraPair:
        """A low-rank update, from `a` [rank, in] and `b` [out, rank] of any float type."""
        if self._is_int8_on_cpu:
            return int8_pair(a, b, scaling)
        a, b = (side.to(self.device, self.dtype, copy=True) for side in (a, b))
        return FloatPair(a, b, scaling)

    def make_layer(self, weight: Tensor) -> Linear:
        """An embedding or head that an adapter brings, [rows, hidden_size], as the base's are."""
        layer = self._make_linear(self.shape.hidden_size, len(weight), embedding=True)
        layer.put(0, weight)
        return layer

    def _embed(self, slices: Sequence[SequenceSlice]) -> Tensor:
        """[tokens, hidden_size]."""

        def rows(layer: Linear, group: Iterable[SequenceSlice]) -> Tensor:
            ids = [token for part in group for token in part.tokens]
            return layer.rows(torch.tensor(ids, device=self.device))

        layers = [
            (part.active_lora and part.active_lora.embedding) or self.embed_tokens
            for part in slices
        ]
        if len(set(layers)) == 1:
            return rows(layers[0], slices)
        return torch.cat([rows(layer, [part]) for layer, part in zip(layers, slices, strict=True)])

    def _head_logits(
        self, x: Tensor, slices: Sequence[SequenceSlice], counts: Sequence[int]
    ) -> Tensor:
        """Logits, float32 [rows, widest vocabulary], for `x` with `counts` rows of each slice."""
        layers = [(part.active_lora and part.active_lora.head) or self.lm_head for part in slices]
        if len(set(layers)) == 1:
            return layers[0](x).float()
        groups = zip(layers, x.split(list(counts)), strict=True)
        logits = [layer(group).float() for layer, group in groups]
        widest = max(layer.out_features for layer in layers)
        padding = [(0, widest - layer.out_features) for layer in layers]
        padded = zip(logits, padding, strict=True)
        return torch.cat([functional.pad(part, pad, value=-torch.inf) for part, pad in padded])

    def _lay_out(self, slices: Sequence[SequenceSlice]) -> BatchRows:
        bounds: list[tuple[int, int]] = []
        positions: list[int] = []
        start = 0
        for part in slices:
            count = len(part.tokens)
            bounds.append((start, start + count))
            positions.extend(range(part.cache.length, part.cache.length + count))
            start += count
        cos, sin = self._rope.at(torch.tensor(positions, device=self.device), self.dtype)
        return BatchRows(slices, bounds, _group_loras(slices, bounds), cos, sin)


def _group_loras(
    slices: Sequence[SequenceSlice], bounds: Sequence[tuple[int, int]]
) -> list[LoraRows]:
    """Neighbouring slices with the same adapter and scale as one group of rows."""
    groups: list[LoraRows] = []
    for part, (start, stop) in zip(slices, bounds, strict=True):
        lora, scale = part.active_lora, part.adapter_scale
        if lora is None:
            continue
        last = groups[-1] if groups else None
        joins = last and last.lora is lora and last.adapter_scale == scale and last.stop == start
        if last and joins:
            groups[-1] = LoraRows(last.start, stop, lora, scale)
        else:
            groups.append(LoraRows(start, stop, lora, scale))
    return groups
