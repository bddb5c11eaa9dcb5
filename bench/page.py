"""Measures what the page costs: in a browser, for many open tabs, and beside the API.

`python bench/page.py [--visitors N] [--tabs N] [--rounds N] [--only NAME,…] [--json]` starts
`app.py` with the embedded default, anew for each part, and prints each figure with its bars. The
parts:

- `tabs`: how many open tabs are drawn and answered; `idle`: what open and closed ones cost;
- `browser_tabs`: how many tabs of one browser stream;
- `pauses`: how long the event loop pauses during a visitor's expensive actions;
- `updates`: the browser's time for an update, in a new chat and in a long one;
- `crowd`: visitors at once through the page and through the API, in turns, without browsers, which
  would take the model's cores;
- `bytes`: what a tab receives for a reply;
- `opening`: what the page loads until it is usable; `look`: long chats, and a stream's updates.

`--help` lists the flags.
"""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# A script's import path begins with its own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import common
from bench.page_load import browser as browsers
from bench.page_load.many_tabs import (
    measure_crowd,
    measure_idle_tabs,
    measure_open_tabs,
    measure_reply_bytes,
    tab_counts,
)
from bench.page_load.pauses import measure_pauses
from bench.serving.fixtures import running_app
from model.system_resources import allow_many_files

VISITORS, TABS = 20, 2_000
IDLE_TABS = 500
BROWSER_TABS = (20, 50)
# Short, so that a long chat's prompt does not take long in front of the browser's part.
SHORT_CONTEXT = ("--context_length", "2048")
MS = 1_000

# Measured by `measure_opening` of `page_load/browser.py` while Gradio's queue carried everything.
REQUESTS_BEFORE = 135
SCRIPT_KB_BEFORE = 479

PartFigures = dict[str, float]


@common.script
def main() -> int:
    parser = common.script_parser("page", __doc__, rounds=3)
    common.add_number(parser, "visitors", VISITORS, "at once")
    common.add_number(parser, "tabs", TABS, "the most that are opened")
    common.add_names(parser, "only", tuple(PARTS), "part")
    args = parser.read(sys.argv[1:])
    allow_many_files()  # for the tabs' connections, which are this process's, too
    common.log(f"on {common.machine()}")
    figures: PartFigures = {}
    for name in args.only:
        common.log(f"{name} …")
        figures |= PARTS[name](args)
    return common.print_figures(
        {**figures, "bars": bars(figures)} if args.json else figures, args.json, table
    )


def _tabs(args: Namespace) -> PartFigures:
    with running_app("--max_sequences", str(VISITORS)) as server:
        return asyncio.run(measure_open_tabs(server.address, tab_counts(args.tabs)))


def _idle(args: Namespace) -> PartFigures:
    with running_app() as server:
        count = min(args.tabs, IDLE_TABS)
        return asyncio.run(measure_idle_tabs(server.address, server.pid, count))


def _browser_tabs(args: Namespace) -> PartFigures:
    good = 0
    sequences = str(max(BROWSER_TABS))
    with running_app("--max_sequences", sequences) as server, browsers.chromium() as browser:
        for count in (count for count in BROWSER_TABS if count <= args.tabs):
            good = browsers.count_streaming_tabs(browser, server.address, count)
            if good < count:
                break
    return {"browser_tabs": good}


def _pauses(args: Namespace) -> PartFigures:
    return measure_pauses(args.rounds)


def _updates(args: Namespace) -> PartFigures:
    runs = []
    with running_app(*SHORT_CONTEXT) as server, browsers.chromium() as browser:
        for _ in range(args.rounds):
            new, long = (
                MS * browsers.measure_update(browser, server.address, messages)
                for messages in (0, browsers.MANY_MESSAGES)
            )
            common.log(f"{new:.2f} ms an update in a new chat, {long:.2f} ms in a long one")
            runs.append({"update_new": new, "update_long": long, "update_ratio": long / new})
    return common.medians(runs, 2)


def _crowd(args: Namespace) -> PartFigures:
    with running_app("--max_sequences", str(args.visitors)) as server:
        return asyncio.run(measure_crowd(server.address, args.visitors, args.rounds))


def _bytes(args: Namespace) -> PartFigures:
    with running_app() as server:
        return asyncio.run(measure_reply_bytes(server.address, args.rounds))


def _opening(args: Namespace) -> PartFigures:
    with running_app() as server, browsers.chromium() as browser:
        runs = [browsers.measure_opening(browser, server.address) for _ in range(args.rounds)]
        return common.medians(runs, 2)


def _look(args: Namespace) -> PartFigures:
    with running_app() as server, browsers.chromium() as browser:
        runs = [browsers.measure_visit(browser, server.address) for _ in range(args.rounds)]
        return common.medians(runs, 3)


PARTS: dict[str, Callable[[Namespace], PartFigures]] = {
    "tabs": _tabs,
    "idle": _idle,
    "browser_tabs": _browser_tabs,
    "pauses": _pauses,
    "updates": _updates,
    "crowd": _crowd,
    "bytes": _bytes,
    "opening": _opening,
    "look": _look,
}


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


def table(figures: PartFigures) -> str:
    """A line for each figure, with its bar."""
    lines = [_line(figure, figures[key]) for key, figure in FIGURES.items() if key in figures]
    return "\n".join(line.rstrip() for line in lines)


def bars(figures: PartFigures) -> dict[str, dict[str, float | str]]:
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


if __name__ == "__main__":
    sys.exit(main())
