"""What the page costs: in a browser, and for many visitors beside the API.

`python bench/page.py [--visitors N] [--rounds N] [--json]` starts `app.py` with the embedded
default. In Chromium it measures how soon the page can be used, how soon a chat of 200 messages
shows, and what travels while a reply streams. Then so many visitors ask at once, in turns through
the page (Gradio's queue, without browsers, which would take the model's cores) and through the API,
the same questions with the same settings. `--help` has the rest.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

# Started as a script, Python only looks beside it.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.browser import Opened, look
from bench.ending import told
from bench.flags import Parser, positive
from bench.machine import machine
from bench.peers.ours import Ours
from bench.questions import story
from bench.rounds import Say, to_stderr
from bench.stage import embedded_stage
from bench.streaming import ask_all
from bench.visitor import Heard, Visitor

VISITORS, ROUNDS, TOKENS = 20, 3, 128
SAMPLING = {"temperature": 0, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1}
CONTROLS = {"Temperature": 0, "Longest reply in tokens": TOKENS}
SETTLE_SECONDS = 0.5  # after a new chat was asked for


def main() -> int:
    return told(_figures)


def _figures() -> str:
    given = _parser().given(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="linly-bench-") as scratch:
        figures = measure(Path(scratch), given["visitors"], given["rounds"], to_stderr)
    return json.dumps(figures) if given["json"] else table(figures)


def _parser() -> Parser:
    about = (__doc__ or "").split("\n\n")[0]
    parser = Parser(prog="bench/page.py", description=about, allow_abbrev=False)
    add = parser.add_argument
    add("--visitors", type=positive, default=VISITORS, metavar="N", help="at once (20)")
    add("--rounds", type=positive, default=ROUNDS, metavar="N", help="default: 3")
    add("--json", action="store_true", help="print JSON instead of a table")
    return parser


def measure(scratch: Path, visitors: int, rounds: int, say: Say) -> dict[str, float]:
    """All of it: medians over the rounds."""
    server = Ours(embedded_stage(scratch), ("--max_sequences", str(visitors)))
    try:
        say(f"starting {server.start()} on {machine()} …")
        opened = [look(server.address, say) for _ in range(rounds)]
        crowd = _crowd(server.address, visitors, rounds, say)
    finally:
        server.stop()
    return {**_opened(opened), **crowd}


def _opened(runs: Sequence[Opened]) -> dict[str, float]:
    keys = Opened.__dataclass_fields__
    return {key: round(median(getattr(run, key) for run in runs), 3) for key in keys}


def _crowd(address: str, visitors: int, rounds: int, say: Say) -> dict[str, float]:
    tabs = [Visitor(address, CONTROLS) for _ in range(visitors)]
    page: list[float] = []
    api: list[float] = []
    heard: list[Heard] = []
    for number in range(rounds + 1):  # the first is for warming up
        first = number * 2 * visitors
        api.append(_through_api(address, [story(first + i) for i in range(visitors)]))
        speed, heard = _through_page(tabs, [story(first + visitors + i) for i in range(visitors)])
        page.append(speed)
        say(f"{visitors} visitors: {api[-1]:.0f} tokens/s by the API, {speed:.0f} by the page")
    for tab in tabs:
        tab.close()
    ratios = [ours / theirs for ours, theirs in zip(page[1:], api[1:], strict=True)]
    sizes = [size for one in heard for size in one.sizes]
    return {
        "api_tokens_per_second": round(median(api[1:]), 1),
        "page_tokens_per_second": round(median(page[1:]), 1),
        "page_over_api": round(median(ratios), 3),
        "crowd_updates_per_second": round(median(one.updates_per_second for one in heard), 2),
        "crowd_bytes_an_update": round(median(sizes), 1),
    }


def _through_api(address: str, questions: Sequence[str]) -> float:
    """Tokens a second of all together."""
    bodies = [
        {"messages": [{"role": "user", "content": q}], "max_tokens": TOKENS, **SAMPLING}
        for q in questions
    ]
    began = time.perf_counter()
    replies = ask_all(address, bodies)
    return sum(reply.tokens for reply in replies) / (time.perf_counter() - began)


def _through_page(tabs: Sequence[Visitor], questions: Sequence[str]) -> tuple[float, list[Heard]]:
    """The same, and what each visitor heard."""
    for tab in tabs:
        tab.new_chat()
    time.sleep(SETTLE_SECONDS)
    heard: dict[int, Heard] = {}

    def ask(number: int) -> None:
        heard[number] = tabs[number].ask(questions[number])

    threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(len(tabs))]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    return sum(one.tokens for one in heard.values()) / seconds, list(heard.values())


WORDS = {
    "usable": ("page usable after opening", "s"),
    "long_chat": ("a chat of 200 messages, from its link", "s"),
    "switched": ("and from the side bar", "s"),
    "updates_per_second": ("updates while one reply streams", "a second"),
    "bytes_an_update": ("each of", "bytes"),
    "tokens_per_second": ("of a reply at", "tokens/s"),
    "api_tokens_per_second": ("all visitors through the API", "tokens/s"),
    "page_tokens_per_second": ("all visitors through the page", "tokens/s"),
    "page_over_api": ("page over API", ""),
    "crowd_updates_per_second": ("updates of each visitor", "a second"),
    "crowd_bytes_an_update": ("each of", "bytes"),
}


def table(figures: Mapping[str, float]) -> str:
    """A line a figure."""
    lines = [f"{words:40} {figures[key]:10g} {unit}" for key, (words, unit) in WORDS.items()]
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
