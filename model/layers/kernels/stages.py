"""The stages of a decoder stack, each cut into chunks that threads share.

Each stage reads what earlier ones wrote, so the order of its chunks does not matter. Per layer:
norm; q k v; rotary embedding and the write to the KV cache; attention; quantise; o; norm; gate and
up; SwiGLU; down. A row is one token of one sequence.
"""

from __future__ import annotations

import numpy as np

from model.layers.kernels import records
from model.layers.kernels.attention import attend_heads, kv_array, rotate, store_kv
from model.layers.kernels.int8_gemm import count_chunks, embed, exp, multiply, quantize
from model.layers.kernels.intrinsics import compiled, compiled_fast, float32_array, int16_array
from model.layers.kernels.lora import lora_a, lora_b
from model.layers.kernels.records import KEY_BLOCK, KV_BYTES, MAX_FUSED, NUM_MODULES

NORM, MATMUL, ROTATE, ATTEND, QUANTIZE, SWIGLU = range(6)
Q, K, V = records.Q_PROJ, records.K_PROJ, records.V_PROJ


@compiled
def count_rows(job, layer):
    """The rows of a stage: all, and behind the last layer those whose logits are requested."""
    return job.rows if layer < job.layers else job.logit_rows


@compiled
def count_stage_chunks(job, layer, stage, linear):
    """The number of chunks of a stage."""
    rows = count_rows(job, layer)
    if stage.kind == ROTATE:
        return rows * job.kv_heads
    if stage.kind == ATTEND:
        return job.tiles * job.kv_heads
    if stage.kind == MATMUL:
        lora_chunks = rows if stage.modules else 0
        return lora_chunks + count_chunks(linear.in_features, linear.out_features)
    return rows


