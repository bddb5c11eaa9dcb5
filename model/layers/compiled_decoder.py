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
from model.tensor_names import LINEAR_MODULES

if TYPE_CHECKING:
    from model.layers.llama import Llama, SequenceSlice
    from model.layers.lora import Lora

LinearRecord = tuple[int, ...]  # the fields of a LINEAR
OUT_FEATURES = -1  # the place of the padded outputs in a LinearRecord
INITIAL_RANK = 16  # room for low-rank activations, made larger when a larger rank comes


class Decoder:
    """The forward of the 8-bit `model`, on `threads` threads.

    All calls come from one thread, which is one of them. They return views of buffers that the next
    call writes to.

    Args:
        max_rows: tokens in a forward, of all sequences together.
        max_sequences: sequences in a forward.
    """

    def __init__(self, model: Llama, threads: int, max_rows: int, max_sequences: int) -> None:
        self._max_rows, self._max_sequences = max(max_rows, max_sequences), max_sequences
        self._shape = model.shape
        self._pinned: dict[str, Tensor] = {}  # only compiled code refers to them, by address
        self._slots: list[Lora | None] = [None] * (max_sequences + 1)  # slot 0: no adapter
        self._lora_tables: weakref.WeakKeyDictionary[Lora, np.ndarray] = weakref.WeakKeyDictionary()
        self._tables = empty_tables(self._max_rows, max_sequences + 1, model.shape.num_layers)
        self._describe_weights(model)
        self._job = np.zeros(1, records.JOB)
        self._describe_sizes(model)
        self._make_buffers()
        self._make_low_rank_buffer(INITIAL_RANK)
        self._make_logits(max_sequences, self._head[OUT_FEATURES])
        self._job["threads"] = threads
        self._pool = ThreadPool(threads, self._tables)

    def close(self) -> None:
        """End the other threads."""
        self._pool.close()

    def fits(self, slices: Sequence[SequenceSlice]) -> bool:
        """Whether there is room for all of `slices` in one forward."""
        tokens = sum(len(part.tokens) for part in slices)
        return tokens <= self._max_rows and len(slices) <= self._max_sequences

    def forward(self, slices: Sequence[SequenceSlice], every_position: bool = False) -> np.ndarray:
        """Compute the tokens of `slices`, which must fit; the caches are not advanced.

        Args:
            every_position: give logits after every token, and not only after each slice's last.

        Returns:
            Logits, float32 [slices or tokens, vocab_size], or as wide as the largest vocabulary
            that an adapter of `slices` brings; ids beyond a row's own vocabulary are -inf.
        """
        self._assign_adapter_slots(slices)
        ends = self._describe_tokens(slices)
        rows = np.arange(ends[-1]) if every_position else np.array(ends) - 1
        if len(rows) > len(self._logits):
            self._make_logits(len(rows), self._logits.shape[1])
        self._job["rows"], self._job["first_layer"] = ends[-1], 0
        self._describe_tiles(ends)
        if not any(part.active_lora and part.active_lora.head for part in slices):
            self._run(rows, self._head, 0)
            return self._logits[: len(rows), : self._shape.vocab_size]
        return self._with_adapter_heads(slices, rows, np.searchsorted(ends, rows, side="right"))

    def _run(self, rows: np.ndarray, head: LinearRecord, first_output: int) -> None:
        """Run the job; the logits of `rows` by `head` go to the logits' rows from `first_output`
        on."""
        self._tables.logit_rows[: len(rows)] = rows
        self._job["logit_rows"] = len(rows)
        self._tables.linears[-1, records.HEAD] = head
        output = self._logits_address + first_output * self._logits.strides[0]
        self._tables.stages[-1]["output"] = output
        self._pool.run(self._job)

    def _with_adapter_heads(
        self, slices: Sequence[SequenceSlice], rows: np.ndarray, owners: np.ndarray
    ) -> np.ndarray:
        """Logits of `rows`, each a row of the slice `owners` says, by the head of its adapter."""
        heads = [part.active_lora.head if part.active_lora else None for part in slices]
        head_records = {head: self._head if head is None else _linear(head) for head in heads}
        sizes = {head: head.out_features if head else self._shape.vocab_size for head in heads}
        widest = max(record[OUT_FEATURES] for record in head_records.values())
        if widest > self._logits.shape[1]:
            self._make_logits(len(self._logits), widest)
        order: list[int] = []
        for head, record in head_records.items():
            own_rows = [at for at, owner in enumerate(owners) if heads[owner] is head]
            begin = len(order)
            self._run(rows[own_rows], record, begin)
            self._job["first_layer"] = self._shape.num_layers  # the layers are done
            self._logits[begin : begin + len(own_rows), sizes[head] :] = -np.inf
            order += own_rows
        return self._logits[np.argsort(order), : max(sizes.values())]

    def _describe_weights(self, model: Llama) -> None:
        linears, norms = self._tables.linears, self._tables.norms
        for at, layer in enumerate(model.layers):
            for place, fused in enumerate((layer.qkv, layer.o, layer.gate_up, layer.down)):
                linears[at, place] = _linear(fused.linear)
            for norm, weight in enumerate((layer.input_norm, layer.post_norm)):
                norms[2 * at + norm] = self._pin(f"{at}.{norm}", weight.float().contiguous())
        self._tables.embeddings[0] = _linear(model.embed_tokens)
        self._head = linears[-1, records.HEAD] = _linear(model.lm_head)
        norms[-1] = self._pin("norm", model.norm.float().contiguous())

    def _pin(self, name: str, tensor: Tensor) -> int:
        """Keep a tensor until another one of that name comes. Returns its address."""
        self._pinned[name] = tensor
        return tensor.data_ptr()

    def _describe_sizes(self, model: Llama) -> None:
        shape, job = model.shape, self._job
        job["layers"], job["hidden"], job["intermediate"] = (
            shape.num_layers, shape.hidden_size, shape.intermediate_size,
        )  # fmt: skip
        job["heads"], job["kv_heads"] = shape.num_heads, shape.num_kv_heads
        job["head_dim"], job["eps"] = shape.head_dim, shape.rms_norm_eps
        for name, table in zip(("cos", "sin"), model.rotary, strict=True):
            job[name] = self._pin(name, table.float().contiguous())

    def _make_buffers(self) -> None:
        shape, linears = self._shape, self._tables.linears
        outputs = linears["out_features"]
        widest = max(shape.hidden_size, shape.num_heads * shape.head_dim, shape.intermediate_size)
        strides = {
            "linear_input": widest,
            "block_output": int(outputs[:, [records.ATTENTION_OUT, records.DOWN]].max()),
            "fused_output": int(outputs[:, [records.QKV, records.GATE_UP]].max()),
        }
        for name, stride in strides.items():
            self._job[f"{name}_stride"] = stride
            self._make_buffer(name, stride)
        self._make_buffer("residual", shape.hidden_size)
        self._make_buffer("quantized_input", int(linears["in_features"].max()), torch.int16)
        self._make_buffer("input_scales", 1)

    def _make_buffer(self, name: str, width: int, dtype: torch.dtype = torch.float32) -> None:
        self._job[name] = self._pin(name, torch.zeros(self._max_rows, width, dtype=dtype))

    def _make_low_rank_buffer(self, rank: int) -> None:
        padded = -(-rank // records.VECTOR) * records.VECTOR
        self._make_buffer("low_rank", records.MAX_FUSED * padded)
        self._job["max_rank"] = padded

    def _make_logits(self, count: int, width: int) -> None:
        self._logits = np.zeros((count, width), np.float32)
        self._logits_address = self._logits.ctypes.data
        self._describe_stages()

    def _describe_stages(self) -> None:
        job = self._job[0]
        fused = job["fused_output"], job["fused_output_stride"]
        block = job["block_output"], job["block_output_stride"]
        # kind, linear, first module, modules, norm, output, its stride
        self._tables.stages[:] = [
            (stages.NORM, records.QKV, records.DOWN_PROJ, 0, 0, 0, 0),
            (stages.MATMUL, records.QKV, records.Q_PROJ, 3, 0, *fused),
            (stages.ROTATE, 0, 0, 0, 0, 0, 0),
            (stages.ATTEND, 0, 0, 0, 0, 0, 0),
            (stages.QUANTIZE, records.ATTENTION_OUT, 0, 0, 0, 0, 0),
            (stages.MATMUL, records.ATTENTION_OUT, records.O_PROJ, 1, 0, *block),
            (stages.NORM, records.GATE_UP, records.O_PROJ, 0, 1, 0, 0),
            (stages.MATMUL, records.GATE_UP, records.GATE_PROJ, 2, 0, *fused),
            (stages.SWIGLU, records.DOWN, records.GATE_PROJ, 0, 0, 0, 0),
            (stages.MATMUL, records.DOWN, records.DOWN_PROJ, 1, 0, *block),
            (stages.NORM, records.HEAD, records.DOWN_PROJ, 0, 0, 0, 0),
            (stages.MATMUL, records.HEAD, 0, 0, 0, 0, self._logits.shape[1]),
        ]

    def _assign_adapter_slots(self, slices: Sequence[SequenceSlice]) -> None:
        """Give each adapter of `slices` a slot in the tables. Slot 0 means no adapter."""
        missing = {part.active_lora: None for part in slices if part.active_lora}
        for at, lora in enumerate(self._slots):
            if lora in missing:
                del missing[lora]
            elif lora is not None:  # an adapter that is no longer used may free its weights
                self._slots[at] = None
        free = (at for at in range(1, len(self._slots)) if self._slots[at] is None)
        for lora, at in zip(missing, free, strict=False):
            self._slots[at] = lora
            self._tables.lora_pairs[at] = self._lora_table(lora)
            embedding = lora.embedding
            self._tables.embeddings[at] = (
                self._tables.embeddings[0] if embedding is None else _linear(embedding)
            )

    def _describe_tokens(self, slices: Sequence[SequenceSlice]) -> list[int]:
        """Write the TOKEN records. Returns where each slice ends."""
        tokens: list[tuple[float, ...]] = []
        ends = []
        for part in slices:
            length = part.cache.length
            pointers = part.cache.pointers(length + len(part.tokens))
            slot = self._slots.index(part.active_lora) if part.active_lora else 0
            adapter = slot, part.adapter_scale
            tokens += [(*pointers, at, token, *adapter)
                       for at, token in enumerate(part.tokens, length)]  # fmt: skip
            ends.append(len(tokens))
        self._tables.tokens[: len(tokens)] = tokens
        return ends

    def _describe_tiles(self, ends: Sequence[int]) -> None:
        """Cut each slice into the groups of rows whose attention is computed together."""
        max_rows = max(
            1, records.TILE_QUERIES // (self._shape.num_heads // self._shape.num_kv_heads)
        )
        tiles, begin = [], 0
        for end in ends:
            tiles += [(row, min(max_rows, end - row)) for row in range(begin, end, max_rows)]
            begin = end
        self._tables.tiles[: len(tiles)] = tiles
        self._job["tiles"] = len(tiles)

    def _lora_table(self, lora: Lora) -> np.ndarray:
        """The LORA_PAIR records of an adapter, by layer and module."""
        table = self._lora_tables.get(lora)
        if table is None:
            table = self._lora_tables[lora] = _describe_lora(lora, self._shape.num_layers)
        rank = int(table["rank"].max())
        if rank > self._job["max_rank"][0]:
            self._make_low_rank_buffer(rank)
        return table


def _linear(linear: Linear) -> LinearRecord:
    if not isinstance(linear, Int8Linear):
        raise TypeError("compiled code multiplies int8 weights alone")
    blocks, groups, block_rows, columns = linear.packed.shape
    sizes = groups * columns, blocks * block_rows
    weights = linear.packed, linear.scale, linear.padded_bias
    return *(part.data_ptr() for part in weights), *sizes


def _describe_lora(lora: Lora, layers: int) -> np.ndarray:
    table = np.zeros((layers, records.NUM_MODULES), records.LORA_PAIR)
    for (layer, module), pair in lora.pairs.items():
        if not isinstance(pair, Int8Pair):
            raise TypeError("compiled code multiplies int8 adapters alone")
        weights = pair.a, pair.b, pair.scale
        table[layer, LINEAR_MODULES.index(module)] = (
            *(part.data_ptr() for part in weights), len(pair.scale), len(pair.a), pair.b.shape[1],
        )  # fmt: skip
    return table.reshape(-1)
