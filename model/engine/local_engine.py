"""The engine on this machine: one thread owns the model and serves every sequence.

The thread repeats: take what callers left in the inbox, admit, prefill one bounded chunk, decode
one token for all, retire. Callers never touch the model; they leave requests and aborts. What is
only read ahead is prefilled while there is nothing else to do, and gives way at the next chunk.
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
from model.layers.llama import Llama
from model.layers.lora import Lora
from model.translations import LocalizedText
from model.types import (
    BusyError,
    Emit,
    EngineCounts,
    EngineError,
    EngineRequest,
    EngineStatus,
    FinishReason,
    PreparedAdapter,
    Queued,
)

PREFILL_CHUNK = 256  # tokens between two decode steps; bounds how long the others stand still
GUESS_ROWS = 6  # rows of a decode step, up to which reading the weights is most of the work
MIN_PREFILL = 16  # what is left of a chunk, if it is less, is not worth another prompt's start
NO_MEMORY = LocalizedText("reply_out_of_memory")

log = logging.getLogger(__name__)


class LocalEngine:
    """Serves `model` to many sequences, each with its own adapter. See `base.Engine`.

    `context_length` is the model's, or what `cache_bytes` hold for one sequence, if that is less.

    Args:
        model: the loaded base; from here on it belongs to the engine's thread.
        pieces: number of token ids that have text; higher ids are never chosen. A request may
            tell another, with an adapter that brings a vocabulary of its own.
        load_adapter: gives an adapter's weights by name and digest, or raises AdapterError.
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
        pieces: int,
        load_adapter: Callable[[str, str], Lora],
        max_sequences: int,
        cache_bytes: int | None = None,
        adapter_bytes: int | None = None,
        max_waiting: int = 256,
    ) -> None:
        self.device = model.device
        self.quantization = model.quantization
        self._model = model
        self._pieces = pieces
        self._adapters = AdapterCache(load_adapter, adapter_bytes)
        self._memory = KVCacheManager(model.cache_format, cache_bytes)
        self.context_length = _bounded(model.context_length, self._memory.most_positions)
        self._scheduler = Scheduler(max_sequences)
        self._max_waiting = max_waiting
        self._pace = WaitEstimator(max_sequences)
        self._inbox: list[Sequence] = []
        self._aborts: set[str] = set()
        self._wake = threading.Condition()
        self._closing = False
        self._error: LocalizedText | None = None
        self._steps: Counter[int] = Counter()  # by how many sequences each moved on
        self._preemptions = 0
        self._heartbeat = Heartbeat()
        self._told: tuple[str | None, tuple[str, ...]] = None, ()  # to those in the queue
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def prepare(self, adapter: str, digest: str) -> PreparedAdapter:
        """Load an adapter's weights, unless they are here already, and still the same."""
        return self._adapters.acquire(adapter, digest)

    def load(self, adapter: str, digest: str) -> None:
        self._adapters.acquire(adapter, digest)

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        pieces = request.vocab_size or self._pieces
        sequence = Sequence(request, emit, self._memory.new_cache(), _weights(request), pieces)
        with self._wake:
            if self._error or self._closing:
                raise EngineError(self._error or "shutting_down")
            queue = self._scheduler.unread if sequence.read_only else self._scheduler.waiting
            alike = [one for one in self._inbox if one.read_only is sequence.read_only]
            waiting = len(queue) + len(alike)
            if waiting >= self._max_waiting:
                raise self._busy(waiting)
            if not (self._inbox or self._scheduler):
                self._heartbeat.wake()
            self._inbox.append(sequence)
            self._wake.notify()

    def _busy(self, waiting: int) -> BusyError:
        seconds = self._pace.estimate(waiting)
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
        running, waiting = self._scheduler.replies, len(self._scheduler.waiting)
        waiting += sum(not sequence.read_only for sequence in self._inbox)
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
            decode_steps=dict(self._steps),
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
        except BaseException as error:  # the thread must not die without a word
            log.exception("the engine stopped")
            with self._wake:
                self._error = LocalizedText(
                    "engine_stopped", {"error": str(error) or type(error).__name__}
                )
            self._collect_inbox()
            self._finish_all(FinishReason.ERROR, self._error)

    def _collect(self) -> bool:
        """Wait for something to do and take the inbox in; False when it is time to go."""
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
        self._interrupt_reading()
        self._scheduler.admit(self._start)
        self._tell_waiting()
        self._advance(self._next_chunk())
        for sequence in self._scheduler.decoding():
            self._make_room(sequence)
        decoding = self._scheduler.decoding()
        self._guess(decoding)
        if decoding:
            self._steps[len(decoding)] += 1
        self._advance(dict.fromkeys(decoding, 1))
        self._retire()

    def _interrupt_reading(self) -> None:
        """What was read ahead so far becomes memory that whoever comes may use or have."""
        reading = self._scheduler.preempt_prefill_only()
        if reading:
            self._memory.retain(reading)
            reading.begin(self._memory.new_cache())

    def _tell_waiting(self) -> None:
        """Let those in the queue know what they wait for, whenever it has moved."""
        reason, waiting = self._scheduler.waiting_reason, self._scheduler.waiting
        queue = tuple(sequence.request.id for sequence in waiting)
        if reason and (reason, queue) != self._told:
            for ahead, sequence in enumerate(waiting):
                sequence.emit_queue_position(Queued(ahead, reason, self._pace.estimate(ahead)))
        self._told = reason, queue

    def _guess(self, decoding: Seq[Sequence]) -> None:
        """Have likely tokens computed ahead, while a few rows more cost next to nothing."""
        left = GUESS_ROWS - len(decoding)
        least = 1 if len(decoding) == 1 else 2  # where rows are few, they are for better guesses
        if self._model.batch_invariant and left > 0:
            for sequence in decoding:
                sequence.propose_draft(left, least)
                left -= sequence.guessed

    def _next_chunk(self) -> dict[Sequence, int]:
        """The prompts that are computed next, and how many tokens of each: one chunk in all."""
        chunk: dict[Sequence, int] = {}
        left = PREFILL_CHUNK
        for _ in self._scheduler.running:
            # Asked only while there is room: who is asked has had its turn.
            sequence = self._scheduler.next_prefill() if left >= MIN_PREFILL else None
            if sequence is None or sequence in chunk:
                break
            self._memory.share(sequence, self._scheduler.running)
            if chunk and self._memory.will_share(sequence, chunk):
                continue  # what these compute now is copied at the next step
            chunk[sequence] = min(left, sequence.pending)
            left -= chunk[sequence]
        # Those with the same adapter side by side, as everywhere.
        return dict(sorted(chunk.items(), key=lambda part: part[0].key))

    def _start(self, sequence: Sequence) -> bool:
        """Give a waiting sequence its memory; False if it has to wait for it."""
        running = self._scheduler.running
        if sequence.read_only and self._memory.contains(sequence):
            sequence.finish_cached()
            return True
        if self._has_memory(self._memory.allocate, sequence):
            return True
        if running:
            return False
        # Nothing will be given back: what it has said stands, if it ran before.
        self._give_up(sequence)
        return True

    def _make_room(self, sequence: Sequence) -> None:
        """Room for one token more of a running sequence, at the cost of those that came last."""
        while sequence in self._scheduler.running:
            if self._has_memory(self._memory.extend, sequence):
                return
            if not self._preempt():
                self._give_up(sequence)
                return

    def _has_memory(
        self, ask: Callable[[Sequence, Seq[Sequence]], bool], sequence: Sequence
    ) -> bool:
        """What `ask` says; if memory itself runs out, again without anything kept for reuse."""
        for _ in range(2):
            try:
                return ask(sequence, self._scheduler.running)
            except (RuntimeError, MemoryError) as error:
                if not _lacks_memory(error):
                    raise
            self._memory.clear()
        return False

    def _preempt(self) -> bool:
        """Take the memory of the sequence that came last; False if no more than one runs."""
        sequence = self._scheduler.preempt()
        if sequence is None:
            return False
        sequence.begin(self._memory.new_cache())
        self._preemptions += 1
        log.warning("no memory for all: a reply starts over later")
        return True

    def _give_up(self, sequence: Sequence) -> None:
        """End a sequence that has all the memory there is, as one that has reached its length."""
        if sequence.completion_tokens:
            log.warning("no memory for a longer reply")
            sequence.finish(FinishReason.LENGTH)
        else:
            sequence.finish(FinishReason.ERROR, NO_MEMORY)

    def _advance(self, counts: Mapping[Sequence, int]) -> None:
        """One forward over that many tokens of each sequence."""
        sequences: Seq[Sequence] = list(counts)
        while sequences:
            try:
                spans = [s.next_span(counts[s]) for s in sequences]
                rows = [1 + s.guessed for s in sequences]
                logits = self._model.logits(spans, every_position=max(rows) > 1)
            except (RuntimeError, MemoryError) as error:
                sequences = self._recover(sequences, error)
                if len(sequences) > 1 and not _lacks_memory(error):
                    # Whoever fails alone as well ends; its neighbours have nothing to do with it.
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
        """After a step that failed: those that can try again."""
        log.exception("a step failed")
        for sequence in sequences:
            sequence.rewind()
        if _lacks_memory(error):
            return self._give_way(sequences)
        if len(sequences) == 1:
            sequences[0].finish(FinishReason.ERROR, _explain(error))
            return []
        return sequences

    def _give_way(self, sequences: Seq[Sequence]) -> Seq[Sequence]:
        """Get memory for a step that ran out of it; those that can try again."""
        if sequences and not (self._memory.clear() or self._preempt()):
            for sequence in sequences:
                sequence.finish(FinishReason.ERROR, NO_MEMORY)
        running = self._scheduler.running
        return [s for s in sequences if s in running and not s.finished]

    def _accept(self, sequence: Sequence, logits: Floats) -> None:
        """Whatever one reply's sampling or text runs into is no business of its neighbours."""
        try:
            sequence.accept_logits(logits)
        except Exception as error:
            log.exception("a reply failed")
            sequence.finish(FinishReason.ERROR, _explain(error))

    def _retire(self) -> None:
        for sequence in self._scheduler.remove_finished():
            if sequence.seconds and not sequence.read_only:
                self._pace.record(sequence.seconds)
            self._memory.retain(sequence)

    def _finish_all(self, reason: FinishReason, error: LocalizedText | None = None) -> None:
        for sequence in self._scheduler.all_sequences:
            sequence.finish(reason, error)
        self._scheduler.remove_finished()
        self._memory.clear()


def _bounded(context_length: int, most: int | None) -> int:
    if most is None or most >= context_length:
        return context_length
    log.warning("there is memory for a context of %d tokens, and not for %d", most, context_length)
    return most


def _weights(request: EngineRequest) -> Lora | None:
    if request.adapter is None:
        return None
    if not isinstance(request.adapter, LoadedAdapter):
        raise EngineError("adapter_not_prepared", name=request.adapter.name)
    return request.adapter.lora


def _lacks_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text


def _explain(error: Exception) -> LocalizedText:
    """What went wrong, for the person whose reply it was."""
    if _lacks_memory(error):
        return NO_MEMORY
    text = str(error)
    reason = text.splitlines()[0] if text else type(error).__name__
    return LocalizedText("reply_failed", {"reason": reason})
