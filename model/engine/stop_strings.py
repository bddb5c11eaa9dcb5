"""Ends a streamed text at its first stop string, wherever the stream is split."""

from __future__ import annotations


class StopStrings:
    """Ends a text at the first stop string, and holds back text that may become one.

    Args:
        stops: the stop strings.
        before: text that comes before and was shown already; a stop string may begin in it.
    """

    def __init__(self, stops: tuple[str, ...], before: str = "") -> None:
        self._stops = stops
        self._buffer = before
        self._buffer = before[len(before) - self._partial_match() :]
        self._shown_already = len(self._buffer)  # characters of `before` that are in the buffer

    def push(self, text: str) -> tuple[str, bool]:
        """The text that can be shown now, and whether a stop string has ended it."""
        shown, stopped = self._cut(text)
        return self._without_shown(shown), stopped

    def _cut(self, text: str) -> tuple[str, bool]:
        self._buffer += text
        # The stop string that is complete first counts; of two that end together the longer.
        places = [(self._buffer.find(stop), len(stop)) for stop in self._stops]
        matches = [(at + length, at) for at, length in places if at >= 0]
        if matches:
            shown, self._buffer = self._buffer[: min(matches)[1]], ""
            return shown, True
        cut = len(self._buffer) - self._partial_match()
        shown, self._buffer = self._buffer[:cut], self._buffer[cut:]
        return shown, False

    def flush(self) -> str:
        """The text that was held back, at the end of the stream."""
        text, self._buffer = self._buffer, ""
        return self._without_shown(text)

    def _without_shown(self, text: str) -> str:
        """`text` without the characters of `before`."""
        skip, self._shown_already = self._shown_already, max(0, self._shown_already - len(text))
        return text[skip:]

    def _partial_match(self) -> int:
        """Length of the longest end of the buffer with which a stop string begins."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._buffer)), 0, -1):
            if any(stop.startswith(self._buffer[-length:]) for stop in self._stops):
                return length
        return 0
