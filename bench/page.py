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
from dataclasses import asdict
from pathlib import Path
from statistics import median

# A script's import path begins with its own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.common import (
    Log,
    add_number,
    comma_list,
    log_to_stderr,
    machine,
    print_figures,
    script,
    script_parser,
)
from bench.page_load import browser as browsers
from bench.page_load.many_tabs import (
    measure_crowd,
    measure_idle_tabs,
    measure_open_tabs,
    measure_reply_bytes,
    tab_counts,
)
from bench.page_load.pauses import measure_pauses
from bench.page_load.report import bars, table
from bench.serving.fixtures import running_app
from model.system_resources import allow_many_files

VISITORS, TABS = 20, 2_000
IDLE_TABS = 500
BROWSER_TABS = (20, 50)
# Short, so that a long chat's prompt does not take long in front of the browser's part.
SHORT_CONTEXT = ("--context_length", "2048")
KB, MS = 1_000, 1_000

PartFigures = dict[str, float]


@script
def main() -> int:
    parser = script_parser("page", __doc__, rounds=3)
    add_number(parser, "visitors", VISITORS, "at once")
    add_number(parser, "tabs", TABS, "the most that are opened")
    parser.add_argument(
        "--only", type=lambda text: comma_list(text, tuple(PARTS), "part"), default=tuple(PARTS),
        metavar="NAME,…", help=", ".join(PARTS),
    )  # fmt: skip
    args = parser.read(sys.argv[1:])
    allow_many_files()  # for the tabs' connections, which are this process's, too
    log_to_stderr(f"on {machine()}")
    figures: PartFigures = {}
    for name in args.only:
        log_to_stderr(f"{name} …")
        figures |= PARTS[name](args, log_to_stderr)
    return print_figures(
        {**figures, "bars": bars(figures)} if args.json else figures, args.json, table
    )


def _tabs(args: Namespace, log: Log) -> PartFigures:
    with running_app("--max_sequences", str(VISITORS)) as server:
        return asyncio.run(measure_open_tabs(server.address, tab_counts(args.tabs), log))


def _idle(args: Namespace, log: Log) -> PartFigures:
    with running_app() as server:
        count = min(args.tabs, IDLE_TABS)
        return asyncio.run(measure_idle_tabs(server.address, server.pid, count, log))


def _browser_tabs(args: Namespace, log: Log) -> PartFigures:
    good = 0
    sequences = str(max(BROWSER_TABS))
    with running_app("--max_sequences", sequences) as server, browsers.chromium() as browser:
        for count in (count for count in BROWSER_TABS if count <= args.tabs):
            good = browsers.count_streaming_tabs(browser, server.address, count, log)
            if good < count:
                break
    return {"browser_tabs": good}


def _pauses(args: Namespace, log: Log) -> PartFigures:
    return measure_pauses(args.rounds, log)


def _updates(args: Namespace, log: Log) -> PartFigures:
    new: list[float] = []
    long: list[float] = []
    with running_app(*SHORT_CONTEXT) as server, browsers.chromium() as browser:
        for _ in range(args.rounds):
            for values, messages in ((new, 0), (long, browsers.MANY_MESSAGES)):
                seconds = browsers.measure_update(browser, server.address, messages)
                values.append(seconds * MS)
            log(f"{new[-1]:.2f} ms an update in a new chat, {long[-1]:.2f} ms in a long one")
    return {
        "update_new": round(median(new), 2),
        "update_long": round(median(long), 2),
        "update_ratio": round(median(a / b for a, b in zip(long, new, strict=True)), 2),
    }


def _crowd(args: Namespace, log: Log) -> PartFigures:
    with running_app("--max_sequences", str(args.visitors)) as server:
        return asyncio.run(measure_crowd(server.address, args.visitors, args.rounds, log))


def _bytes(args: Namespace, log: Log) -> PartFigures:
    with running_app() as server:
        return asyncio.run(measure_reply_bytes(server.address, args.rounds, log))


def _opening(args: Namespace, log: Log) -> PartFigures:
    with running_app() as server, browsers.chromium() as browser:
        runs = [browsers.measure_opening(browser, server.address) for _ in range(args.rounds)]
    for run in runs:
        log(f"usable after {run.usable:.2f} s, {run.requests} requests, {run.script_bytes} bytes")
    return {
        "usable": round(median(run.usable for run in runs), 2),
        "requests": median(run.requests for run in runs),
        "script_bytes": round(median(run.script_bytes for run in runs) / KB, 1),
    }


def _look(args: Namespace, log: Log) -> PartFigures:
    with running_app() as server, browsers.chromium() as browser:
        visits = [
            asdict(browsers.measure_visit(browser, server.address, log)) for _ in range(args.rounds)
        ]
    return {key: round(median(visit[key] for visit in visits), 3) for key in visits[0]}


PARTS: dict[str, Callable[[Namespace, Log], PartFigures]] = {
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
