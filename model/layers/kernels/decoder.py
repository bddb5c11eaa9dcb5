"""The compiled forward of one loaded model: its weights by address, its buffers, its threads."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from model.layers.kernels import records, stages
from model.layers.kernels.thread_pool import ThreadPool, empty_tables
from model.layers.linear import Int8Linear, Linear
from model.layers.lora import Int8Pair

if TYPE_CHECKING:
    from model.layers.llama import Llama, SequenceSlice
    from model.layers.lora import Lora

OUTS = -1  # the place of the padded outputs in what describes a linear layer
FIRST_RANK = 16  # room for low-rank activations, made larger when a larger rank comes


class Decoder:
    """The forward of the 8-bit `model`, on `threads` threads.

    All calls come from one thread, which is one of them. What they return are views of buffers
    that the next call writes to.

    Args:
        max_rows: tokens in a forward, of all sequences together.
        max_spans: sequences in a forward.
    """

    def __init__(self, model: Llama, threads: int, max_rows: int, max_spans: int) -> None:
        self._max_rows, self._max_spans = max(max_rows, max_spans), max_spans
        self._shape = model.shape
        self._kept: dict[str, Tensor] = {}  # whose addresses are known to compiled code alone
        self._loras: list[Lora | None] = [None] * (max_spans + 1)
        self._described: weakref.WeakKeyDictionary[Lora, np.ndarray] = weakref.WeakKeyDictionary()
        self._tables = empty_tables(self._max_rows, max_spans + 1, model.shape.num_layers)
        self._describe_weights(model)
        self._job = np.zeros(1, records.JOB)
        self._describe_sizes(model)
        self._make_buffers()
        self._make_low(FIRST_RANK)
        self._make_logits(max_spans, self._head[OUTS])
        self._job["threads"] = threads
        self._crew = ThreadPool(threads, self._tables)

    def close(self) -> None:
        """Send the other threads home."""
        self._crew.close()

    def takes(self, spans: Sequence[SequenceSlice]) -> bool:
        """Whether there is room for so much at once."""
        tokens = sum(len(span.tokens) for span in spans)
        return tokens <= self._max_rows and len(spans) <= self._max_spans

    def forward(self, spans: Sequence[SequenceSlice], every_position: bool = False) -> np.ndarray:
        """Compute the tokens of `spans`, which `takes` them; the caches are not advanced.

        Args:
            every_position: give logits after every token, and not only after each span's last.

        Returns:
            Logits, float32 [spans or tokens, vocab_size], or as wide as the largest vocabulary
            that an adapter of `spans` brings; what a row's own does not have is -inf.
        """
        self._lend(spans)
        ends = self._place(spans)
        rows = np.arange(ends[-1]) if every_position else np.array(ends) - 1
        if len(rows) > len(self._logits):
            self._make_logits(len(rows), self._logits.shape[1])
        self._job["rows"], self._job["first"] = ends[-1], 0
        self._tile(ends)
        if not any(span.active and span.active.head for span in spans):
            self._run(rows, self._head, 0)
            return self._logits[: len(rows), : self._shape.vocab_size]
        return self._with_own_heads(spans, rows, np.searchsorted(ends, rows, side="right"))

    def _run(self, rows: np.ndarray, head: tuple[int, ...], at: int) -> None:
        """The job, with the logits of `rows` by `head` from row `at` of the logits on."""
        self._tables.outputs[: len(rows)] = rows
        self._job["outputs"] = len(rows)
        self._tables.linears[-1, records.HEAD] = head
        self._tables.stages[-1]["output"] = self._logits_address + at * self._logits.strides[0]
        self._crew.run(self._job)

    def _with_own_heads(
        self, spans: Sequence[SequenceSlice], rows: np.ndarray, owners: np.ndarray
    ) -> np.ndarray:
        """Logits of `rows`, each the row of the span `owners` says, by the head of its adapter."""
        heads = [span.active.head if span.active else None for span in spans]
        described = {head: self._head if head is None else _linear(head) for head in heads}
        sizes = {head: head.out_features if head else self._shape.vocab_size for head in heads}
        widest = max(described.values(), key=lambda linear: linear[OUTS])[OUTS]
        if widest > self._logits.shape[1]:
            self._make_logits(len(self._logits), widest)
        order: list[int] = []
        for head, linear in described.items():
            mine = [at for at, owner in enumerate(owners) if heads[owner] is head]
            begin = len(order)
            self._run(rows[mine], linear, begin)
            self._job["first"] = self._shape.num_layers  # the layers are done
            self._logits[begin : begin + len(mine), sizes[head] :] = -np.inf
            order += mine
        return self._logits[np.argsort(order), : max(sizes.values())]

    def _describe_weights(self, model: Llama) -> None:
        linears, norms = self._tables.linears, self._tables.norms
        for at, layer in enumerate(model.layers):
            packed = (layer.qkv, layer.o, layer.gate_up, layer.down)
            for place, module in enumerate(packed):
                linears[at, place] = _linear(module.linear)
            for norm, weight in enumerate((layer.input_norm, layer.post_norm)):
                norms[2 * at + norm] = self._keep(f"{at}.{norm}", weight.float().contiguous())
        self._tables.embeddings[0] = _linear(model.embed_tokens)
        self._head = linears[-1, records.HEAD] = _linear(model.lm_head)
        norms[-1] = self._keep("norm", model.norm.float().contiguous())

    def _keep(self, name: str, tensor: Tensor) -> int:
        """Its address, as long as nothing else is kept by that name."""
        self._kept[name] = tensor
        return tensor.data_ptr()

    def _describe_sizes(self, model: Llama) -> None:
        shape, job = model.shape, self._job
        job["layers"], job["hidden"], job["wide"] = (
            shape.num_layers, shape.hidden_size, shape.intermediate_size,
        )  # fmt: skip
        job["heads"], job["kv_heads"] = shape.num_heads, shape.num_kv_heads
        job["head_dim"], job["eps"] = shape.head_dim, shape.rms_norm_eps
        for name, table in zip(("cos", "sin"), model.rotary, strict=True):
            job[name] = self._keep(name, table.float().contiguous())

    def _make_buffers(self) -> None:
        shape, linears = self._shape, self._tables.linears
        outs = linears["outs"]
        widest = max(shape.hidden_size, shape.num_heads * shape.head_dim, shape.intermediate_size)
        strides = {
            "normed": widest,
            "delta": int(outs[:, [records.ATTENTION_OUT, records.DOWN]].max()),
            "packed": int(outs[:, [records.QKV, records.GATE_UP]].max()),
        }
        for name, stride in strides.items():
            self._job[f"{name}_stride"] = stride
            self._buffer(name, stride)
        self._buffer("x", shape.hidden_size)
        self._buffer("values", int(linears["ins"].max()), torch.int16)
        self._buffer("scales", 1)

    def _buffer(self, name: str, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
        made = torch.zeros(self._max_rows, width, dtype=dtype)
        self._job[name] = self._keep(name, made)
        return made

    def _make_low(self, rank: int) -> None:
        padded = -(-rank // records.VECTOR) * records.VECTOR
        self._buffer("low", records.PARTS * padded)
        self._job["most_rank"] = padded

    def _make_logits(self, count: int, width: int) -> None:
        self._logits = np.zeros((count, width), np.float32)
        self._logits_address = self._logits.ctypes.data
        self._describe_stages()

    def _describe_stages(self) -> None:
        job = self._job[0]
        packed = job["packed"], job["packed_stride"]
        delta = job["delta"], job["delta_stride"]
        # kind, linear, first module, modules, norm, output, its stride
        self._tables.stages[:] = [
            (stages.NORM, records.QKV, records.DOWN_PROJ, 0, 0, 0, 0),
            (stages.PRODUCT, records.QKV, records.Q_PROJ, 3, 0, *packed),
            (stages.ROTATE, 0, 0, 0, 0, 0, 0),
            (stages.ATTEND, 0, 0, 0, 0, 0, 0),
            (stages.QUANTIZE, records.ATTENTION_OUT, 0, 0, 0, 0, 0),
            (stages.PRODUCT, records.ATTENTION_OUT, records.O_PROJ, 1, 0, *delta),
            (stages.NORM, records.GATE_UP, records.O_PROJ, 0, 1, 0, 0),
            (stages.PRODUCT, records.GATE_UP, records.GATE_PROJ, 2, 0, *packed),
            (stages.GATE, records.DOWN, records.GATE_PROJ, 0, 0, 0, 0),
            (stages.PRODUCT, records.DOWN, records.DOWN_PROJ, 1, 0, *delta),
            (stages.NORM, records.HEAD, records.DOWN_PROJ, 0, 0, 0, 0),
            (stages.PRODUCT, records.HEAD, 0, 0, 0, 0, self._logits.shape[1]),
        ]

    def _lend(self, spans: Sequence[SequenceSlice]) -> None:
        """Give each adapter of `spans` a place in the tables; the first place is nobody's."""
        wanted = {span.active: None for span in spans if span.active}
        for at, lora in enumerate(self._loras):
            if lora in wanted:
                del wanted[lora]
            elif lora is not None:  # nobody here keeps the weights of whoever has left
                self._loras[at] = None
        free = (at for at in range(1, len(self._loras)) if self._loras[at] is None)
        for lora, at in zip(wanted, free, strict=False):
            self._loras[at] = lora
            self._tables.pairs[at] = self._table(lora)
            own = lora.embedding
            self._tables.embeddings[at] = (
                self._tables.embeddings[0] if own is None else _linear(own)
            )

    def _place(self, spans: Sequence[SequenceSlice]) -> list[int]:
        """Describe the rows. Returns where each span ends."""
        rows: list[tuple[float, ...]] = []
        ends = []
        for span in spans:
            length = span.cache.length
            place = span.cache.pointers(length + len(span.tokens))
            lent = (self._loras.index(span.active) if span.active else 0), span.scale
            rows += [(*place, at, token, *lent) for at, token in enumerate(span.tokens, length)]
            ends.append(len(rows))
        self._tables.rows[: len(rows)] = rows
        return ends

    def _tile(self, ends: Sequence[int]) -> None:
        """Cut each span into the groups of rows whose attention is computed together."""
        most = max(1, records.TILE_QUERIES // (self._shape.num_heads // self._shape.num_kv_heads))
        tiles, begin = [], 0
        for end in ends:
            tiles += [(row, min(most, end - row)) for row in range(begin, end, most)]
            begin = end
        self._tables.tiles[: len(tiles)] = tiles
        self._job["tiles"] = len(tiles)

    def _table(self, lora: Lora) -> np.ndarray:
        """The PAIR records of an adapter, by layer and module."""
        table = self._described.get(lora)
        if table is None:
            table = self._described[lora] = _describe_lora(lora, self._shape.num_layers)
        rank = int(table["rank"].max())
        if rank > self._job["most_rank"][0]:
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
    table = np.zeros((layers, len(records.MODULES)), records.PAIR)
    for (layer, name), pair in lora.pairs.items():
        if not isinstance(pair, Int8Pair):
            raise TypeError("compiled code multiplies int8 adapters alone")
        parts = pair.a, pair.b, pair.scale
        table[layer, records.MODULES.index(name)] = (
            *(part.data_ptr() for part in parts), len(pair.scale), len(pair.a), pair.b.shape[1],
        )  # fmt: skip
    return table.reshape(-1)
