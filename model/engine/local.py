"""The engine on this machine: one thread owns the model and serves every sequence.

The thread repeats: take what callers left in the inbox, admit, prefill one bounded chunk, decode
one token for all, retire. Callers never touch the model; they leave requests and aborts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from collections.abc import Sequence as Seq

from torch import Tensor

from model.engine.kv_cache import SequenceCache
from model.engine.scheduler import Scheduler
from model.engine.sequence import Sequence
from model.layers.llama import Llama
from model.layers.lora import Lora
from model.types import (
    BusyError,
    Emit,
    EngineError,
    EngineRequest,
    EngineStatus,
    FinishReason,
)

PREFILL_CHUNK = 256  # tokens between two decode steps; bounds how long the others stand still
MAX_WAITING = 256

log = logging.getLogger(__name__)


class LocalEngine:
    """Serves `model` to many sequences, each with its own adapter. See `base.Engine`.

    Args:
        model: the loaded base; from here on it belongs to the engine's thread.
        pieces: number of token ids that have text; higher ids are never chosen.
        load_adapter: gives an adapter's weights by its key, or raises AdapterError.
        max_sequences: sequences that run at the same time.
    """

    name = "local"

    def __init__(
        self,
        model: Llama,
        pieces: int,
        load_adapter: Callable[[str], Lora],
        max_sequences: int,
    ) -> None:
        self.device = model.device
        self.context_length = model.context_length
        self._model = model
        self._pieces = pieces
        self._load_adapter = load_adapter
        self._loras: dict[str, tuple[str, Lora]] = {}  # name -> digest and weights
        self._lora_lock = threading.Lock()
        self._scheduler = Scheduler(max_sequences)
        self._inbox: list[Sequence] = []
        self._aborts: set[str] = set()
        self._wake = threading.Condition()
        self._closing = False
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def prepare(self, adapter: str, digest: str) -> None:
        """Load an adapter's weights, unless they are here already, and still the same."""
        with self._lora_lock:
            loaded, _ = self._loras.get(adapter, ("", None))
            if loaded != digest:
                self._loras[adapter] = digest, self._load_adapter(adapter)

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        lora = None if request.adapter is None else self._loras[request.adapter][1]
        cache = SequenceCache(self._model.shape, self._model.storage_dtype, self.device)
        sequence = Sequence(request, emit, cache, lora, self._pieces)
        with self._wake:
            if self._error or self._closing:
                raise EngineError(self._error or "The program is shutting down")
            if len(self._inbox) + len(self._scheduler.waiting) >= MAX_WAITING:
                raise BusyError(
                    f"{MAX_WAITING} replies are waiting already", "Try again in a minute."
                )
            self._inbox.append(sequence)
            self._wake.notify()

    def abort(self, request_id: str) -> None:
        with self._wake:
            self._aborts.add(request_id)
            self._wake.notify()

    def status(self) -> EngineStatus:
        running, waiting = len(self._scheduler.running), len(self._scheduler.waiting)
        return EngineStatus(running, waiting + len(self._inbox), self._error)

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._collect():
                self._step()
            self._finish_all(FinishReason.ABORT)
        except BaseException as error:  # the thread must not die without a word
            log.exception("the engine stopped")
            with self._wake:
                self._error = f"The engine stopped: {error or type(error).__name__}"
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
        self._scheduler.retire()
        return not self._closing

    def _collect_inbox(self) -> set[str]:
        self._scheduler.add(self._inbox)
        self._inbox = []
        aborts, self._aborts = self._aborts, set()
        return aborts

    def _step(self) -> None:
        self._scheduler.admit()
        prefill = self._scheduler.next_prefill()
        if prefill:
            self._advance([prefill], PREFILL_CHUNK)
        decoding = self._scheduler.decoding()
        if decoding:
            self._advance(decoding, 1)
        self._scheduler.retire()

    def _advance(self, sequences: Seq[Sequence], most: int) -> None:
        """One forward over the next `most` tokens of each; a failure ends only these."""
        try:
            logits = self._model.forward([s.take(most) for s in sequences])
        except (RuntimeError, MemoryError) as error:
            log.exception("a step failed")
            for sequence in sequences:
                sequence.finish(FinishReason.ERROR, _explain(error))
            return
        for sequence, row in zip(sequences, logits, strict=True):
            self._accept(sequence, row)

    def _accept(self, sequence: Sequence, logits: Tensor) -> None:
        """Whatever one reply's sampling or text runs into is no business of its neighbours."""
        try:
            sequence.accept(logits)
        except Exception as error:
            log.exception("a reply failed")
            sequence.finish(FinishReason.ERROR, _explain(error))

    def _finish_all(self, reason: FinishReason, error: str | None = None) -> None:
        for sequence in (*self._scheduler.running, *self._scheduler.waiting):
            sequence.finish(reason, error)
        self._scheduler.retire()


def _explain(error: Exception) -> str:
    """What went wrong, for the person whose reply it was."""
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text:
        return "There was not enough memory for this reply. Ask again with a shorter chat."
    return (
        f"The model failed on this reply: {text.splitlines()[0] if text else type(error).__name__}"
    )
