"""Some tokens of some sequences: a decoder stack as stages whose chunks threads share.

Each stage reads what earlier ones wrote and nothing of its own, so the order of its chunks does
not matter. Per layer: norm; q k v; rotary embedding, and into the cache; attention; quantise; o;
norm; gate and up; SwiGLU; down.
"""

from __future__ import annotations

import numpy as np

from model.layers.kernels import records
from model.layers.kernels.attention import attend_heads, rotate, to_float16
from model.layers.kernels.int8_gemm import chunks, exp, multiply, quantize, read_row
from model.layers.kernels.lora import lora_a, lora_b
from model.layers.kernels.memory import floats, shorts
from model.layers.kernels.options import compiled, fast
from model.layers.kernels.records import KEY_BLOCK

NORM, PRODUCT, ROTATE, ATTEND, QUANTIZE, GATE = range(6)
Q, K, V = records.Q_PROJ, records.K_PROJ, records.V_PROJ
MODULES = len(records.MODULES)


@compiled
def stage_rows(job, layer):
    """The rows of a stage: all, and behind the last layer those whose logits are wanted."""
    return job.rows if layer < job.layers else job.outputs


@compiled
def stage_chunks(job, layer, stage, linear):
    """Into how many chunks a stage is cut."""
    rows = stage_rows(job, layer)
    if stage.kind == ROTATE:
        return rows * job.kv_heads
    if stage.kind == ATTEND:
        return job.tiles * job.kv_heads
    if stage.kind == PRODUCT:
        deltas = rows if stage.parts else 0
        return deltas + chunks(linear.ins, linear.outs)
    return rows


