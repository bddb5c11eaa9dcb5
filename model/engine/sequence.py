"""One reply in the making: what is left to compute, its text so far, and when it ends."""

from __future__ import annotations

import time

from torch import Tensor

from model.engine.sampler import Choice, Sampler
from model.layers.llama import KeyValues, Span
from model.layers.lora import Lora
from model.types import Delta, Emit, EngineRequest, FinishReason, Stats, TokenLogprob


class Sequence:
    """A request that the engine has taken. Only the engine's thread touches it.

    Args:
        request: what to continue.
        emit: where the reply goes.
        cache: empty keys and values of its own.
        lora: the adapter's weights, or None for the base.
        pieces: number of token ids that have text.
    """

    def __init__(
        self,
        request: EngineRequest,
        emit: Emit,
        cache: KeyValues,
        lora: Lora | None,
        pieces: int,
    ) -> None:
        self.request = request
        self.finished = False
        self.prefilling = True
        self._emit = emit
        self._cache = cache
        self._lora = lora
        self._sampler = Sampler(request.sampling, request.prompt_ids, request.eos_ids, pieces)
        self._stops = StopStrings(request.sampling.stop)
        self._pending = tuple(request.prompt_ids)
        self._completion_tokens = 0
        self._submitted = self._first_token = time.perf_counter()

    def take(self, most: int) -> Span:
        """The next `most` tokens at the most, as a span to compute."""
        tokens, self._pending = self._pending[:most], self._pending[most:]
        return Span(tokens, self._cache, self._lora, self.request.adapter_scale)

    def accept(self, logits: Tensor) -> None:
        """The logits after the span last taken: sample, unless more of the prompt is to come."""
        if self._pending:
            return
        if self.prefilling:
            self._first_token = time.perf_counter()
            self.prefilling = False
        choice = self._sampler.choose(logits)
        self._completion_tokens += 1
        if choice.token_id in self.request.eos_ids:
            self.finish(FinishReason.STOP)
        else:
            self._pending = (choice.token_id,)
            self._write(choice)

    def finish(self, reason: FinishReason, error: str | None = None) -> None:
        """End the reply with whatever text is still held back. A second call does nothing."""
        if self.finished:
            return
        text, _ = self._stops.push(self.request.detokenizer.flush())
        self._end(reason, text + self._stops.flush(), error=error)

    def _write(self, choice: Choice) -> None:
        text, stopped = self._stops.push(self.request.detokenizer.push(choice.token_id))
        logprobs = self._logprobs(choice)
        if stopped:
            self._end(FinishReason.STOP, text, logprobs)
            return
        if text or logprobs:
            self._emit(Delta(text, logprobs=logprobs))
        if self._completion_tokens == self.request.sampling.max_tokens:
            self.finish(FinishReason.LENGTH)

    def _end(
        self,
        reason: FinishReason,
        text: str,
        logprobs: tuple[TokenLogprob, ...] = (),
        error: str | None = None,
    ) -> None:
        self.finished = True
        self._emit(Delta(text, reason, self._stats(), logprobs=logprobs, error=error))

    def _stats(self) -> Stats:
        return Stats(
            prompt_tokens=len(self.request.prompt_ids),
            completion_tokens=self._completion_tokens,
            first_token_seconds=self._first_token - self._submitted,
            decode_seconds=time.perf_counter() - self._first_token,
            seed=self._sampler.seed,
        )

    def _logprobs(self, choice: Choice) -> tuple[TokenLogprob, ...]:
        if choice.logprob is None:
            return ()
        piece = self.request.detokenizer.piece
        top = tuple(TokenLogprob(piece(token_id), value) for token_id, value in choice.top)
        return (TokenLogprob(piece(choice.token_id), choice.logprob, top),)


class StopStrings:
    """Ends a text at the first stop string, and holds back what may become one."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that can be shown now, and whether a stop string has ended it."""
        self._held += text
        # The one that is complete first; of two that end together the longer.
        places = [(self._held.find(stop), len(stop)) for stop in self._stops]
        found = [(at + length, at) for at, length in places if at >= 0]
        if found:
            shown, self._held = self._held[: min(found)[1]], ""
            return shown, True
        keep = self._possible_beginning()
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown, False

    def flush(self) -> str:
        """What was held back, now that nothing more comes."""
        held, self._held = self._held, ""
        return held

    def _possible_beginning(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
