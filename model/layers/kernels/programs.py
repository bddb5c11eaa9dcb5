"""What a team of threads runs: a whole decode step, or one product for many rows."""

from __future__ import annotations

from model.layers.kernels import layout, step, team
from model.layers.kernels.atoms import add, load, sem_post, sem_wait, store
from model.layers.kernels.layout import Tables
from model.layers.kernels.memory import floats, shorts
from model.layers.kernels.options import compiled
from model.layers.kernels.quantized import chunks, multiply, quantize

DECODE, PRODUCT = 1, 2
ROWS_A_CHUNK = 8  # that a product quantises
LAYER_STAGES = 9  # the stages behind them come once


@compiled
def lead(counters, draft, tables):
    """The engine's thread: publish the job `draft` [1] to all threads, and take part in it."""
    region = (load(counters + team.NEXT) >> team.CHUNK_BITS) + 1
    draft[0].region = region
    draft[0].done = load(counters + team.DONE)
    add(counters + team.VERSION, 1)  # odd: being written
    tables.jobs[0] = draft[0]
    add(counters + team.VERSION, 1)
    store(counters + team.NEXT, region << team.CHUNK_BITS)
    for helper in range(load(counters + team.HELPERS)):
        sem_post(counters + team.SEMAPHORES + helper * team.SEMAPHORE_BYTES)
    run(counters, with_jobs(tables, draft))


@compiled
def follow(counters, helper, tables):
    """Another thread of the team: sleep until there is a job, take part, until QUIT is set."""
    copy = tables.jobs.copy()
    while True:
        sem_wait(counters + team.SEMAPHORES + helper * team.SEMAPHORE_BYTES)
        if load(counters + team.QUIT):
            return
        version = load(counters + team.VERSION)
        copy[0] = tables.jobs[0]
        # Written to while it was read, it is torn: its author goes on without this thread.
        if version % 2 == 0 and add(counters + team.VERSION, 0) == version:
            run(counters, with_jobs(tables, copy))


@compiled
def with_jobs(tables, jobs):
    """The tables, with a job that nobody else writes to."""
    return Tables(jobs, tables.stages, tables.rows, tables.pairs, tables.linears, tables.norms)


@compiled
def run(counters, tables):
    """This thread's part in the job; returns when its last region is over."""
    if tables.jobs[0].program == DECODE:
        decode(counters, tables)
    else:
        product(counters, tables)


@compiled
def decode(counters, tables):
    """All stages of all layers, then the last norm and the head."""
    job = tables.jobs[0]
    region, target = job.region, job.done
    for layer in range(job.layers + 1):
        last = layer == job.layers
        first, end = (LAYER_STAGES, len(tables.stages)) if last else (0, LAYER_STAGES)
        for at in range(first, end):
            stage = tables.stages[at]
            total = step.stage_chunks(job, stage, tables.linears[layer, stage.linear])
            target += total
            chunk = team.claim(counters, region, total)
            while chunk >= 0:
                step.perform(tables, layer, stage, chunk)
                add(counters + team.DONE, 1)
                chunk = team.claim(counters, region, total)
            team.finish(counters, region, target)
            region += 1


@compiled
def product(counters, tables):
    """output [rows, output_stride] = input [rows, hidden] times the layer ALONE, both float32."""
    job, linear = tables.jobs[0], tables.linears[-1, layout.ALONE]
    total = (job.rows + ROWS_A_CHUNK - 1) // ROWS_A_CHUNK
    region, target = job.region, job.done + total
    chunk = team.claim(counters, region, total)
    while chunk >= 0:
        for row in range(chunk * ROWS_A_CHUNK, min((chunk + 1) * ROWS_A_CHUNK, job.rows)):
            x = floats(job.input + 4 * row * job.hidden, job.hidden)
            values = shorts(job.values + 2 * row * linear.ins, linear.ins)
            floats(job.scales, job.rows)[row] = quantize(x, values)
        add(counters + team.DONE, 1)
        chunk = team.claim(counters, region, total)
    team.finish(counters, region, target)
    region += 1
    total = chunks(linear.ins, linear.outs)
    chunk = team.claim(counters, region, total)
    while chunk >= 0:
        multiply(linear, chunk, job.rows, job.values, job.scales, job.output, job.output_stride)
        add(counters + team.DONE, 1)
        chunk = team.claim(counters, region, total)
    team.finish(counters, region, target + total)
