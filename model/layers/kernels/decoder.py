"""Compiled decoding of one loaded model: its weights by address, its buffers, its threads."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from model.layers.kernels import layout, programs, step
from model.layers.kernels.crew import Crew, empty_tables
from model.layers.linear import Int8Linear, Linear

if TYPE_CHECKING:
    from model.layers.llama import Llama, Span
    from model.layers.lora import Lora

FIRST_RANK = 16  # room for low-rank activations, made larger when a larger rank comes


class Decoder:
    """Decode steps and products for the 8-bit `model`, on `threads` threads.

    All calls come from one thread, which is one of them. What they return are views of buffers
    that the next call writes to.
    """

    def __init__(self, model: Llama, threads: int, max_rows: int) -> None:
        self.max_rows = max_rows
        self._shape = model.shape
        self._kept: list[Tensor] = []  # whose addresses are known to compiled code alone
        self._loras: list[Lora | None] = [None] * max_rows
        self._described: weakref.WeakKeyDictionary[Lora, np.ndarray] = weakref.WeakKeyDictionary()
        self._tables = empty_tables(max_rows, model.shape.num_layers)
        self._describe_weights(model)
        self._step, self._product = np.zeros(1, layout.JOB), np.zeros(1, layout.JOB)
        self._describe_sizes(model)
        self._make_buffers()
        self._describe_stages()
        self._crew = Crew(threads, self._tables)

    def close(self) -> None:
        """Send the other threads home."""
        self._crew.close()

    def step(self, spans: Sequence[Span], x: Tensor) -> Tensor:
        """Compute one token of each span, at most `max_rows`; the caches are not advanced.

        Args:
            x: the tokens' embeddings, float32 [spans, hidden].

        Returns:
            Logits, float32 [spans, vocab_size].
        """
        for at, span in enumerate(spans):
            self._place(at, span)
        self._forget(len(spans))
        self._x[: len(spans)] = x
        self._step["rows"] = len(spans)
        self._crew.run(self._step)
        return self._logits[: len(spans), : self._shape.vocab_size]

    def product(self, linear: Int8Linear, x: Tensor) -> Tensor:
        """`linear` of `x`, float32 [rows, in_features] -> [rows, out_features]."""
        x = x.contiguous()
        rows, outs = len(x), len(linear.scale)
        ins = linear.packed.shape[1] * linear.packed.shape[3]
        values = torch.empty(rows, ins, dtype=torch.int16)
        scales, y = torch.empty(rows), torch.empty(rows, outs)
        job: Any = self._product[0]
        job["rows"], job["hidden"] = rows, linear.in_features
        job["input"], job["output"], job["output_stride"] = x.data_ptr(), y.data_ptr(), outs
        job["values"], job["scales"] = values.data_ptr(), scales.data_ptr()
        self._tables.linears[-1, layout.ALONE] = _linear(linear)
        self._crew.run(self._product)
        return y[:, : linear.out_features]

    def _describe_weights(self, model: Llama) -> None:
        linears, norms = self._tables.linears, self._tables.norms
        for at, layer in enumerate(model.layers):
            packed = (layer.qkv, layer.o, layer.gate_up, layer.down)
            for place, module in enumerate(packed):
                linears[at, place] = _linear(module.linear)
            norms[2 * at] = self._keep(layer.input_norm)
            norms[2 * at + 1] = self._keep(layer.post_norm)
        linears[-1, layout.HEAD] = _linear(model.lm_head)
        norms[-1] = self._keep(model.norm)

    def _keep(self, tensor: Tensor) -> int:
        tensor = tensor.float().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _describe_sizes(self, model: Llama) -> None:
        shape, job = model.shape, self._step
        job["program"], job["layers"] = programs.DECODE, shape.num_layers
        job["hidden"], job["wide"] = shape.hidden_size, shape.intermediate_size
        job["heads"], job["kv_heads"] = shape.num_heads, shape.num_kv_heads
        job["head_dim"], job["eps"] = shape.head_dim, shape.rms_norm_eps
        job["cos"], job["sin"] = (self._keep(table) for table in model.rotary)
        self._product["program"], self._product["layers"] = programs.PRODUCT, shape.num_layers

    def _make_buffers(self) -> None:
        shape, linears = self._shape, self._tables.linears
        outs = linears["outs"]
        widest = max(shape.hidden_size, shape.num_heads * shape.head_dim, shape.intermediate_size)
        self._x = self._buffer("x", shape.hidden_size)
        self._logits = self._buffer("logits", int(outs[-1, layout.HEAD]))
        self._step["normed_stride"] = widest
        self._step["delta_stride"] = outs[:, [layout.ATTENTION_OUT, layout.DOWN]].max()
        self._step["packed_stride"] = outs[:, [layout.QKV, layout.GATE_UP]].max()
        for name in ("normed", "delta", "packed"):
            self._buffer(name, int(self._step[f"{name}_stride"][0]))
        self._buffer("values", int(linears["ins"].max()), torch.int16)
        self._buffer("scales", 1)
        self._make_low(FIRST_RANK)

    def _buffer(self, name: str, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
        made = torch.zeros(self.max_rows, width, dtype=dtype)
        self._kept.append(made)
        self._step[name] = made.data_ptr()
        return made

    def _describe_stages(self) -> None:
        job = self._step[0]
        packed = job["packed"], job["packed_stride"]
        delta = job["delta"], job["delta_stride"]
        logits = job["logits"], self._tables.linears[-1, layout.HEAD]["outs"]
        # kind, linear, first module, modules, norm, output, its stride
        self._tables.stages[:] = [
            (step.NORM, layout.QKV, layout.DOWN_PROJ, 0, 0, 0, 0),
            (step.PRODUCT, layout.QKV, layout.Q_PROJ, 3, 0, *packed),
            (step.ATTEND, 0, 0, 0, 0, 0, 0),
            (step.QUANTIZE, layout.ATTENTION_OUT, 0, 0, 0, 0, 0),
            (step.PRODUCT, layout.ATTENTION_OUT, layout.O_PROJ, 1, 0, *delta),
            (step.NORM, layout.GATE_UP, layout.O_PROJ, 0, 1, 0, 0),
            (step.PRODUCT, layout.GATE_UP, layout.GATE_PROJ, 2, 0, *packed),
            (step.GATE, layout.DOWN, layout.GATE_PROJ, 0, 0, 0, 0),
            (step.PRODUCT, layout.DOWN, layout.DOWN_PROJ, 1, 0, *delta),
            (step.NORM, layout.HEAD, layout.DOWN_PROJ, 0, 0, 0, 0),
            (step.PRODUCT, layout.HEAD, 0, 0, 0, *logits),
        ]

    def _make_low(self, rank: int) -> None:
        self._low = torch.zeros(self.max_rows, layout.PARTS, rank)
        self._step["low"], self._step["most_rank"] = self._low.data_ptr(), rank

    def _place(self, at: int, span: Span) -> None:
        keys, values = span.cache.storage(span.cache.length + 1)
        self._tables.rows[at] = (
            keys.data_ptr(), values.data_ptr(), keys.stride(0), keys.stride(1),
            span.cache.length, span.scale,
        )  # fmt: skip
        lora = span.lora if span.scale else None
        if self._loras[at] is not lora:
            self._loras[at] = lora
            self._tables.pairs[at] = 0 if lora is None else self._table(lora)

    def _forget(self, used: int) -> None:
        """Let go of the adapters of rows that are not used any more."""
        for at in range(used, self.max_rows):
            if self._loras[at] is None:
                continue
            self._loras[at] = None
            self._tables.pairs[at] = 0

    def _table(self, lora: Lora) -> np.ndarray:
        """The PAIR records of an adapter, by layer and module."""
        table = self._described.get(lora)
        if table is None:
            table = self._described[lora] = _describe_lora(lora, self._shape.num_layers)
        rank = int(table["rank"].max())
        if rank > self._step["most_rank"][0]:
            self._make_low(rank)
        return table


def _linear(linear: Linear) -> tuple[int, ...]:
    if not isinstance(linear, Int8Linear):
        raise TypeError("compiled code multiplies int8 weights alone")
    blocks, groups, block, lanes = linear.packed.shape
    sizes = groups * lanes, blocks * block
    weights = linear.packed, linear.scale, linear.padded_bias
    return *(part.data_ptr() for part in weights), *sizes


def _describe_lora(lora: Lora, layers: int) -> np.ndarray:
    table = np.zeros((layers, len(layout.MODULES)), layout.PAIR)
    for (layer, name), pair in lora.pairs.items():
        table[layer, layout.MODULES.index(name)] = (
            pair.a.data_ptr(), pair.b.data_ptr(), *pair.a.shape, pair.b.shape[0], pair.scaling,
        )  # fmt: skip
    return table.reshape(-1)
