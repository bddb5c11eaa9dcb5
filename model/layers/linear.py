"""Linear layers by device and quantisation, filled part by part while the weights arrive.

A layer is made empty with its full shape and then filled by `put`, one checkpoint tensor at a
time; one layer may take several tensors below each other (q, k and v share their input). Biases
have the activations' type whatever the quantisation.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.layers.kernels.records import ADJACENT_COLUMNS, BLOCK_ROWS, COLUMN_PADDING, ROW_PADDING

QUANTIZE_ROWS = 256  # at a time: their float32 copies stay in the processor's caches


class Linear(Protocol):
    """y = x W^T + b, for `x` [rows, in_features]."""

    in_features: int
    out_features: int

    @property
    def nbytes(self) -> int:
        """Memory of the weights in bytes."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] -> [rows, out_features], in the type of `x`."""
        ...

    def put(self, start: int, weight: Tensor) -> None:
        """Store `weight` [n, in_features] as the output rows from `start` on."""
        ...

    def put_bias(self, start: int, bias: Tensor) -> None:
        """Store `bias` [n] for the outputs from `start` on."""
        ...

    def rows(self, ids: Tensor) -> Tensor:
        """The weight's rows `ids` [n] -> [n, in_features]: the layer as an embedding."""
        ...


class _LinearBase:
    """What all kinds have in common: sizes, and a bias, which is None until a part of it is put."""

    def __init__(
        self, in_features: int, out_features: int, dtype: torch.dtype, device: str
    ) -> None:
        self.in_features = in_features
        self.out_features = out_features
        self.dtype = dtype
        self.device = device
        self.bias: Tensor | None = None

    def put_bias(self, start: int, bias: Tensor) -> None:
        if self.bias is None:
            self.bias = torch.zeros(self.out_features, dtype=self.dtype, device=self.device)
        self.bias[start : start + len(bias)] = bias.to(self.bias)

    def _add_bias(self, y: Tensor) -> Tensor:
        return y if self.bias is None else y + self.bias


class FloatLinear(_LinearBase):
    """Unquantised weights in the activations' type, on any device."""

    def __init__(
        self, in_features: int, out_features: int, dtype: torch.dtype, device: str
    ) -> None:
        super().__init__(in_features, out_features, dtype, device)
        self.weight = torch.empty(out_features, in_features, dtype=dtype, device=device)

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes

    def put(self, start: int, weight: Tensor) -> None:
        self.weight[start : start + len(weight)] = weight.to(self.weight)

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def rows(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.weight)


