"""Decodes a reply's tokens into text, one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "�"  # what incomplete bytes decode to
CONTEXT_TOKENS = 6  # of the prompt, so that the first token is decoded as in the middle of a text
# No character takes more tokens, so after these the bytes will not become text.
MAX_PENDING_TOKENS = 8


class IncrementalDetokenizer:
    """Decodes tokens one by one into text that is certain.

    A character that is split over several tokens comes out complete, with the last of them. Each
    token decodes a short window again, which starts where the last certain text began, so that a
    tokenizer's rules about spaces see the text before.

    Args:
        decode: ids to text.
        token_bytes: one id to its bytes.
        prompt_ids: the ids before the reply; only the last few matter.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        token_bytes: Callable[[int], bytes],
        prompt_ids: Sequence[int] = (),
    ) -> None:
        self._decode = decode
        self.token_bytes = token_bytes
        self._window = list(prompt_ids[-CONTEXT_TOKENS:])
        self._certain = len(self._window)
        self._before = self._decode(self._window)  # the text of the certain tokens alone
        self._returned = 0  # characters after it that `push` has returned
        self._pending = 0  # tokens since `push` last returned text

    def push(self, token_id: int) -> str:
        """The text that the token completes; empty while a character is incomplete."""
        self._window.append(token_id)
        self._pending += 1
        text = self._new_text()
        complete = text.rstrip(REPLACEMENT)
        incomplete = complete != text and self._pending < MAX_PENDING_TOKENS
        new = (complete if incomplete else text)[self._returned :]
        if new:
            self._pending = 0
        if incomplete:
            self._returned += len(new)
        elif text:
            self._start_at(self._window[self._certain :])
        return new

    def flush(self) -> str:
        """The remaining text when the reply ends; an incomplete character is dropped."""
        text = self._new_text().rstrip(REPLACEMENT)[self._returned :]
        self._start_at(self._window)
        return text

    def _start_at(self, window: list[int]) -> None:
        """Continues after the tokens of `window`, whose text is certain."""
        self._window, self._certain, self._returned = window, len(window), 0
        self._before = self._decode(window)

    def _new_text(self) -> str:
        return self._decode(self._window)[len(self._before) :]
