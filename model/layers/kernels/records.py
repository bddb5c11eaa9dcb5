"""What compiled functions are told, as records: sizes, and addresses of memory that others own.

Addresses are int64; a stride is in elements. `ins` and `outs` of a linear layer are its padded
sizes. "Low" stands for the activations between the two matrices of a LoRA.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BLOCK, NEIGHBOURS = 16, 2  # rows in a block of weights; columns side by side: see `dot.py`
COLUMNS = 16  # the columns of weights are padded to a multiple of this
OUTPUTS = 2 * BLOCK  # and their rows to one of this: two blocks are sometimes taken at once
VECTOR = 16  # numbers in a vector; the ranks of adapters are padded to a multiple of this
KEY_BLOCK = VECTOR  # positions in a block of keys: see `attention.py`
# Neighbouring rows times the heads that share a key: about as many read it together.
TILE_QUERIES = 12

# Linear layers by their place in `linears`.
QKV, ATTENTION_OUT, GATE_UP, DOWN, HEAD = range(5)
LINEARS = 5
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Q_PROJ, K_PROJ, V_PROJ, O_PROJ, GATE_PROJ, UP_PROJ, DOWN_PROJ = range(7)
PARTS = 3  # most modules that share an input

JOB = np.dtype(
    [
        (name, np.int64)
        for name in (
            "region", "done",  # the first region; chunks done before it
            "threads",
            "rows", "outputs",  # tokens, and those of them whose logits are wanted
            "tiles",  # groups of neighbouring rows of one sequence, for attention
            "first", "layers",  # to begin with the last norm: as many as there are
            "hidden", "heads", "kv_heads", "head_dim", "wide",
            "x", "normed", "delta", "packed",  # float32 [rows, stride]
            "normed_stride", "packed_stride", "delta_stride",
            "values", "scales",  # the quantised input: int16 [rows, ins], float32 [rows]
            "low", "most_rank",  # float32 [rows, PARTS, most_rank], which is a multiple of VECTOR
            "cos", "sin",  # float32 [positions, head_dim]
        )
    ]
    + [("eps", np.float32)],
    align=True,
)  # fmt: skip

# One of the steps that a decoder layer is made of. `linear` is the layer that multiplies now, or
# next; `module` the first of its modules, or of those whose deltas are still to be added.
STAGE = np.dtype(
    [
        (name, np.int64)
        for name in ("kind", "linear", "module", "parts", "norm", "output", "output_stride")
    ],
    align=True,
)

LINEAR = np.dtype(
    [(name, np.int64) for name in ("weight", "scale", "bias", "ins", "outs")], align=True
)

# A token: where the keys and values of its sequence begin, its position there, its id, its
# adapter's place in the tables, and what that adapter's deltas are multiplied with.
ROW = np.dtype(
    [
        (name, np.int64)
        for name in (
            "keys",
            "values",
            "layer_stride",
            "head_stride",
            "position",
            "token",
            "adapter",
        )
    ]
    + [("strength", np.float32)],
    align=True,
)

# One module's update: int8 a [ins, padded rank] and b [rank, outs], float32 scale [rank]; a rank
# of 0 means none.
PAIR = np.dtype(
    [(name, np.int64) for name in ("a", "b", "scale", "rank", "ins", "outs")], align=True
)


class KernelArgs(NamedTuple):
    """All of it. The arrays stay where they are as long as anybody computes."""

    jobs: np.ndarray  # JOB [1]
    stages: np.ndarray  # STAGE: those of a layer, then the last two
    rows: np.ndarray  # ROW [rows]
    outputs: np.ndarray  # int64 [rows]: the rows whose logits are wanted
    tiles: np.ndarray  # int64 [rows, 2]: the first row of each tile, and how many there are
    pairs: np.ndarray  # PAIR [adapters, layers * modules]; the first of them changes nothing
    embeddings: np.ndarray  # LINEAR [adapters]
    linears: np.ndarray  # LINEAR [layers + 1, LINEARS]; the last row has the HEAD
    norms: np.ndarray  # int64, addresses of float32 [hidden]: two for each layer, and the last