class Int8Linear(_LinearBase):
    """int8 weights with one float32 scale an output row, on the CPU.

    The weights are stored in blocks, [out / BLOCK_ROWS, in / ADJACENT_COLUMNS, BLOCK_ROWS,
    ADJACENT_COLUMNS], padded with zeros: the order in which compiled code reads them. Until that
    code is ready, torch unpacks the weights for each product and multiplies in float32.
    """

    def __init__(
        self, in_features: int, out_features: int, dtype: torch.dtype, device: str
    ) -> None:
        super().__init__(in_features, out_features, dtype, device)
        blocks = -(-out_features // ROW_PADDING) * ROW_PADDING // BLOCK_ROWS
        columns = -(-in_features // COLUMN_PADDING) * COLUMN_PADDING
        # Not `zeros`: touching the memory of a 13B takes seconds, and filling it touches it anyway.
        shape = blocks, columns // ADJACENT_COLUMNS, BLOCK_ROWS, ADJACENT_COLUMNS
        self.packed = torch.empty(shape, dtype=torch.int8)
        self.packed[out_features // BLOCK_ROWS :] = 0
        self.scale = torch.zeros(blocks * BLOCK_ROWS, dtype=torch.float32)
        self.padded_bias = torch.zeros_like(self.scale)
        self.bias = self.padded_bias[:out_features]

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + self.scale.nbytes

    def put(self, start: int, weight: Tensor) -> None:
        for part in weight.split(QUANTIZE_ROWS):
            quantized, self.scale[start : start + len(part)] = quantize_rows(part)
            padding = self.packed.shape[1] * ADJACENT_COLUMNS - self.in_features
            self._pack(start, functional.pad(quantized, (0, padding)))
            start += len(part)

    def _pack(self, start: int, rows: Tensor) -> None:
        """Store int8 `rows` [n, padded in_features] as the output rows from `start` on."""
        pairs = rows.view(torch.int16)  # adjacent columns stay together
        in_blocks = len(rows) // BLOCK_ROWS * BLOCK_ROWS if start % BLOCK_ROWS == 0 else 0
        packed = self.packed.view(torch.int16)[..., 0]  # [blocks, columns / 2, BLOCK_ROWS]
        blocks = packed[start // BLOCK_ROWS : (start + in_blocks) // BLOCK_ROWS]
        blocks.copy_(pairs[:in_blocks].view(-1, BLOCK_ROWS, pairs.shape[1]).transpose(1, 2))
        ids = torch.arange(start + in_blocks, start + len(rows))
        packed[ids // BLOCK_ROWS, :, ids % BLOCK_ROWS] = pairs[in_blocks:]

    def __call__(self, x: Tensor) -> Tensor:
        y = functional.linear(x, self.unpacked()[:, : self.in_features].to(x.dtype))
        return self._add_bias(y * self.scale[: self.out_features]).to(x.dtype)

    def unpacked(self) -> Tensor:
        """int8 [out_features, padded in_features]."""
        # As int16: moving pairs is faster than moving bytes.
        pairs = self.packed.view(torch.int16).transpose(1, 2).contiguous()
        return pairs.view(torch.int8).view(len(self.scale), -1)[: self.out_features]

    def rows(self, ids: Tensor) -> Tensor:
        rows = self.packed[ids // BLOCK_ROWS, :, ids % BLOCK_ROWS].flatten(1)[:, : self.in_features]
        return (rows * self.scale[ids, None]).to(self.dtype)


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 with one scale a row: absmax / 127.

    [rows, columns] of any float type -> int8 [rows, columns], float32 [rows]. Zero rows get
    scale 0.
    """
    weight = weight.float()
    scale = weight.abs().amax(dim=1) / 127
    inverse = torch.where(scale > 0, 1 / scale, 0)
    return (weight * inverse[:, None]).round().to(torch.int8), scale


class BitsAndBytesLinear(_LinearBase):
    """8-bit or 4-bit weights on CUDA, through bitsandbytes' own modules.

    The parts are collected in the CPU's memory and quantised on the way to the GPU when the last
    one has been put.
    """

    def __init__(
        self, in_features: int, out_features: int, dtype: torch.dtype, device: str, bits: int
    ) -> None:
        super().__init__(in_features, out_features, dtype, device)
        self._bits = bits
        # LLM.int8 computes in float16; for another type it logs a line for each layer and token.
        self._compute = torch.float16 if bits == 8 else dtype
        self._parts: Tensor | None = torch.empty(out_features, in_features, dtype=self._compute)
        self._missing = out_features
        self._module: nn.Module | None = None

    @property
    def nbytes(self) -> int:
        return self.in_features * self.out_features * self._bits // 8

    def put(self, start: int, weight: Tensor) -> None:
        if self._parts is None:
            raise RuntimeError("this layer has all of its weights already")
        self._parts[start : start + len(weight)] = weight.to(self._compute)
        self._missing -= len(weight)
        if self._missing == 0:
            self._module = self._quantize(self._parts)
            self._parts = None

    def _quantize(self, weight: Tensor) -> nn.Module:
        import bitsandbytes as bnb

        if self._bits == 8:
            module = bnb.nn.Linear8bitLt(
                self.in_features, self.out_features, bias=False, has_fp16_weights=False
            )
            module.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        else:
            module = bnb.nn.Linear4bit(
                self.in_features, self.out_features, bias=False,
                compute_dtype=self._compute, quant_type="nf4",
            )  # fmt: skip
            module.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
        return module.to(self.device)

    def __call__(self, x: Tensor) -> Tensor:
        if self._module is None:
            raise RuntimeError(f"{self._missing} rows of this layer have no weights yet")
        y: Tensor = self._module(x.to(self._compute))
        return self._add_bias(y.to(x.dtype))

    def rows(self, ids: Tensor) -> Tensor:  # noqa: ARG002 (the protocol's)
        raise RuntimeError("embeddings are kept unquantised on CUDA")


def make_linear(
    in_features: int,
    out_features: int,
    *,
    quantization: str,
    dtype: torch.dtype,
    device: str,
    embedding: bool = False,
) -> Linear:
    """Makes an empty layer of the kind that belongs to `device` and `quantization`.

    `embedding` marks the token embedding and the output head, which bitsandbytes does not quantise.
    """
    if quantization == "none" or (device != "cpu" and embedding):
        return FloatLinear(in_features, out_features, dtype, device)
    if device == "cpu":
        return Int8Linear(in_features, out_features, dtype, device)
    bits = 8 if quantization == "8bit" else 4
    return BitsAndBytesLinear(in_features, out_features, dtype, device, bits)
