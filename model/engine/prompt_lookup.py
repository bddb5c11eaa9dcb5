"""Guesses at what comes next, from what came before (prompt lookup decoding, Saxena 2023).

Where a reply repeats or quotes, one forward checks several tokens at once. A guess only says which
tokens to compute: what is chosen does not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence

# How many tokens must be alike, and how many that followed them then are guessed.
REACHES = {3: 5, 2: 2, 1: 1}


class PromptLookup:
    """Finds where the end of `tokens`, a list that grows, occurred before."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self._after: dict[tuple[int, ...], int] = {}  # a few tokens -> where the last such end
        self._indexed = 0

    def propose(self, most: int, least: int = 1) -> tuple[int, ...]:
        """Up to `most` tokens that may follow; none unless `least` tokens or more are alike."""
        tokens = self._tokens
        end = len(tokens)
        for at in range(self._indexed, end):
            for length in REACHES:
                if at >= length:
                    self._after[tuple(tokens[at - length : at])] = at
        self._indexed = end
        for length, reach in REACHES.items():
            found = self._after.get(tuple(tokens[-length:]))
            if found is not None and length >= least:
                return tuple(tokens[found : found + min(reach, most)])
        return ()
