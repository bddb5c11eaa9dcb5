"""Records that compiled functions get: sizes, and addresses of memory that Python objects own.

Addresses are int64; a stride is in elements. `in_features` and `out_features` of a linear layer are
its padded sizes. "Low rank" stands for the activations between the two matrices of a LoRA.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model.tensor_names import LINEAR_MODULES

# Weights are stored in blocks of rows, and within a block some columns side by side: see
# `int8_gemm_ir.py`.
BLOCK_ROWS, ADJACENT_COLUMNS = 16, 2
COLUMN_PADDING = 16  # the columns of weights are padded to a multiple of this
ROW_PADDING = (
    2 * BLOCK_ROWS
)  # and their rows to one of this: two blocks are sometimes taken at once
VECTOR = 16  # numbers in a vector; the ranks of adapters are padded to a multiple of this
KEY_BLOCK = VECTOR  # positions in a block of keys: see `attention.py`
# The type of keys and values beside 8-bit weights. `attention.py` reads and writes it.
KV_DTYPE = np.dtype(np.float16)
KV_BYTES = KV_DTYPE.itemsize
# Neighbouring rows times the heads that share a key: about as many read it together.
TILE_QUERIES = 12

# Linear layers by their place in `KernelArgs.linears`.
QKV, ATTENTION_OUT, GATE_UP, DOWN, HEAD = range(5)
NUM_LINEARS = 5
# The modules that a LoRA may change, by their place in `KernelArgs.lora_pairs`.
Q_PROJ, K_PROJ, V_PROJ, O_PROJ, GATE_PROJ, UP_PROJ, DOWN_PROJ = range(len(LINEAR_MODULES))
NUM_MODULES = len(LINEAR_MODULES)
MAX_FUSED = 3  # most modules that share an input, and so one linear layer

JOB = np.dtype(
    [
        (name, np.int64)
        for name in (
            "region", "chunks_done",  # the first region; chunks done before it
            "threads",
            "rows", "logit_rows",  # tokens, and those of them whose logits are requested
            "tiles",  # groups of neighbouring rows of one sequence, for attention
            "first_layer", "layers",  # as many as there are, to begin with the last norm
            "hidden", "heads", "kv_heads", "head_dim", "intermediate",
            "residual",  # float32 [rows, hidden]
            "linear_input", "block_output", "fused_output",  # float32 [rows, stride]
            "linear_input_stride", "block_output_stride", "fused_output_stride",
            # `linear_input` quantised: int16 [rows, in_features], float32 [rows]
            "quantized_input", "input_scales",
            # float32 [rows, MAX_FUSED, max_rank]; `max_rank` is a multiple of VECTOR
            "low_rank", "max_rank",
            "cos", "sin",  # float32 [positions, head_dim]
        )
    ]
    + [("eps", np.float32)],
    align=True,
)  # fmt: skip

# One of the steps that a decoder layer is made of. `linear` is the layer that multiplies now, or
# next; `module` the first of its modules, or of those whose deltas are still to be added; `modules`
# is their number.
STAGE = np.dtype(
    [
        (name, np.int64)
        for name in ("kind", "linear", "module", "modules", "norm", "output", "output_stride")
    ],
    align=True,
)

LINEAR = np.dtype(
    [(name, np.int64) for name in ("weight", "scale", "bias", "in_features", "out_features")],
    align=True,
)

# A token: where the keys and values of its sequence begin, its position there, its id, the slot of
# its adapter in the tables, and what that adapter's deltas are multiplied with.
TOKEN = np.dtype(
    [
        (name, np.int64)
        for name in (
            "keys",
            "values",
            "layer_stride",
            "head_stride",
            "position",
            "token_id",
            "adapter_slot",
        )
    ]
    + [("adapter_scale", np.float32)],
    align=True,
)

# One module's update: int8 a [in_features, padded rank] and b [rank, out_features], float32 scale
# [rank]; a rank of 0 means none.
LORA_PAIR = np.dtype(
    [(name, np.int64) for name in ("a", "b", "scale", "rank", "in_features", "out_features")],
    align=True,
)


class KernelArgs(NamedTuple):
    """All that a forward reads. The arrays stay where they are as long as a thread computes."""

    jobs: np.ndarray  # JOB [1]
    stages: np.ndarray  # STAGE: those of a layer, then the last two
    tokens: np.ndarray  # TOKEN [rows]
    logit_rows: np.ndarray  # int64 [rows]: the rows whose logits are requested
    tiles: np.ndarray  # int64 [rows, 2]: the first row of each tile, and how many there are
    lora_pairs: np.ndarray  # LORA_PAIR [adapter slots, layers * modules]; slot 0 means no adapter
    embeddings: np.ndarray  # LINEAR [adapter slots]
    linears: np.ndarray  # LINEAR [layers + 1, NUM_LINEARS]; the last row has the HEAD
    norms: np.ndarray  # int64, addresses of float32 [hidden]: two for each layer, and the last
