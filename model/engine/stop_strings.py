"""Stop strings: where a text ends, whatever pieces it comes in."""

from __future__ import annotations


class StopStrings:
    """Ends a text at the first stop string, and holds back what may become one.

    Args:
        stops: the stop strings.
        before: what the text follows and is out already; a stop string may begin in it.
    """

    def __init__(self, stops: tuple[str, ...], before: str = "") -> None:
        self._stops = stops
        self._held = before
        self._held = before[len(before) - self._possible_beginning() :]
        self._out = len(self._held)  # letters of what is held that must not come again

    def push(self, text: str) -> tuple[str, bool]:
        """The text that can be shown now, and whether a stop string has ended it."""
        shown, stopped = self._cut(text)
        return self._new(shown), stopped

    def _cut(self, text: str) -> tuple[str, bool]:
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
        return self._new(held)

    def _new(self, text: str) -> str:
        """`text` without what was out before."""
        out, self._out = self._out, max(0, self._out - len(text))
        return text[out:]

    def _possible_beginning(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
