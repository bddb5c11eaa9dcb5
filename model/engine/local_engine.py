"""The engine on this machine: one thread owns the model and serves every sequence.

The thread repeats: take requests and aborts from the inbox, admit, prefill one bounded chunk,
decode one token for each running sequence, retire. Callers never use the model themselves.
Prefill-only requests are computed while there is nothing else to do, and give way at the next
chunk.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq

from model.engine.adapter_cache import AdapterCache, LoadedAdapter
from model.engine.heartbeat import Heartbeat
from model.engine.kv_cache_manager import KVCacheManager
from model.engine.sampler import Floats
from model.engine.scheduler import Scheduler
from model.engine.sequence import Sequence
from model.engine.wait_estimator import WaitEstimator
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
    Queued,
)

PREFILL_CHUNK = 256  # tokens between two decode steps; bounds how long decoding pauses
# Rows of a decode step with draft tokens: up to so many, reading the weights is most of the work.
MAX_SPECULATIVE_ROWS = 6
MIN_PREFILL = 16  # fewer remaining tokens of a chunk are not worth the start of another prompt
NO_MEMORY = LocalizedText("reply_out_of_memory")

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
    ) -> None:
        self.device = model.device
        self.quantization = model.quantization
        self._model = model
        self._vocab_size = vocab_size
        self._adapters = AdapterCache(load_adapter, adapter_bytes)
        self._memory = KVCacheManager(model.cache_format, cache_bytes)
        self.context_length = _bounded(model.context_length, self._memory.max_positions)
        self._scheduler = Scheduler(max_sequences)
        self._max_waiting = max_waiting
        self._wait_estimator = WaitEstimator(max_sequences)
        self._inbox: list[Sequence] = []
        self._aborts: set[str] = set()
        self._wake = threading.Condition()
        self._closing = False
        self._error: LocalizedText | None = None
        self._decode_steps: Counter[int] = Counter()  # by their number of sequences
        self._preemptions = 0
        self._heartbeat = Heartbeat()
        # The reason to wait and the ids in the queue, as they were last emitted.
        self._emitted_queue: tuple[str | None, tuple[str, ...]] = None, ()
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
            if waiting >= self._max_waiting:
                raise self._busy(waiting)
            if not (self._inbox or self._scheduler):
                self._heartbeat.wake()
            self._inbox.append(sequence)
            self._wake.notify()

    def _busy(self, waiting: int) -> BusyError:
        seconds = self._wait_estimator.estimate(waiting)
        return BusyError(
            "queue_full",
            waiting=waiting,
            seconds=seconds,
            retry_after=seconds,
        )

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
            decode_steps=dict(self._decode_steps),
            preemptions=self._preemptions,
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
                self._step()
                self._heartbeat.beat()
            self._finish_all(FinishReason.ABORT)
        except BaseException as error:  # the thread must not die without a message
            log.exception("The engine stopped")
            with self._wake:
                self._error = LocalizedText(
                    "engine_stopped", {"error": str(error) or type(error).__name__}
                )
            self._collect_inbox()
            self._finish_all(FinishReason.ERROR, self._error)

    def _collect(self) -> bool:
        """Wait for work and take it from the inbox; False when the engine is closing."""
        with self._wake:
            while not (self._inbox or self._scheduler or self._closing):
                self._aborts.clear()
                self._wake.wait()
            aborts = self._collect_inbox()
        for sequence in self._scheduler.find(aborts):
            sequence.finish(FinishReason.ABORT)
        self._retire()
        return not self._closing

    def _collect_inbox(self) -> set[str]:
        self._scheduler.add(self._inbox)
        self._inbox = []
        aborts, self._aborts = self._aborts, set()
        return aborts

    def _step(self) -> None:
        self._preempt_prefill_only()
        self._scheduler.admit(self._start)
        self._emit_queue()
        self._advance(self._next_chunk())
        for sequence in self._scheduler.decoding():
            self._make_room(sequence)
        decoding = self._scheduler.decoding()
        self._propose_drafts(decoding)
        if decoding:
            self._decode_steps[len(decoding)] += 1
        self._advance(dict.fromkeys(decoding, 1))
        self._retire()

    def _preempt_prefill_only(self) -> None:
        """Stop reading ahead if a reply waits; the computed part can be reused or evicted."""
        sequence = self._scheduler.preempt_prefill_only()
        if sequence:
            self._memory.retain(sequence)
            sequence.start(self._memory.new_cache())

    def _emit_queue(self) -> None:
        """Tell the waiting replies their positions in the queue, whenever it has changed."""
        reason, waiting = self._scheduler.waiting_reason, self._scheduler.waiting
        queue = tuple(sequence.request.id for sequence in waiting)
        if reason and (reason, queue) != self._emitted_queue:
            for ahead, sequence in enumerate(waiting):
                seconds = self._wait_estimator.estimate(ahead)
                sequence.emit_queue_position(Queued(ahead, reason, seconds))
        self._emitted_queue = reason, queue

    def _propose_drafts(self, decoding: Seq[Sequence]) -> None:
        """Have draft tokens computed, while a few rows more cost next to nothing."""
        free_rows = MAX_SPECULATIVE_ROWS - len(decoding)
        min_match = 1 if len(decoding) == 1 else 2  # scarce rows are for better drafts
        if self._model.batch_invariant and free_rows > 0:
            for sequence in decoding:
                sequence.propose_draft(free_rows, min_match)
                free_rows -= sequence.draft_length

    def _next_chunk(self) -> dict[Sequence, int]:
        """The prompts that are computed next, and how many tokens of each: one chunk in all."""
        chunk: dict[Sequence, int] = {}
        remaining = PREFILL_CHUNK
        for _ in self._scheduler.running:
            # `next_prefill` uses up the sequence's turn: it is called only while there is room.
            sequence = self._scheduler.next_prefill() if remaining >= MIN_PREFILL else None
            if sequence is None or sequence in chunk:
                break
            self._memory.share(sequence, self._scheduler.running)
            if chunk and self._memory.will_share(sequence, chunk):
                continue  # it copies at the next step what these compute now
            chunk[sequence] = min(remaining, sequence.pending)
            remaining -= chunk[sequence]
        # Sequences with the same adapter side by side, as `Llama.forward` needs them.
        return dict(sorted(chunk.items(), key=lambda item: item[0].prefix_key))

    def _start(self, sequence: Sequence) -> bool:
        """Give a waiting sequence its memory; False if it has to wait for memory."""
        running = self._scheduler.running
        if sequence.prefill_only and self._memory.contains(sequence):
            sequence.finish_cached()
            return True
        if self._has_memory(self._memory.allocate, sequence):
            return True
        if running:
            return False
        # No sequence will free memory. If this one ran before, its text so far is its reply.
        self._give_up(sequence)
        return True

    def _make_room(self, sequence: Sequence) -> None:
        """Make room for one token more of a running sequence; preempts those that came last."""
        while sequence in self._scheduler.running:
            if self._has_memory(self._memory.extend, sequence):
                return
            if not self._preempt():
                self._give_up(sequence)
                return

    def _has_memory(
        self, request_memory: Callable[[Sequence, Seq[Sequence]], bool], sequence: Sequence
    ) -> bool:
        """Whether `request_memory` succeeds. If the machine is out of memory, it is tried again
        after the entries kept for reuse are dropped."""
        for _ in range(2):
            try:
                return request_memory(sequence, self._scheduler.running)
            except (RuntimeError, MemoryError) as error:
                if not _lacks_memory(error):
                    raise
            self._memory.clear()
        return False

    def _preempt(self) -> bool:
        """Free the memory of the sequence that came last; False if no more than one runs."""
        sequence = self._scheduler.preempt()
        if sequence is None:
            return False
        sequence.start(self._memory.new_cache())
        self._preemptions += 1
        log.warning("The engine lacks memory for all replies: one of them starts again later")
        return True

    def _give_up(self, sequence: Sequence) -> None:
        """End a sequence that has all the memory there is, as if it had reached its length."""
        if sequence.completion_tokens:
            log.warning("The engine lacks memory for a longer reply: the reply ends here")
            sequence.finish(FinishReason.LENGTH)
        else:
            sequence.finish(FinishReason.ERROR, NO_MEMORY)

    def _advance(self, counts: Mapping[Sequence, int]) -> None:
        """Run one forward over `counts` tokens of each sequence."""
        sequences: Seq[Sequence] = list(counts)
        while sequences:
            try:
                slices = [s.next_slice(counts[s]) for s in sequences]
                rows = [1 + s.draft_length for s in sequences]
                logits = self._model.logits(slices, every_position=max(rows) > 1)
            except (RuntimeError, MemoryError) as error:
                sequences = self._recover(sequences, error)
                if len(sequences) > 1 and not _lacks_memory(error):
                    # Each alone: the sequence that causes the failure ends, the others go on.
                    for sequence in sequences:
                        self._advance({sequence: counts[sequence]})
                    return
                continue
            begin = 0
            for sequence, count in zip(sequences, rows, strict=True):
                self._accept(sequence, logits[begin : begin + count])
                begin += count
            return

    def _recover(self, sequences: Seq[Sequence], error: Exception) -> Seq[Sequence]:
        """Clean up after a step that failed; returns the sequences that can try again."""
        log.exception("A step of the engine failed")
        for sequence in sequences:
            sequence.rewind()
        if _lacks_memory(error):
            return self._give_way(sequences)
        if len(sequences) == 1:
            sequences[0].finish(FinishReason.ERROR, _explain(error))
            return []
        return sequences

    def _give_way(self, sequences: Seq[Sequence]) -> Seq[Sequence]:
        """Free memory for a step that ran out of it; returns the sequences that can try again."""
        if sequences and not (self._memory.clear() or self._preempt()):
            for sequence in sequences:
                sequence.finish(FinishReason.ERROR, NO_MEMORY)
        running = self._scheduler.running
        return [s for s in sequences if s in running and not s.finished]

    def _accept(self, sequence: Sequence, logits: Floats) -> None:
        """Pass a sequence its logits; an error in its sampling or text ends this sequence alone."""
        try:
            sequence.accept_logits(logits)
        except Exception as error:
            log.exception("The engine failed on a reply")
            sequence.finish(FinishReason.ERROR, _explain(error))

    def _retire(self) -> None:
        for sequence in self._scheduler.remove_finished():
            if sequence.seconds and not sequence.prefill_only:
                self._wait_estimator.record(sequence.seconds)
            self._memory.retain(sequence)

    def _finish_all(self, reason: FinishReason, error: LocalizedText | None = None) -> None:
        for sequence in self._scheduler.all_sequences:
            sequence.finish(reason, error)
        self._scheduler.remove_finished()
        self._memory.clear()


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


def _lacks_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text


def _explain(error: Exception) -> LocalizedText:
    """The error message for the user whose reply has failed."""
    if _lacks_memory(error):
        return NO_MEMORY
    text = str(error)
    reason = text.splitlines()[0] if text else type(error).__name__
    return LocalizedText("reply_failed", {"reason": reason})
