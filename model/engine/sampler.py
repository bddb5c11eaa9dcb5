"""Chooses the next token of one sequence from its logits.

Logits are changed in vLLM's order: bias, repetition penalty (Keskar et al. 2019), OpenAI's
frequency and presence penalties. The filters and their order are transformers': temperature, top-k,
top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024). They look at a few hundred of the
likeliest tokens; the vocabulary is sorted only where top-p needs more.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.sampling import Sampling

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]

NEG_INF = np.float32(-np.inf)
TOP_CANDIDATES = 256  # tokens; usually top-p needs no more
LARGEST_COLUMNS = 1024  # see `largest`


@dataclass(frozen=True)
class Choice:
    """The chosen token; if `logprobs` are requested, with its own and the likeliest tokens' (id,
    logprob)."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """One sequence's sampler, with a generator of its own: the seed alone decides the reply.

    Args:
        sampling: temperature, filters, penalties, seed.
        prompt_ids: seen tokens for the repetition penalty.
        eos_ids: never chosen before `min_tokens`, nor ever with `ignore_eos`, which does not hold
            for `stop_token_ids`.
        vocab_size: ids from here on have embeddings but no text, and are never chosen.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt_ids: Sequence[int],
        eos_ids: frozenset[int],
        vocab_size: int,
    ) -> None:
        self.sampling = sampling
        self.seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        self._random = random.Random(self.seed)  # noqa: S311 (nothing secret)
        self._seen = set(prompt_ids) if sampling.repetition_penalty != 1 else set()
        self._chosen: Counter[int] = Counter()  # stays empty without penalties on it
        self._counts_chosen = bool(sampling.presence_penalty or sampling.frequency_penalty)
        self._bias = dict(sampling.logit_bias)
        stop_ids = frozenset(sampling.stop_token_ids)
        ignored = eos_ids - stop_ids if sampling.ignore_eos else ()
        self._ignored_ids = [i for i in ignored if i < vocab_size]
        self._end_ids = [i for i in eos_ids | stop_ids if i < vocab_size]
        self._vocab_size = vocab_size
        self._count = 0

    def choose(self, logits: Floats) -> Choice:
        """The next token for `logits` [vocab_size], which may be changed."""
        row = logits[: self._vocab_size]
        is_too_early = self._count < self.sampling.min_tokens
        if banned := self._end_ids if is_too_early else self._ignored_ids:
            row[banned] = NEG_INF
        logprobs = None if self.sampling.logprobs is None else _log_softmax(row)
        self._penalize(row)
        token_id = self._pick(row)
        self._count += 1
        if self.sampling.repetition_penalty != 1:
            self._seen.add(token_id)
        if self._counts_chosen:
            self._chosen[token_id] += 1
        return Choice(token_id) if logprobs is None else self._with_logprobs(token_id, logprobs)

    def _penalize(self, logits: Floats) -> None:
        """Apply bias and penalties, in place."""
        if self._bias:
            logits[_ids(self._bias)] += _floats(self._bias.values())
        if self._seen:
            ids, penalty = _ids(self._seen), np.float32(self.sampling.repetition_penalty)
            seen = logits[ids]
            logits[ids] = np.where(seen > 0, seen / penalty, seen * penalty)
        if self._chosen:
            sampling, counts = self.sampling, _floats(self._chosen.values())
            penalties = counts * sampling.frequency_penalty + sampling.presence_penalty
            logits[_ids(self._chosen)] -= penalties.astype(np.float32)

    def _pick(self, logits: Floats) -> int:
        likeliest = int(logits.argmax())
        if not np.isfinite(logits[likeliest]):  # argmax finds a NaN first
            raise FloatingPointError("its output is not a number")
        if self.sampling.temperature == 0:
            return likeliest
        ids, weights = self.candidates(logits)
        cumulative = np.cumsum(weights)
        drawn = np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right")
        return int(ids[min(drawn, len(ids) - 1)])

    def candidates(self, logits: Floats) -> tuple[Ids, Doubles]:
        """Token ids that pass the filters, and their probabilities times a common factor."""
        sampling, highest = self.sampling, logits.max()
        if sampling.top_k:
            ids = largest(logits, min(sampling.top_k, len(logits)))
            weights = self._weights(logits[ids], highest)
            return self._filter(ids, weights, weights.sum())
        weights = self._weights(logits, highest)
        if sampling.top_p == 1 and sampling.min_p == 0:
            return np.arange(len(logits)), weights
        total = weights.sum()
        ids = largest(logits, min(TOP_CANDIDATES, len(logits)))
        if not self._are_enough(weights[ids], total):
            ids = largest(logits, len(logits))
        return self._filter(ids, weights[ids], total)

    def _weights(self, logits: Floats, highest: np.float32) -> Doubles:
        # Relative to the highest, and with a divisor that float32 can represent: a temperature
        # close to zero must not overflow.
        divisor = np.float32(max(self.sampling.temperature, 1e-30))
        with np.errstate(over="ignore", under="ignore"):
            return np.exp((logits - highest) / divisor).astype(np.float64)

    def _filter(self, ids: Ids, weights: Doubles, total: float) -> tuple[Ids, Doubles]:
        """Apply top-p and min-p to `ids`, likeliest first; `total` is the weight of all tokens."""
        sampling = self.sampling
        keep = weights >= sampling.min_p * weights[0]
        if sampling.top_p < 1:
            keep &= np.cumsum(weights) - weights < sampling.top_p * total
        keep[0] = True
        return ids[keep], weights[keep]

    def _are_enough(self, weights: Doubles, total: float) -> bool:
        """Whether top-p or min-p ends within these, the likeliest."""
        sampling = self.sampling
        by_sum = sampling.top_p < 1 and weights.sum() >= sampling.top_p * total
        return bool(by_sum or weights[-1] < sampling.min_p * weights[0])

    def _with_logprobs(self, token_id: int, logprobs: Floats) -> Choice:
        ids = largest(logprobs, self.sampling.logprobs or 0)
        top = tuple(zip(ids.tolist(), logprobs[ids].tolist(), strict=True))
        return Choice(token_id, float(logprobs[token_id]), top)


def largest(values: Floats, count: int) -> Ids:
    """The places of the `count` largest `values`, largest first; of equal ones the lower index."""
    if count > LARGEST_COLUMNS // 2 or len(values) < 4 * LARGEST_COLUMNS:
        return np.argsort(-values, kind="stable")[:count]
    # Cut into columns: each of the `count` best columns has a value of at least the lowest of
    # their maxima, so nothing below that can be among the largest.
    height = len(values) // LARGEST_COLUMNS
    body = values[: height * LARGEST_COLUMNS].reshape(height, LARGEST_COLUMNS)
    floor = np.partition(body.max(axis=0), -count)[-count] if count else np.inf
    ids = np.flatnonzero(values >= floor)
    return ids[np.argsort(-values[ids], kind="stable")][:count]


def _ids(values: Iterable[int]) -> Ids:
    return np.fromiter(values, np.int64)


def _floats(values: Iterable[float]) -> Floats:
    return np.fromiter(values, np.float32)


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max()
    return shifted - np.float32(np.log(np.exp(shifted).sum(dtype=np.float64)))
