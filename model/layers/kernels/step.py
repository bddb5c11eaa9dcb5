"""One token for every running sequence: a decoder stack as stages whose chunks threads share.

Each stage reads what earlier ones wrote and nothing of its own, so the order of its chunks does
not matter. Per layer: norm; q k v; attention; quantise; o; norm; gate and up; SwiGLU; down.
"""

from __future__ import annotations

import numpy as np

from model.layers.kernels import layout
from model.layers.kernels.attention import append, mix, rotate, weigh
from model.layers.kernels.low_rank import expand, shrink
from model.layers.kernels.memory import floats, halves, shorts
from model.layers.kernels.options import compiled, fast
from model.layers.kernels.quantized import chunks, exp, multiply, quantize

NORM, PRODUCT, ATTEND, QUANTIZE, GATE = range(5)
Q, K, V = layout.Q_PROJ, layout.K_PROJ, layout.V_PROJ
MODULES = len(layout.MODULES)


@compiled
def stage_chunks(job, stage, linear):
    """Into how many chunks a stage is cut."""
    if stage.kind == ATTEND:
        return job.rows * job.kv_heads
    if stage.kind == PRODUCT:
        deltas = job.rows if stage.parts else 0
        return deltas + chunks(linear.ins, linear.outs)
    return job.rows


@compiled
def perform(tables, layer, stage, chunk):
    """One chunk of one stage."""
    job = tables.jobs[0]
    if stage.kind == NORM:
        norm(tables, job, layer, stage, chunk)
    elif stage.kind == PRODUCT:
        product(tables, job, layer, stage, chunk)
    elif stage.kind == ATTEND:
        attend(tables, job, layer, chunk)
    elif stage.kind == QUANTIZE:
        x = floats(job.normed + 4 * chunk * job.normed_stride, job.heads * job.head_dim)
        keep(job, chunk, x, tables.linears[layer, stage.linear].ins)
    else:
        gate(tables, job, layer, stage, chunk)


@compiled
def low_of(job, row, part):
    """The low-rank activations of one module of one row."""
    at = job.low + 4 * (row * layout.PARTS + part) * job.most_rank
    return floats(at, job.most_rank)


@compiled
def keep(job, row, x, ins):
    """Leave `x`, quantised, as a row of the next product's input."""
    floats(job.scales, job.rows)[row] = quantize(x, shorts(job.values + 2 * row * ins, ins))


@fast
def norm(tables, job, layer, stage, row):
    """Add to the residual stream what the last product left; norm and keep it."""
    x = floats(job.x + 4 * row * job.hidden, job.hidden)
    finished = layer if stage.module == layout.O_PROJ else layer - 1
    if finished >= 0:
        delta = floats(job.delta + 4 * row * job.delta_stride, job.hidden)
        pair = tables.pairs[row, finished * MODULES + stage.module]
        if pair.rank:
            expand(pair, low_of(job, row, 0), 0, delta)
        for i in range(len(x)):
            x[i] += delta[i]
    total = np.float32(0)
    for i in range(len(x)):
        total += x[i] * x[i]
    factor = np.float32(1) / np.sqrt(total / np.float32(len(x)) + job.eps)
    normed = floats(job.normed + 4 * row * job.normed_stride, job.hidden)
    scale = floats(tables.norms[2 * layer + stage.norm], job.hidden)
    for i in range(len(x)):
        normed[i] = scale[i] * (x[i] * factor)
    keep(job, row, normed, tables.linears[layer, stage.linear].ins)


@compiled
def product(tables, job, layer, stage, chunk):
    """A chunk of a linear layer, or the first half of one row's deltas for it."""
    deltas = job.rows if stage.parts else 0
    if chunk >= deltas:
        linear = tables.linears[layer, stage.linear]
        multiply(
            linear, chunk - deltas, job.rows, job.values, job.scales, stage.output,
            stage.output_stride,
        )  # fmt: skip
        return
    for part in range(stage.parts):
        pair = tables.pairs[chunk, layer * MODULES + stage.module + part]
        if pair.rank:
            x = floats(job.normed + 4 * chunk * job.normed_stride, pair.ins)
            shrink(pair, tables.rows[chunk].strength, x, low_of(job, chunk, part))


@compiled
def attend(tables, job, layer, chunk):
    """Attention of one row in one group of heads; its key and value join the cache first."""
    at, head = chunk // job.kv_heads, chunk % job.kv_heads
    row, size, group = tables.rows[at], job.head_dim, job.heads // job.kv_heads
    packed = floats(job.packed + 4 * at * job.packed_stride, (job.heads + 2 * job.kv_heads) * size)
    first_q, first_k = head * group * size, (job.heads + head) * size
    first_v = first_k + job.kv_heads * size
    q = packed[first_q : first_q + group * size]
    k = packed[first_k : first_k + size]
    v = packed[first_v : first_v + size]
    own = tables.pairs[at, layer * MODULES : (layer + 1) * MODULES]
    if own[Q].rank:
        expand(own[Q], low_of(job, at, 0), first_q, q)
    if own[K].rank:
        expand(own[K], low_of(job, at, 1), head * size, k)
    if own[V].rank:
        expand(own[V], low_of(job, at, 2), head * size, v)
    cos = floats(job.cos + 4 * row.position * size, size)
    sin = floats(job.sin + 4 * row.position * size, size)
    rotate(k, cos, sin)
    offset = 2 * (layer * row.layer_stride + head * row.head_stride)
    keys = halves(row.keys + offset, row.position + 1, size)
    values = halves(row.values + offset, row.position + 1, size)
    append(keys, values, k, v)
    out = floats(job.normed + 4 * (at * job.normed_stride + first_q), group * size)
    weights = np.empty(len(keys), np.float32)
    for g in range(0, group * size, size):
        rotate(q[g : g + size], cos, sin)
        weigh(q[g : g + size], keys, weights)
        mix(weights, values, out[g : g + size])


@fast
def gate(tables, job, layer, stage, row):
    """silu(gate) * up, quantised."""
    packed = floats(job.packed + 4 * row * job.packed_stride, 2 * job.wide)
    gated, up = packed[: job.wide], packed[job.wide :]
    for part, y in enumerate((gated, up)):
        pair = tables.pairs[row, layer * MODULES + stage.module + part]
        if pair.rank:
            expand(pair, low_of(job, row, part), 0, y)
    out = floats(job.normed + 4 * row * job.normed_stride, job.wide)
    for i in range(len(out)):
        out[i] = gated[i] / (np.float32(1) + exp(-gated[i])) * up[i]
    keep(job, row, out, tables.linears[layer, stage.linear].ins)
