"""What a team of threads runs: a decoder stack, stage by stage."""

from __future__ import annotations

from model.layers.kernels import step, team
from model.layers.kernels.atoms import add, load, sem_post, sem_wait, store
from model.layers.kernels.layout import KernelArgs
from model.layers.kernels.options import compiled

LAYER_STAGES = 10  # the stages behind them come once


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
    return KernelArgs(jobs, tables.stages, tables.rows, tables.outputs, tables.tiles,
                  tables.pairs, tables.embeddings, tables.linears, tables.norms)  # fmt: skip


@compiled
def run(counters, tables):
    """This thread's part in the job: the layers, then the last norm and the head.

    Returns when its last region is over.
    """
    job = tables.jobs[0]
    region, target = job.region, job.done
    for layer in range(job.first, job.layers + 1):
        last = layer == job.layers
        first, end = (LAYER_STAGES, len(tables.stages)) if last else (0, LAYER_STAGES)
        for at in range(first, end):
            stage = tables.stages[at]
            total = step.stage_chunks(job, layer, stage, tables.linears[layer, stage.linear])
            target += total
            chunk = team.claim(counters, region, total)
            while chunk >= 0:
                step.perform(tables, layer, stage, chunk)
                add(counters + team.DONE, 1)
                chunk = team.claim(counters, region, total)
            team.finish(counters, region, target)
            region += 1
