"""The steps of the local engine: admit, prefill one bounded chunk, decode one token each, retire.

Also what happens when memory runs out: cached entries are dropped, then the sequence that came last
is preempted.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq

from model.engine.kv_cache_manager import KVCacheManager
from model.engine.sampler import Floats
from model.engine.scheduler import Scheduler
from model.engine.sequence import Sequence
from model.engine.timing import WaitEstimator
from model.errors import lacks_memory
from model.layers.llama import Llama
from model.translations import LocalizedText
from model.types import FinishReason, Queued

PREFILL_CHUNK = 256  # tokens between two decode steps; bounds how long decoding pauses
# Rows of a decode step with draft tokens: up to so many, reading the weights is most of the work.
MAX_SPECULATIVE_ROWS = 6
MIN_PREFILL = 16  # fewer remaining tokens of a chunk are not worth the start of another prompt
NO_MEMORY = LocalizedText("reply_out_of_memory")

log = logging.getLogger(__name__)


class StepRunner:
    """Runs the steps of an engine. Only the engine's thread uses it.

    Args:
        model: computes the logits.
        memory: of the keys and values.
        scheduler: has the sequences.
        wait_estimator: learns how long replies take.
    """

    def __init__(
        self,
        model: Llama,
        memory: KVCacheManager,
        scheduler: Scheduler,
        wait_estimator: WaitEstimator,
    ) -> None:
        self._model = model
        self._memory = memory
        self._scheduler = scheduler
        self._wait_estimator = wait_estimator
        self.decode_steps: Counter[int] = Counter()  # by their number of sequences
        self.preemptions = 0
        # The reason to wait and the ids in the queue, as they were last emitted.
        self._emitted_queue: tuple[str | None, tuple[str, ...]] = None, ()

    def run(self) -> None:
        """Runs one step over the sequences of the scheduler."""
        self._preempt_prefill_only()
        self._scheduler.admit(self._start)
        self._emit_queue()
        self._advance(self._next_chunk())
        for sequence in self._scheduler.decoding():
            self._make_room(sequence)
        decoding = self._scheduler.decoding()
        self._propose_drafts(decoding)
        if decoding:
            self.decode_steps[len(decoding)] += 1
        self._advance(dict.fromkeys(decoding, 1))
        self.retire()

    def _preempt_prefill_only(self) -> None:
        """Stops a prefill-only sequence if a reply waits; its computed part stays cached."""
        sequence = self._scheduler.preempt_prefill_only()
        if sequence:
            self._memory.retain(sequence)
            sequence.start(self._memory.new_cache())

    def _emit_queue(self) -> None:
        """Sends the waiting replies their positions in the queue, if it has changed."""
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
                if not lacks_memory(error):
                    raise
            self._memory.clear()
        return False

    def _preempt(self) -> bool:
        """Free the memory of the sequence that came last; False if no more than one runs."""
        sequence = self._scheduler.preempt()
        if sequence is None:
            return False
        sequence.start(self._memory.new_cache())
        self.preemptions += 1
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
                if len(sequences) > 1 and not lacks_memory(error):
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
        if lacks_memory(error):
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

    def retire(self) -> None:
        """Removes the finished sequences, and keeps their keys and values for reuse."""
        for sequence in self._scheduler.remove_finished():
            if sequence.seconds and not sequence.prefill_only:
                self._wait_estimator.record(sequence.seconds)
            self._memory.retain(sequence)

    def finish_all(self, reason: FinishReason, error: LocalizedText | None = None) -> None:
        """Ends all sequences."""
        for sequence in self._scheduler.all_sequences:
            sequence.finish(reason, error)
        self._scheduler.remove_finished()
        self._memory.clear()


def _explain(error: Exception) -> LocalizedText:
    """The error message for the user whose reply has failed."""
    if lacks_memory(error):
        return NO_MEMORY
    text = str(error)
    reason = text.splitlines()[0] if text else type(error).__name__
    return LocalizedText("reply_failed", {"reason": reason})
