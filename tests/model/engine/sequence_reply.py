"""Helpers: a sequence whose tokens a test chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from model.engine.kv_cache import SequenceCache
from model.engine.sampler import Floats
from model.engine.sequence import Sequence
from model.layers.kv_layout import CacheFormat
from model.sampling import Sampling
from model.types import Delta, EngineRequest, FinishReason

EOS = 0
VOCAB = 128  # ids are ASCII codes
FORMAT = CacheFormat(1, 1, 8, torch.float32, "cpu")


class AsciiDetokenizer:
    """Each id is a letter; `~` is the first half of a character that the next id completes."""

    def __init__(self) -> None:
        self._buffer = ""

    def push(self, token_id: int) -> str:
        text = self._buffer + chr(token_id)
        self._buffer = text if text.endswith("~") else ""
        return "" if self._buffer else text

    def flush(self) -> str:
        return ""

    def token_bytes(self, token_id: int) -> bytes:
        return f"<{chr(token_id)}>".encode()


class LateDetokenizer(AsciiDetokenizer):
    """Gives all of its text at the end."""

    def push(self, token_id: int) -> str:
        self._buffer += chr(token_id)
        return ""

    def flush(self) -> str:
        text, self._buffer = self._buffer, ""
        return text


def likeliest(letter: str | int) -> Floats:
    """Logits [1, VOCAB] with one winner; every other letter has the same, smaller chance."""
    logits = np.zeros((1, VOCAB), np.float32)
    logits[0, letter if isinstance(letter, int) else ord(letter)] = 5.0
    return logits


class SequenceReply:
    """A sequence that gets letters as its tokens, and the deltas that it emits."""

    def __init__(
        self,
        prompt: str = "Hi",
        detokenizer: AsciiDetokenizer | None = None,
        so_far: str = "",
        prefill_only: bool = False,
        **sampling: Any,
    ) -> None:
        self.deltas: list[Delta] = []
        request = EngineRequest(
            id="r",
            prompt_ids=[ord(letter) for letter in prompt],
            sampling=Sampling(**{"temperature": 0, "seed": 9, **sampling}),
            eos_ids=frozenset({EOS}),
            detokenizer=detokenizer or AsciiDetokenizer(),
            adapter_scale=0.5,
            so_far=so_far,
            prefill_only=prefill_only,
        )
        cache = SequenceCache(FORMAT)
        self.sequence = Sequence(request, self.deltas.append, cache, None, VOCAB)

    def feed(self, letters: str, then_eos: bool = False) -> SequenceReply:
        """Let the model choose `letters`, until the sequence has finished."""
        if self.sequence.prefilling:
            self.sequence.next_slice(1000)
        for letter in [*letters, *([EOS] if then_eos else [])]:
            if self.sequence.finished:
                break
            self.sequence.accept_logits(likeliest(letter))
            self.sequence.next_slice(1)
        return self

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.deltas[-1].finish_reason if self.deltas else None
