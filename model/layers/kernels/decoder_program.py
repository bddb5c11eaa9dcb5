"""The program that all threads run: a decoder stack, stage by stage."""

from __future__ import annotations

from model.layers.kernels import stages, work_queue
from model.layers.kernels.intrinsics import (
    atomic_add,
    atomic_load,
    atomic_store,
    compiled,
    sem_post,
    sem_wait,
)
from model.layers.kernels.records import KernelArgs

LAYER_STAGES = 10  # the stages after them run once, after the last layer


@compiled
def run_as_leader(counters, draft, tables):
    """On the engine's thread: publish the job `draft` [1] to all threads, and take part in it."""
    region = (atomic_load(counters + work_queue.NEXT) >> work_queue.CHUNK_BITS) + 1
    draft[0].region = region
    draft[0].chunks_done = atomic_load(counters + work_queue.DONE)
    atomic_add(counters + work_queue.VERSION, 1)  # odd: being written
    tables.jobs[0] = draft[0]
    atomic_add(counters + work_queue.VERSION, 1)
    atomic_store(counters + work_queue.NEXT, region << work_queue.CHUNK_BITS)
    for helper in range(atomic_load(counters + work_queue.HELPERS)):
        sem_post(counters + work_queue.SEMAPHORES + helper * work_queue.SEMAPHORE_BYTES)
    run(counters, bind_job(tables, draft))


@compiled
def worker_loop(counters, helper, tables):
    """On another thread: sleep until there is a job, take part in it, until QUIT is set."""
    copy = tables.jobs.copy()
    while True:
        sem_wait(counters + work_queue.SEMAPHORES + helper * work_queue.SEMAPHORE_BYTES)
        if atomic_load(counters + work_queue.QUIT):
            return
        version = atomic_load(counters + work_queue.VERSION)
        copy[0] = tables.jobs[0]
        # A copy that was made while the job was written is torn: the leader goes on without this
        # thread.
        if version % 2 == 0 and atomic_add(counters + work_queue.VERSION, 0) == version:
            run(counters, bind_job(tables, copy))


@compiled
def bind_job(tables, jobs):
    """The tables, with a job that no other thread writes to."""
    return KernelArgs(jobs, tables.stages, tables.tokens, tables.logit_rows, tables.tiles,
                      tables.lora_pairs, tables.embeddings, tables.linears,
                      tables.norms)  # fmt: skip


@compiled
def run(counters, tables):
    """This thread's part in the job: the layers, then the last norm and the head.

    Returns when its last region is over.
    """
    job = tables.jobs[0]
    region, target = job.region, job.chunks_done
    for layer in range(job.first_layer, job.layers + 1):
        is_head = layer == job.layers
        first, end = (LAYER_STAGES, len(tables.stages)) if is_head else (0, LAYER_STAGES)
        for at in range(first, end):
            stage = tables.stages[at]
            linear = tables.linears[layer, stage.linear]
            total = stages.count_stage_chunks(job, layer, stage, linear)
            target += total
            chunk = work_queue.claim_chunk(counters, region, total)
            while chunk >= 0:
                stages.run_chunk(tables, layer, stage, chunk)
                atomic_add(counters + work_queue.DONE, 1)
                chunk = work_queue.claim_chunk(counters, region, total)
            work_queue.finish_region(counters, region, target)
            region += 1
