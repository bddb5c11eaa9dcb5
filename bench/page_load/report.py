"""The figures of `bench/page.py`: their names, units and bars, and the table that shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Measured by `measure_opening` of `browser.py` while Gradio's queue carried everything.
REQUESTS_BEFORE = 135
SCRIPT_KB_BEFORE = 479


@dataclass(frozen=True)
class Bar:
    """What a figure has to reach at least, and what it should reach."""

    least: float
    aim: float

    def verdict(self, value: float) -> str:
        """How a value compares: "aim", "met" or "missed"."""
        sign = 1 if self.aim > self.least else -1  # whether more is better
        if sign * value >= sign * self.aim:
            return "aim"
        return "met" if sign * value >= sign * self.least else "missed"


@dataclass(frozen=True)
class Figure:
    """A line of the table."""

    about: str
    unit: str = ""
    bar: Bar | None = None


ACTIONS = {
    "import": "1,000 chats are imported",
    "search": "25,000 messages are searched",
    "search_folded": "they are searched for letters beyond ASCII",
    "export": "all of them are exported",
    "open": "a chat of 1,000 messages is opened",
    "compare": "20 replies are compared",
    "idle": "nothing is asked",
}
FIGURES = {
    "open_tabs": Figure("open tabs, drawn and answered", "", Bar(500, 2_000)),
    "open_seconds": Figure("seconds until one more tab is drawn, of many", "s"),
    "browser_tabs": Figure("tabs of one browser that stream", "", Bar(20, 50)),
    "idle_tab_bytes": Figure("memory of an open idle tab", "kB", Bar(100, 30)),
    "closed_tab_bytes": Figure("memory left of a closed tab", "kB", Bar(5, 0)),
    "idle_processor": Figure("processor of 500 idle tabs", "% of a core", Bar(10, 3)),
    **{
        f"pause_{name}": Figure(
            f"event loop's longest pause while {about}", "ms",
            None if name == "idle" else Bar(50, 20),
        )
        for name, about in ACTIONS.items()
    },
    **{
        f"outside_{name}": Figure(f"longest wait for /health while {about}", "ms")
        for name, about in ACTIONS.items()
    },
    "update_new": Figure("browser's time an update, new chat", "ms"),
    "update_long": Figure("browser's time an update, 1,000 messages", "ms"),
    "update_ratio": Figure("the latter over the former", "", Bar(2, 1.1)),
    "api_tokens_per_second": Figure("all visitors through the API", "tokens/s"),
    "page_tokens_per_second": Figure("all visitors through the page", "tokens/s"),
    "page_over_api": Figure("page over API", "", Bar(0.9, 0.97)),
    "crowd_updates_per_second": Figure("updates of each visitor", "a second"),
    "crowd_bytes_an_update": Figure("each of", "bytes"),
    "reply_tokens": Figure("tokens of one reply", ""),
    "bytes_ratio": Figure("bytes on the wire over its text", "", Bar(6, 3)),
    "usable": Figure("page usable after opening", "s"),
    "requests": Figure("requests until then", "", Bar(REQUESTS_BEFORE, REQUESTS_BEFORE / 2)),
    "script_bytes": Figure(
        "bytes of scripts until then", "kB", Bar(SCRIPT_KB_BEFORE, SCRIPT_KB_BEFORE / 2)
    ),
    "long_chat": Figure("a chat of 200 messages, from its link", "s"),
    "switched": Figure("and from the side bar", "s"),
    "updates_per_second": Figure("updates while one reply streams", "a second"),
    "bytes_an_update": Figure("each of", "bytes"),
    "tokens_per_second": Figure("of a reply at", "tokens/s"),
}  # fmt: skip


def table(figures: Mapping[str, float]) -> str:
    """A line for each figure, with its bar."""
    lines = [_line(figure, figures[key]) for key, figure in FIGURES.items() if key in figures]
    return "\n".join(line.rstrip() for line in lines)


def bars(figures: Mapping[str, float]) -> dict[str, dict[str, float | str]]:
    """The bars for programs: "least", "aim" and how the value compares."""
    return {
        key: {"least": bar.least, "aim": bar.aim, "verdict": bar.verdict(value)}
        for key, value in figures.items()
        if (bar := FIGURES[key].bar) is not None
    }


def _line(figure: Figure, value: float) -> str:
    line = f"{figure.about:66} {value:10g} {figure.unit:12}"
    if figure.bar is None:
        return line
    bar = figure.bar
    return f"{line} at least {bar.least:g}, aim {bar.aim:g}: {bar.verdict(value)}"
