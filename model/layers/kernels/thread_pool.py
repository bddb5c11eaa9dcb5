"""The team's threads. They live in compiled code, without the GIL, and sleep when idle."""

from __future__ import annotations

import ctypes
import threading

import numpy as np

from model.layers.kernels import decoder_program, records, work_queue
from model.layers.kernels.records import KernelArgs


class ThreadPool:
    """`threads` - 1 threads that help the caller of `run`.

    Other calls of `run` must not overlap.
    """

    def __init__(self, threads: int, tables: KernelArgs) -> None:
        helpers = threads - 1
        size = work_queue.SEMAPHORES + helpers * work_queue.SEMAPHORE_BYTES
        self._memory = np.zeros(size + 64, np.uint8)
        self._counters = -(-self._memory.ctypes.data // 64) * 64
        self._tables = tables
        self._c = ctypes.CDLL(None)
        for helper in range(helpers):
            self._c.sem_init(self._semaphore(helper), 0, 0)
        self._put(work_queue.HELPERS, helpers)
        self._threads = [
            threading.Thread(target=self._follow, args=(helper,), daemon=True)
            for helper in range(helpers)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, job: np.ndarray) -> None:
        """Run the program of `job`, a JOB record in an array [1]; returns when it is done."""
        decoder_program.run_as_leader(self._counters, job, self._tables)

    def close(self) -> None:
        """End the threads. Nothing may run."""
        self._put(work_queue.QUIT, 1)
        for helper, thread in enumerate(self._threads):
            self._c.sem_post(self._semaphore(helper))
            thread.join()

    def _follow(self, helper: int) -> None:
        decoder_program.worker_loop(self._counters, helper, self._tables)

    def _semaphore(self, helper: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(
            self._counters + work_queue.SEMAPHORES + helper * work_queue.SEMAPHORE_BYTES
        )

    def _put(self, at: int, value: int) -> None:
        ctypes.c_int64.from_address(self._counters + at).value = value


def empty_tables(rows: int, adapters: int, layers: int) -> KernelArgs:
    """Tables of the right size with nothing in them."""
    return KernelArgs(
        np.zeros(1, records.JOB),
        np.zeros(decoder_program.LAYER_STAGES + 2, records.STAGE),
        np.zeros(rows, records.ROW),
        np.zeros(rows, np.int64),
        np.zeros((rows, 2), np.int64),
        np.zeros((adapters, layers * len(records.MODULES)), records.PAIR),
        np.zeros(adapters, records.LINEAR),
        np.zeros((layers + 1, records.LINEARS), records.LINEAR),
        np.zeros(2 * layers + 1, np.int64),
    )


def compile_all() -> None:
    """Compile both sides of the team, by running a stack of no layers."""
    tables = empty_tables(1, 1, 1)
    tables.linears["ins"] = records.COLUMNS
    crew = ThreadPool(2, tables)
    job = np.zeros(1, records.JOB)
    job["threads"] = 1
    crew.run(job)
    crew.close()
