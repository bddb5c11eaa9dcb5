"""The engine on this machine: one thread owns the model and serves every sequence.

The thread repeats: take requests and aborts from the inbox, then run one step (`StepRunner`).
Callers never use the model themselves. Prefill-only requests are computed while there is nothing
else to do, and give way at the next chunk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from model.engine.adapter_cache import AdapterCache, LoadedAdapter
from model.engine.kv_cache_manager import KVCacheManager
from model.engine.scheduler import Scheduler
from model.engine.sequence import Sequence
from model.engine.step_runner import StepRunner
from model.engine.timing import Heartbeat, WaitEstimator
from model.errors import BusyError, EngineError
from model.layers.llama import Llama
from model.layers.lora import Lora
from model.translations import LocalizedText
from model.types import (
    Emit,
    EngineCounts,
    EngineRequest,
    EngineStatus,
    FinishReason,
    PreparedAdapter,
)

log = logging.getLogger(__name__)


class LocalEngine:
    """Serves `model` to many sequences, each with its own adapter. See `protocol.Engine`.

    `context_length` is the model's, or the positions that `cache_bytes` hold, if they are fewer.

    Args:
        model: the loaded base; from here on only the engine's thread uses it.
        vocab_size: number of token ids that have text; higher ids are never chosen. A request may
            have another, with an adapter that brings a vocabulary of its own.
        load_adapter: returns an adapter's weights by name and digest, or raises AdapterError.
        max_sequences: sequences that run at the same time.
        max_waiting: requests that may wait for their turn.
        cache_bytes: for keys and values, of running sequences and of those kept for reuse. None:
            no bound, and nothing is reused.
        adapter_bytes: for adapters; those in use may exceed it. None: no bound.
        clock: seconds for the heartbeat, which never go back.
    """

    name = "local"
    accepts_token_ids = True

    def __init__(
        self,
        model: Llama,
        vocab_size: int,
        load_adapter: Callable[[str, str], Lora],
        max_sequences: int,
        cache_bytes: int | None = None,
        adapter_bytes: int | None = None,
        max_waiting: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device = model.device
        self.quantization = model.quantization
        self._model = model
        self._vocab_size = vocab_size
        self._adapters = AdapterCache(load_adapter, adapter_bytes)
        self._memory = KVCacheManager(model.cache_format, cache_bytes)
        self.context_length = _bounded(model.context_length, self._memory.max_positions)
        self._scheduler = Scheduler(max_sequences)
        self.max_waiting = max_waiting
        self._wait_estimator = WaitEstimator(max_sequences)
        self._steps = StepRunner(model, self._memory, self._scheduler, self._wait_estimator)
        self._inbox: list[Sequence] = []
        self._aborts: set[str] = set()
        self._wake = threading.Condition()
        self._closing = False
        self._error: LocalizedText | None = None
        self._heartbeat = Heartbeat(clock)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def prepare(self, adapter: str, digest: str) -> PreparedAdapter:
        """Load an adapter's weights, unless these are in memory already."""
        return self._adapters.acquire(adapter, digest)

    def load(self, adapter: str, digest: str) -> None:
        self._adapters.acquire(adapter, digest)

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        vocab_size = request.vocab_size or self._vocab_size
        sequence = Sequence(request, emit, self._memory.new_cache(), _lora(request), vocab_size)
        with self._wake:
            if self._error or self._closing:
                raise EngineError(self._error or "shutting_down")
            scheduler, prefill_only = self._scheduler, sequence.prefill_only
            queue = scheduler.prefill_only if prefill_only else scheduler.waiting
            waiting = len(queue) + sum(s.prefill_only is prefill_only for s in self._inbox)
            if waiting >= self.max_waiting:
                raise self._busy(waiting)
            if not (self._inbox or self._scheduler):
                self._heartbeat.wake()
            self._inbox.append(sequence)
            self._wake.notify()

    def _busy(self, waiting: int) -> BusyError:
        seconds = self._wait_estimator.estimate(waiting)
        return BusyError("queue_full", waiting=waiting, seconds=seconds, retry_after=seconds)

    def abort(self, request_id: str) -> None:
        with self._wake:
            self._aborts.add(request_id)
            self._wake.notify()

    def status(self) -> EngineStatus:
        running, waiting = self._scheduler.running_replies, len(self._scheduler.waiting)
        waiting += sum(not sequence.prefill_only for sequence in self._inbox)
        error = self._error
        if not (error or self._closing or self._thread.is_alive()):
            error = LocalizedText("engine_thread_ended")
        return EngineStatus(
            running, waiting, error, self._scheduler.waiting_reason,
            self._heartbeat.age, self._heartbeat.slowest_step,
        )  # fmt: skip

    def unload(self, adapter: str) -> None:
        self._adapters.evict(adapter)

    def counts(self) -> EngineCounts:
        return EngineCounts(
            decode_steps=dict(self._steps.decode_steps),
            preemptions=self._steps.preemptions,
            adapter_loads=self._adapters.loads,
            adapter_evictions=self._adapters.evictions,
            adapters=self._adapters.names,
            adapter_bytes=self._adapters.nbytes,
            cache_bytes=self._memory.nbytes(self._scheduler.running),
            cache_budget=self._memory.budget,
        )

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._model.close()

    def _run(self) -> None:
        try:
            while self._collect():
                self._steps.run()
                self._heartbeat.beat()
            self._steps.finish_all(FinishReason.ABORT)
        except BaseException as error:  # the thread must not die without a message
            log.exception("The engine stopped")
            with self._wake:
                self._error = LocalizedText(
                    "engine_stopped", {"error": str(error) or type(error).__name__}
                )
            self._collect_inbox()
            self._steps.finish_all(FinishReason.ERROR, self._error)

    def _collect(self) -> bool:
        """Wait for work and take it from the inbox; False when the engine is closing."""
        with self._wake:
            while not (self._inbox or self._scheduler or self._closing):
                self._aborts.clear()
                self._wake.wait()
            aborts = self._collect_inbox()
        for sequence in self._scheduler.find(aborts):
            sequence.finish(FinishReason.ABORT)
        self._steps.retire()
        return not self._closing

    def _collect_inbox(self) -> set[str]:
        self._scheduler.add(self._inbox)
        self._inbox = []
        aborts, self._aborts = self._aborts, set()
        return aborts


def _bounded(context_length: int, max_positions: int | None) -> int:
    if max_positions is None or max_positions >= context_length:
        return context_length
    log.warning(
        "The memory is enough for a context of %d tokens, not of %d", max_positions, context_length
    )
    return max_positions


def _lora(request: EngineRequest) -> Lora | None:
    if request.adapter is None:
        return None
    if not isinstance(request.adapter, LoadedAdapter):
        raise EngineError("adapter_not_prepared", name=request.adapter.name)
    return request.adapter.lora
