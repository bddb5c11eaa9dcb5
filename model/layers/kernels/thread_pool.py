"""The threads that run compiled code, without the GIL. They sleep when there is no job."""

from __future__ import annotations

import ctypes
import threading

import numpy as np

from model.layers.kernels import decoder_program, records, work_queue
from model.layers.kernels.records import KernelArgs


class ThreadPool:
    """`threads` - 1 threads that help the caller of `run`.

    Calls of `run` must not overlap.
    """

    def __init__(self, threads: int, tables: KernelArgs) -> None:
        helpers = threads - 1
        size = work_queue.SEMAPHORES + helpers * work_queue.SEMAPHORE_BYTES
        self._memory = np.zeros(size + 64, np.uint8)
        self._counters = -(-self._memory.ctypes.data // 64) * 64
        self._tables = tables
        self._libc = ctypes.CDLL(None)
        for helper in range(helpers):
            self._libc.sem_init(self._semaphore(helper), 0, 0)
        self._set_counter(work_queue.HELPERS, helpers)
        self._threads = [
            threading.Thread(target=self._work, args=(helper,), daemon=True)
            for helper in range(helpers)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, job: np.ndarray) -> None:
        """Run the program of `job`, a JOB record in an array [1]; returns when it is done."""
        decoder_program.run_as_leader(self._counters, job, self._tables)

    def close(self) -> None:
        """End the threads. No job may be running."""
        self._set_counter(work_queue.QUIT, 1)
        for helper, thread in enumerate(self._threads):
            self._libc.sem_post(self._semaphore(helper))
            thread.join()

    def _work(self, helper: int) -> None:
        decoder_program.worker_loop(self._counters, helper, self._tables)

    def _semaphore(self, helper: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(
            self._counters + work_queue.SEMAPHORES + helper * work_queue.SEMAPHORE_BYTES
        )

    def _set_counter(self, offset: int, value: int) -> None:
        ctypes.c_int64.from_address(self._counters + offset).value = value


def empty_tables(rows: int, adapter_slots: int, layers: int) -> KernelArgs:
    """Tables of the right size, filled with zeros."""
    return KernelArgs(
        jobs=np.zeros(1, records.JOB),
        stages=np.zeros(decoder_program.LAYER_STAGES + 2, records.STAGE),
        tokens=np.zeros(rows, records.TOKEN),
        logit_rows=np.zeros(rows, np.int64),
        tiles=np.zeros((rows, 2), np.int64),
        lora_pairs=np.zeros((adapter_slots, layers * records.NUM_MODULES), records.LORA_PAIR),
        embeddings=np.zeros(adapter_slots, records.LINEAR),
        linears=np.zeros((layers + 1, records.NUM_LINEARS), records.LINEAR),
        norms=np.zeros(2 * layers + 1, np.int64),
    )


def compile_all() -> None:
    """Compile what the leader and the workers run, by running a stack of no layers."""
    tables = empty_tables(rows=1, adapter_slots=1, layers=1)
    tables.linears["in_features"] = records.COLUMN_PADDING
    pool = ThreadPool(2, tables)
    job = np.zeros(1, records.JOB)
    job["threads"] = 1
    pool.run(job)
    pool.close()
