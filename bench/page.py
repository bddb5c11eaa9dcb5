"""What the page costs: in a browser, for many open tabs, and for many visitors beside the API.

`python bench/page.py [--visitors N] [--tabs N] [--rounds N] [--only NAME,…] [--json]` starts
`app.py` with the embedded default, anew for each part, and prints each figure with its bars. The
parts:

- `tabs`: how many open tabs are drawn and answered; `idle`: what open and closed ones cost;
- `browser_tabs`: how many tabs of one browser stream;
- `pauses`: how long the event loop pauses while a visitor asks for much;
- `updates`: the browser's time for an update, in a new chat and in a long one;
- `crowd`: visitors at once through the page and through the API, in turns, without browsers, which
  would take the model's cores;
- `bytes`: what a tab receives for a reply;
- `opening`: what the page loads until it is usable; `look`: long chats, and a stream's updates.

`--help` has the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

# Started as a script, Python only looks beside it.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.browser import (
    MANY_MESSAGES,
    chromium,
    look,
    measure_opening,
    measure_update,
    streaming_tabs,
)
from bench.ending import told
from bench.flags import Parser, positive
from bench.machine import machine
from bench.page_load.app_server import app_server
from bench.page_load.figures import bars, table
from bench.page_load.pauses import pauses
from bench.page_load.replies import crowd, reply_bytes
from bench.page_load.tabs import idle_tabs, open_tabs, steps
from bench.rounds import Say, to_stderr
from model.system_resources import allow_many_files

VISITORS, TABS, ROUNDS = 20, 2_000, 3
IDLE_TABS = 500
BROWSER_TABS = (20, 50)
# The browser's part of a long chat must not wait for all of its tokens.
SHORT_CONTEXT = ("--context_length", "2048")
KB, MS = 1_000, 1_000

Figures = dict[str, float]


@dataclass(frozen=True)
class Options:
    """How much is measured."""

    visitors: int = VISITORS
    tabs: int = TABS
    rounds: int = ROUNDS


def main() -> int:
    return told(_figures)


def _figures() -> str:
    given = _parser().given(sys.argv[1:])
    options = Options(given["visitors"], given["tabs"], given["rounds"])
    figures = measure(given["only"], options, to_stderr)
    return json.dumps({**figures, "bars": bars(figures)}) if given["json"] else table(figures)


def _parser() -> Parser:
    about = (__doc__ or "").split("\n\n")[0]
    parser = Parser(prog="bench/page.py", description=about, allow_abbrev=False)
    add = parser.add_argument
    add("--visitors", type=positive, default=VISITORS, metavar="N", help="at once (20)")
    add("--tabs", type=positive, default=TABS, metavar="N", help="the most that are opened (2000)")
    add("--rounds", type=positive, default=ROUNDS, metavar="N", help="default: 3")
    add("--only", type=_names, default=tuple(PARTS), metavar="NAME,…", help=", ".join(PARTS))
    add("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(PARTS)}")
    return names


def measure(names: Sequence[str], options: Options, say: Say) -> Figures:
    """These parts, one after another: medians over the rounds."""
    allow_many_files()  # the tabs are its own, too
    say(f"on {machine()}")
    figures: Figures = {}
    for name in names:
        say(f"{name} …")
        figures |= PARTS[name](options, say)
    return figures


def _tabs(options: Options, say: Say) -> Figures:
    with app_server("--max_sequences", str(VISITORS)) as server:
        return asyncio.run(open_tabs(server.address, steps(options.tabs), say))


def _idle(options: Options, say: Say) -> Figures:
    with app_server() as server:
        count = min(options.tabs, IDLE_TABS)
        return asyncio.run(idle_tabs(server.address, server.pid, count, say))


def _browser_tabs(options: Options, say: Say) -> Figures:
    good = 0
    with app_server("--max_sequences", str(max(BROWSER_TABS))) as server, chromium() as browser:
        for count in (count for count in BROWSER_TABS if count <= options.tabs):
            good = streaming_tabs(browser, server.address, count, say)
            if good < count:
                break
    return {"browser_tabs": good}


def _pauses(options: Options, say: Say) -> Figures:
    return pauses(options.rounds, say)


def _updates(options: Options, say: Say) -> Figures:
    new: list[float] = []
    long: list[float] = []
    with app_server(*SHORT_CONTEXT) as server, chromium() as browser:
        for _ in range(options.rounds):
            new.append(measure_update(browser, server.address, 0) * MS)
            long.append(measure_update(browser, server.address, MANY_MESSAGES) * MS)
            say(f"{new[-1]:.2f} ms an update in a new chat, {long[-1]:.2f} ms in a long one")
    return {
        "update_new": round(median(new), 2),
        "update_long": round(median(long), 2),
        "update_ratio": round(median(a / b for a, b in zip(long, new, strict=True)), 2),
    }


def _crowd(options: Options, say: Say) -> Figures:
    with app_server("--max_sequences", str(options.visitors)) as server:
        return asyncio.run(crowd(server.address, options.visitors, options.rounds, say))


def _bytes(options: Options, say: Say) -> Figures:
    with app_server() as server:
        return asyncio.run(reply_bytes(server.address, options.rounds, say))


def _opening(options: Options, say: Say) -> Figures:
    with app_server() as server, chromium() as browser:
        runs = [measure_opening(browser, server.address) for _ in range(options.rounds)]
    for run in runs:
        say(f"usable after {run.usable:.2f} s, {run.requests} requests, {run.script_bytes} bytes")
    return {
        "usable": round(median(run.usable for run in runs), 2),
        "requests": median(run.requests for run in runs),
        "script_bytes": round(median(run.script_bytes for run in runs) / KB, 1),
    }


def _look(options: Options, say: Say) -> Figures:
    with app_server() as server, chromium() as browser:
        runs = [asdict(look(browser, server.address, say)) for _ in range(options.rounds)]
    return {key: round(median(run[key] for run in runs), 3) for key in runs[0]}


PARTS: dict[str, Callable[[Options, Say], Figures]] = {
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


if __name__ == "__main__":
    sys.exit(main())
