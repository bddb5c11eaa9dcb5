"""Draft tokens from earlier text of the same sequence (prompt lookup decoding, Saxena 2023).

Where a reply repeats or quotes, one forward checks several tokens at once. A draft only decides
which tokens are computed: the reply does not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence

# By how many tokens must match: how many of those that followed them are proposed.
NGRAM_TO_DRAFT_LEN = {3: 5, 2: 2, 1: 1}


class PromptLookup:
    """Finds where the last tokens of `tokens`, a list that grows, occurred before."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> where its last occurrence ends
        self._indexed = 0

    def propose(self, max_tokens: int, min_match: int = 1) -> tuple[int, ...]:
        """Up to `max_tokens` tokens that may follow; none unless at least `min_match` match."""
        tokens = self._tokens
        end = len(tokens)
        for at in range(self._indexed, end):
            for length in NGRAM_TO_DRAFT_LEN:
                if at >= length:
                    self._after[tuple(tokens[at - length : at])] = at
        self._indexed = end
        for length, draft_length in NGRAM_TO_DRAFT_LEN.items():
            start = self._after.get(tuple(tokens[-length:]))
            if start is not None and length >= min_match:
                return tuple(tokens[start : start + min(draft_length, max_tokens)])
        return ()