@compiled
def run_chunk(tables, layer, stage, chunk):
    """One chunk of one stage."""
    job = tables.jobs[0]
    if stage.kind == NORM:
        add_and_norm(tables, job, layer, stage, chunk)
    elif stage.kind == MATMUL:
        matmul(tables, job, layer, stage, chunk)
    elif stage.kind == ROTATE:
        rotate_and_store(tables, job, layer, chunk // job.kv_heads, chunk % job.kv_heads)
    elif stage.kind == ATTEND:
        attend(tables, job, layer, chunk // job.kv_heads, chunk % job.kv_heads)
    elif stage.kind == QUANTIZE:
        x = float32_array(job.linear_input + 4 * chunk * job.linear_input_stride,
                          job.heads * job.head_dim)  # fmt: skip
        quantize_row(job, chunk, x, tables.linears[layer, stage.linear].in_features)
    else:
        swiglu(tables, job, layer, stage, chunk)


@compiled
def lora_pair_of(tables, row, layer, module):
    """The LORA_PAIR record of a row's adapter for a module."""
    return tables.lora_pairs[tables.tokens[row].adapter_slot, layer * NUM_MODULES + module]


@compiled
def low_rank_address(job, row, part):
    """Where the low-rank activations of one of the fused modules of one row are."""
    return job.low_rank + 4 * (row * MAX_FUSED + part) * job.max_rank


@compiled
def quantize_row(job, row, x, in_features):
    """Store `x`, quantised, as a row of the next product's input."""
    values = int16_array(job.quantized_input + 2 * row * in_features, in_features)
    float32_array(job.input_scales, job.rows)[row] = quantize(x, values)


@compiled_fast
def add_and_norm(tables, job, layer, stage, chunk):
    """Begin the residual stream with the embedding, or add the last product to it; store its norm
    as the next product's input."""
    row = chunk if layer < job.layers else tables.logit_rows[chunk]
    x = float32_array(job.residual + 4 * row * job.hidden, job.hidden)
    finished = layer if stage.module == records.O_PROJ else layer - 1
    if finished < 0:
        embed(tables.embeddings[tables.tokens[row].adapter_slot], tables.tokens[row].token_id, x)
    else:
        output = job.block_output + 4 * row * job.block_output_stride
        pair = lora_pair_of(tables, row, finished, stage.module)
        if pair.rank:
            lora_b(pair, low_rank_address(job, row, 0), 0, output, job.hidden)
        update = float32_array(output, job.hidden)
        for i in range(len(x)):
            x[i] += update[i]
    total = np.float32(0)
    for i in range(len(x)):
        total += x[i] * x[i]
    factor = np.float32(1) / np.sqrt(total / np.float32(len(x)) + job.eps)
    normed = float32_array(job.linear_input + 4 * chunk * job.linear_input_stride, job.hidden)
    scale = float32_array(tables.norms[2 * layer + stage.norm], job.hidden)
    for i in range(len(x)):
        normed[i] = scale[i] * (x[i] * factor)
    quantize_row(job, chunk, normed, tables.linears[layer, stage.linear].in_features)


@compiled
def matmul(tables, job, layer, stage, chunk):
    """A chunk of a linear layer, or the first half of one row's LoRA updates for it."""
    rows = count_rows(job, layer)
    lora_chunks = rows if stage.modules else 0
    if chunk >= lora_chunks:
        linear = tables.linears[layer, stage.linear]
        total = count_chunks(linear.in_features, linear.out_features)
        part = interleave_chunk(chunk - lora_chunks, total, job.threads)
        multiply(linear, part, rows, job.quantized_input, job.input_scales, stage.output,
                 stage.output_stride)  # fmt: skip
        return
    for part in range(stage.modules):
        pair = lora_pair_of(tables, chunk, layer, stage.module + part)
        if pair.rank:
            x = job.linear_input + 4 * chunk * job.linear_input_stride
            scale = tables.tokens[chunk].adapter_scale
            lora_a(pair, scale, x, low_rank_address(job, chunk, part))


@compiled
def interleave_chunk(chunk, total, threads):
    """Which of `total` parts is the `chunk`-th to be computed.

    Threads that take turns then each read on where they were, in a stretch of memory of their own.
    """
    owner, turn = chunk % threads, chunk // threads
    return owner * (total // threads) + min(owner, total % threads) + turn


@compiled
def qkv_addresses(job, row, head):
    """Addresses of a row's q, k and v for one key head, [group, head_dim] and [head_dim] twice."""
    begin, size = job.fused_output + 4 * row * job.fused_output_stride, 4 * job.head_dim
    k = begin + (job.heads + head) * size
    return begin + head * (job.heads // job.kv_heads) * size, k, k + job.kv_heads * size


@compiled
def rotate_and_store(tables, job, layer, row, head):
    """Finish q, k and v of one row and one key head; store k and v in the KV cache."""
    token, size, group = tables.tokens[row], job.head_dim, job.heads // job.kv_heads
    q, k, v = qkv_addresses(job, row, head)
    for module, address, first, count in (
        (Q, q, head * group * size, group * size),
        (K, k, head * size, size),
        (V, v, head * size, size),
    ):
        pair = lora_pair_of(tables, row, layer, module)
        if pair.rank:
            lora_b(pair, low_rank_address(job, row, module), first, address, count)
    cos = float32_array(job.cos + 4 * token.position * size, size)
    sin = float32_array(job.sin + 4 * token.position * size, size)
    for g in range(group):
        rotate(float32_array(q + 4 * g * size, size), cos, sin)
    rotate(float32_array(k, size), cos, sin)
    offset = KV_BYTES * (layer * token.layer_stride + head * token.head_stride)
    block, place = token.position // KEY_BLOCK, token.position % KEY_BLOCK
    block_size = KEY_BLOCK * size
    keys = kv_array(token.keys + offset + KV_BYTES * block * block_size, block_size)
    store_kv(float32_array(k, size), keys[place::KEY_BLOCK])
    value = kv_array(token.values + offset + KV_BYTES * token.position * size, size)
    store_kv(float32_array(v, size), value)


@compiled
def attend(tables, job, layer, tile, head):
    """Attention of the rows of a tile in the heads that share a key head."""
    first_row, count = tables.tiles[tile]
    token, size, group = tables.tokens[first_row], job.head_dim, job.heads // job.kv_heads
    q = np.empty((count * group, size), np.float32)
    out = np.zeros((count * group, size), np.float32)
    for query in range(count * group):
        row_q, _, _ = qkv_addresses(job, first_row + query // group, head)
        q[query] = float32_array(row_q + 4 * (query % group) * size, size)
    offset = KV_BYTES * (layer * token.layer_stride + head * token.head_stride)
    length = token.position + count
    attend_heads(q, group, token.keys + offset, token.values + offset, length, out)
    for query in range(count * group):
        row = first_row + query // group
        place = row * job.linear_input_stride + (head * group + query % group) * size
        float32_array(job.linear_input + 4 * place, size)[:] = out[query]


@compiled_fast
def swiglu(tables, job, layer, stage, row):
    """silu(gate) * up, quantised."""
    begin, size = job.fused_output + 4 * row * job.fused_output_stride, job.intermediate
    gate, up = float32_array(begin, size), float32_array(begin + 4 * size, size)
    for part in range(2):
        pair = lora_pair_of(tables, row, layer, stage.module + part)
        if pair.rank:
            lora_b(pair, low_rank_address(job, row, part), 0, begin + 4 * part * size, size)
    out = float32_array(job.linear_input + 4 * row * job.linear_input_stride, size)
    for i in range(len(out)):
        out[i] = gate[i] / (np.float32(1) + exp(-gate[i])) * up[i]
    quantize_row(job, row, out, tables.linears[layer, stage.linear].in_features)