@compiled
def perform(tables, layer, stage, chunk):
    """One chunk of one stage."""
    job = tables.jobs[0]
    if stage.kind == NORM:
        norm(tables, job, layer, stage, chunk)
    elif stage.kind == PRODUCT:
        product(tables, job, layer, stage, chunk)
    elif stage.kind == ROTATE:
        place(tables, job, layer, chunk // job.kv_heads, chunk % job.kv_heads)
    elif stage.kind == ATTEND:
        attend(tables, job, layer, chunk // job.kv_heads, chunk % job.kv_heads)
    elif stage.kind == QUANTIZE:
        x = floats(job.normed + 4 * chunk * job.normed_stride, job.heads * job.head_dim)
        store_keys_values(job, chunk, x, tables.linears[layer, stage.linear].ins)
    else:
        gate(tables, job, layer, stage, chunk)


@compiled
def pair_of(tables, row, layer, module):
    """What the adapter of a row does to a module: a PAIR record."""
    return tables.pairs[tables.rows[row].adapter, layer * MODULES + module]


@compiled
def low_of(job, row, part):
    """Where the low-rank activations of one module of one row are."""
    return job.low + 4 * (row * records.PARTS + part) * job.most_rank


@compiled
def store_keys_values(job, row, x, ins):
    """Leave `x`, quantised, as a row of the next product's input."""
    floats(job.scales, job.rows)[row] = quantize(x, shorts(job.values + 2 * row * ins, ins))


@fast
def norm(tables, job, layer, stage, chunk):
    """Begin the residual stream, or add to it what the last product left; norm and keep it."""
    row = chunk if layer < job.layers else tables.outputs[chunk]
    x = floats(job.x + 4 * row * job.hidden, job.hidden)
    finished = layer if stage.module == records.O_PROJ else layer - 1
    if finished < 0:
        read_row(tables.embeddings[tables.rows[row].adapter], tables.rows[row].token, x)
    else:
        at = job.delta + 4 * row * job.delta_stride
        pair = pair_of(tables, row, finished, stage.module)
        if pair.rank:
            lora_b(pair, low_of(job, row, 0), 0, at, job.hidden)
        delta = floats(at, job.hidden)
        for i in range(len(x)):
            x[i] += delta[i]
    total = np.float32(0)
    for i in range(len(x)):
        total += x[i] * x[i]
    factor = np.float32(1) / np.sqrt(total / np.float32(len(x)) + job.eps)
    normed = floats(job.normed + 4 * chunk * job.normed_stride, job.hidden)
    scale = floats(tables.norms[2 * layer + stage.norm], job.hidden)
    for i in range(len(x)):
        normed[i] = scale[i] * (x[i] * factor)
    store_keys_values(job, chunk, normed, tables.linears[layer, stage.linear].ins)


@compiled
def product(tables, job, layer, stage, chunk):
    """A chunk of a linear layer, or the first half of one row's deltas for it."""
    rows = stage_rows(job, layer)
    deltas = rows if stage.parts else 0
    if chunk >= deltas:
        linear = tables.linears[layer, stage.linear]
        part = interleave_chunk(chunk - deltas, chunks(linear.ins, linear.outs), job.threads)
        multiply(linear, part, rows, job.values, job.scales, stage.output, stage.output_stride)
        return
    for part in range(stage.parts):
        pair = pair_of(tables, chunk, layer, stage.module + part)
        if pair.rank:
            x = job.normed + 4 * chunk * job.normed_stride
            lora_a(pair, tables.rows[chunk].strength, x, low_of(job, chunk, part))


@compiled
def interleave_chunk(chunk, total, threads):
    """Which of `total` parts is the `chunk`-th to be done.

    Threads that take turns each read on where they were, a stretch of memory of their own.
    """
    owner, turn = chunk % threads, chunk // threads
    return owner * (total // threads) + min(owner, total % threads) + turn


@compiled
def heads_of(job, row, head):
    """Addresses of a row's q, k and v for one key head, [group, head_dim] and [head_dim] twice."""
    packed, size = job.packed + 4 * row * job.packed_stride, 4 * job.head_dim
    k = packed + (job.heads + head) * size
    return packed + head * (job.heads // job.kv_heads) * size, k, k + job.kv_heads * size


@compiled
def place(tables, job, layer, at, head):
    """Finish q, k and v of one row and one key head; k and v join the cache."""
    row, size, group = tables.rows[at], job.head_dim, job.heads // job.kv_heads
    q, k, v = heads_of(job, at, head)
    for part, address, first, count in (
        (Q, q, head * group * size, group * size),
        (K, k, head * size, size),
        (V, v, head * size, size),
    ):
        pair = pair_of(tables, at, layer, part)
        if pair.rank:
            lora_b(pair, low_of(job, at, part), first, address, count)
    cos = floats(job.cos + 4 * row.position * size, size)
    sin = floats(job.sin + 4 * row.position * size, size)
    for g in range(group):
        rotate(floats(q + 4 * g * size, size), cos, sin)
    rotate(floats(k, size), cos, sin)
    offset = 2 * (layer * row.layer_stride + head * row.head_stride)
    block, place = row.position // KEY_BLOCK, row.position % KEY_BLOCK
    keys = shorts(row.keys + offset + 2 * block * KEY_BLOCK * size, KEY_BLOCK * size)
    to_float16(floats(k, size), keys[place::KEY_BLOCK])
    to_float16(floats(v, size), shorts(row.values + offset + 2 * row.position * size, size))


@compiled
def attend(tables, job, layer, tile, head):
    """Attention of the rows of a tile in the heads that share a key head."""
    at, count = tables.tiles[tile]
    row, size, group = tables.rows[at], job.head_dim, job.heads // job.kv_heads
    q = np.empty((count * group, size), np.float32)
    out = np.zeros((count * group, size), np.float32)
    for query in range(count * group):
        mine, _, _ = heads_of(job, at + query // group, head)
        q[query] = floats(mine + 4 * (query % group) * size, size)
    offset = 2 * (layer * row.layer_stride + head * row.head_stride)
    attend_heads(q, group, row.keys + offset, row.values + offset, row.position + count, out)
    for query in range(count * group):
        place = (at + query // group) * job.normed_stride + (head * group + query % group) * size
        floats(job.normed + 4 * place, size)[:] = out[query]


@fast
def gate(tables, job, layer, stage, row):
    """silu(gate) * up, quantised."""
    packed = job.packed + 4 * row * job.packed_stride
    gated, up = floats(packed, job.wide), floats(packed + 4 * job.wide, job.wide)
    for part in range(2):
        pair = pair_of(tables, row, layer, stage.module + part)
        if pair.rank:
            lora_b(pair, low_of(job, row, part), 0, packed + 4 * part * job.wide, job.wide)
    out = floats(job.normed + 4 * row * job.normed_stride, job.wide)
    for i in range(len(out)):
        out[i] = gated[i] / (np.float32(1) + exp(-gated[i])) * up[i]
    store_keys_values(job, row, out, tables.linears[layer, stage.linear].ins)
