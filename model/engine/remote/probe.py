"""Whether a server's tokenizer is the one that prompts are written with here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIKE = 0.5  # share of ids; fewer in common is another vocabulary, not another way to cut


@dataclass(frozen=True)
class TokenizerProbe:
    """A text with its ids, and how many ids there are."""

    ids: Sequence[int]
    vocab_size: int
    text: str

    def fits(self, told: Sequence[int]) -> bool:
        """Whether a server that cuts the text so knows the same ids.

        Tokenizers of one model may differ by a space at the beginning; those of two hardly agree
        on anything.
        """
        common = len(set(self.ids) & set(told))
        return max(told, default=0) < self.vocab_size and common >= ALIKE * len(set(self.ids))
