"""What a team of threads runs: a decoder stack, stage by stage."""

from __future__ import annotations

from model.layers.kernels import stages, work_queue
from model.layers.kernels.intrinsics import add, load, sem_post, sem_wait, store
from model.layers.kernels.options import compiled
from model.layers.kernels.records import KernelArgs

LAYER_STAGES = 10  # the stages behind them come once


@compiled
def run_as_leader(counters, draft, tables):
    """The engine's thread: publish the job `draft` [1] to all threads, and take part in it."""
    region = (load(counters + work_queue.NEXT) >> work_queue.CHUNK_BITS) + 1
    draft[0].region = region
    draft[0].done = load(counters + work_queue.DONE)
    add(counters + work_queue.VERSION, 1)  # odd: being written
    tables.jobs[0] = draft[0]
    add(counters + work_queue.VERSION, 1)
    store(counters + work_queue.NEXT, region << work_queue.CHUNK_BITS)
    for helper in range(load(counters + work_queue.HELPERS)):
        sem_post(counters + work_queue.SEMAPHORES + helper * work_queue.SEMAPHORE_BYTES)
    run(counters, bind_job(tables, draft))


@compiled
def worker_loop(counters, helper, tables):
    """Another thread of the team: sleep until there is a job, take part, until QUIT is set."""
    copy = tables.jobs.copy()
    while True:
        sem_wait(counters + work_queue.SEMAPHORES + helper * work_queue.SEMAPHORE_BYTES)
        if load(counters + work_queue.QUIT):
            return
        version = load(counters + work_queue.VERSION)
        copy[0] = tables.jobs[0]
        # Written to while it was read, it is torn: its author goes on without this thread.
        if version % 2 == 0 and add(counters + work_queue.VERSION, 0) == version:
            run(counters, bind_job(tables, copy))


@compiled
def bind_job(tables, jobs):
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
            total = stages.stage_chunks(job, layer, stage, tables.linears[layer, stage.linear])
            target += total
            chunk = work_queue.claim_chunk(counters, region, total)
            while chunk >= 0:
                stages.perform(tables, layer, stage, chunk)
                add(counters + work_queue.DONE, 1)
                chunk = work_queue.claim_chunk(counters, region, total)
            work_queue.finish_region(counters, region, target)
            region += 1
