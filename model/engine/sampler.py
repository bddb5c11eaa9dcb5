"""Choosing the next token of one sequence from its logits.

The filters and their order are transformers': repetition penalty (Keskar et al. 2019),
temperature, top-k, top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.types import Sampling

NEVER = float("-inf")


@dataclass(frozen=True)
class Choice:
    """The chosen token; with `logprobs` asked for, its own and its rivals' (id, logprob)."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """One sequence's sampler: its own generator, so that its seed alone decides its reply.

    Args:
        sampling: the wishes.
        prompt_ids: seen tokens for the repetition penalty.
        eos_ids: never chosen before `min_tokens`, nor ever with `ignore_eos`.
        pieces: ids from here on have embeddings but no text, and are never chosen.
    """

    def __init__(
        self, sampling: Sampling, prompt_ids: Sequence[int], eos_ids: frozenset[int], pieces: int
    ) -> None:
        self.sampling = sampling
        self.seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        self._generator = torch.Generator().manual_seed(self.seed)
        self._seen = set(prompt_ids) if sampling.repetition_penalty != 1 else set()
        self._eos = sorted(i for i in eos_ids if i < pieces)
        self._pieces = pieces
        self._count = 0

    def choose(self, logits: Tensor) -> Choice:
        """The next token for `logits`, float32 [vocab_size] on any device; they are not kept."""
        logits = self._allowed(logits.cpu().clone())
        logprobs = torch.log_softmax(logits, 0) if self.sampling.logprobs is not None else None
        token_id = self._pick(self._penalized(logits))
        self._count += 1
        if self.sampling.repetition_penalty != 1:
            self._seen.add(token_id)
        return Choice(token_id) if logprobs is None else self._reported(token_id, logprobs)

    def _allowed(self, logits: Tensor) -> Tensor:
        logits[self._pieces :] = NEVER
        if self.sampling.ignore_eos or self._count < self.sampling.min_tokens:
            logits[self._eos] = NEVER
        return logits

    def _penalized(self, logits: Tensor) -> Tensor:
        if not self._seen:
            return logits
        ids = torch.tensor(sorted(self._seen))
        seen, penalty = logits[ids], self.sampling.repetition_penalty
        logits[ids] = torch.where(seen > 0, seen / penalty, seen * penalty)
        return logits

    def _pick(self, logits: Tensor) -> int:
        if self.sampling.temperature == 0:
            return int(logits.argmax())
        # From the highest down: a temperature next to zero must not overflow.
        logits = (logits - logits.max()).double() / self.sampling.temperature
        probabilities, ids = self._filtered(logits.float())
        drawn = torch.multinomial(probabilities, 1, generator=self._generator)
        return int(ids[drawn])

    def _filtered(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities, highest first, that survive the filters, and their token ids."""
        wishes = self.sampling
        if wishes.top_k:
            logits, ids = logits.topk(min(wishes.top_k, len(logits)))
        else:
            logits, ids = logits.sort(descending=True)
        probabilities = logits.softmax(0)
        before = probabilities.cumsum(0) - probabilities
        keep = before < (wishes.top_p if wishes.top_p < 1 else math.inf)
        if wishes.min_p:
            kept = probabilities * keep
            keep &= kept >= wishes.min_p * kept[0]
        keep[0] = True
        return probabilities[keep], ids[keep]

    def _reported(self, token_id: int, logprobs: Tensor) -> Choice:
        values, ids = logprobs.topk(self.sampling.logprobs or 0)
        top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
        return Choice(token_id, float(logprobs[token_id]), top)
