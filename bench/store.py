"""Measures the chat store: how long imports, exports and searches take, and what they hold up.

`python bench/store.py [--chats N] [--messages N] [--rounds N] [--database_url URL] [--json]` works
on a new SQLite file, or in a PostgreSQL database that it fills. `gap` is the longest time for which
an event loop in the main thread did not get its turn, `wait` how long a reply's save took at the
most meanwhile. Each figure is the best of the rounds, so that a busy machine disturbs it less.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

# Started as a script, Python only looks beside it.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.ending import told
from bench.flags import Parser, positive
from bench.machine import machine
from model.types import FinishReason, Sampling
from web.chats.open_store import open_store
from web.chats.store.chat_store import ChatStore
from web.chats.store.models import (
    Chat,
    ChatMessage,
    ChatSettings,
    GenerationRun,
    ImportedChat,
    MessageState,
)
from web.chats.transfer.export import export_chats
from web.chats.transfer.import_file import read_chats

CHATS, MESSAGES, ROUNDS = 500, 50, 3
TEXTS = (
    "The quick brown fox jumps over the lazy dog. " * 12,
    "敏捷的棕色狐狸跳过了懒狗。" * 40,
    "Über größere Füße läuft élan. " * 17,
)
LENGTH = 500  # characters of a message
QUERIES = {"ascii": "zebra", "chinese": "找不到", "accented": "nicht übrig"}  # that nothing holds
PAUSE_SECONDS = 0.002  # between two saves, and two turns of the event loop
Figures = dict[str, Mapping[str, float]]


def main() -> int:
    return told(_figures)


def _figures() -> str:
    given = _parser().given(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="linly-bench-") as scratch:
        keeping = open_store(Path(scratch), given["database_url"])
        with closing(keeping):
            figures = measure(keeping.store, given["chats"], given["messages"], given["rounds"])
    told_of = {
        "machine": machine(),
        "database": "PostgreSQL" if given["database_url"] else "SQLite",
    }
    return json.dumps(told_of | figures) if given["json"] else table(figures)


def _parser() -> Parser:
    about = (__doc__ or "").split("\n\n")[0]
    parser = Parser(prog="bench/store.py", description=about, allow_abbrev=False)
    add = parser.add_argument
    add("--chats", type=positive, default=CHATS, metavar="N", help=f"default: {CHATS}")
    add("--messages", type=positive, default=MESSAGES, metavar="N",
        help=f"of each chat; default: {MESSAGES}")  # fmt: skip
    add("--rounds", type=positive, default=ROUNDS, metavar="N", help=f"default: {ROUNDS}")
    add("--database_url", metavar="URL", help="a PostgreSQL database in place of a file")
    add("--json", action="store_true", help="print JSON instead of a table")
    return parser


def measure(store: ChatStore, chats: int, messages: int, rounds: int) -> Figures:
    """Every figure by its name, in milliseconds."""
    owner = f"bench:{uuid.uuid4().hex}"
    store.import_chats(owner, made(chats, messages))
    file = "".join(export_chats(store, owner))
    long = store.import_chats(owner, made(1, 1000))[0].id
    jobs: dict[str, Callable[[], object]] = {
        "import": lambda: store.import_chats(f"bench:{uuid.uuid4().hex}", read_chats(file)),
        "export": lambda: sum(map(len, export_chats(store, owner))),
        "messages_1000": lambda: store.messages(owner, long),
        "check": store.check,
    }
    for name, query in QUERIES.items():
        jobs[f"search_{name}"] = lambda query=query: store.chats(owner, query)  # type: ignore[misc]
    figures: Figures = {"file": {"characters": len(file)}}
    for name, job in jobs.items():
        found = [_timed(store, job) for _ in range(rounds)]
        figures[name] = {key: min(one[key] for one in found) for key in found[0]}
    return figures


def made(chats: int, messages: int) -> Iterator[ImportedChat]:
    """Chats of questions and replies in several languages, with runs."""
    for _ in range(chats):
        said: list[ChatMessage] = []
        for at in range(messages):
            settings = ChatSettings("poet", sampling=Sampling(seed=at))
            run = GenerationRun(
                settings, "base", "8bit", "digest", FinishReason.STOP, 100, 90, 50, 12.5
            )
            parent = said[-1].id if said else None
            said.append(
                ChatMessage(
                    uuid.uuid4().hex, parent, "assistant" if at % 2 else "user",
                    TEXTS[at % len(TEXTS)][:LENGTH], created=float(at), runs=(run,) * (at % 2),
                )
            )  # fmt: skip
        chat = Chat(uuid.uuid4().hex, "A chat", 1.0, 1.0, said[-1].id, ChatSettings("poet"))
        yield ImportedChat(chat, tuple(said))


def _timed(store: ChatStore, job: Callable[[], object]) -> dict[str, float]:
    """The job in a thread, beside a reply that is saved and an event loop."""
    chat = store.create("bench:reader", "title", ChatSettings()).id
    reply = ChatMessage(uuid.uuid4().hex, None, "assistant", "", MessageState.STREAMING)
    store.add("bench:reader", chat, reply, "bench")
    seconds: list[float] = []
    saving = threading.Event()

    def work() -> None:
        saving.wait()
        time.sleep(5 * PAUSE_SECONDS)  # until the event loop runs
        began = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - began)

    worker = threading.Thread(target=work)
    waits: list[float] = []

    def save() -> None:
        try:
            while worker.is_alive():
                began = time.perf_counter()
                store.save_text(reply.id, "x" * 1000, "bench")
                waits.append(time.perf_counter() - began)
                saving.set()
                time.sleep(PAUSE_SECONDS)
        finally:
            saving.set()  # what was never saved ends the measurement, and holds up nothing

    saver = threading.Thread(target=save)
    gap = asyncio.run(_gap_beside(worker, saver))
    return {"ms": seconds[0] * 1000, "gap_ms": gap * 1000, "save_wait_ms": max(waits) * 1000}


async def _gap_beside(*threads: threading.Thread) -> float:
    """The longest time between two turns of the loop while the threads run."""
    longest, last = 0.0, time.perf_counter()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        await asyncio.sleep(PAUSE_SECONDS)
        now = time.perf_counter()
        longest, last = max(longest, now - last - PAUSE_SECONDS), now
    return longest


def table(figures: Figures) -> str:
    """For people."""
    lines = [f"{'':16}{'ms':>10}{'gap ms':>10}{'save wait ms':>14}"]
    for name, one in figures.items():
        if "ms" in one:
            lines.append(
                f"{name:16}{one['ms']:10.1f}{one['gap_ms']:10.1f}{one['save_wait_ms']:14.1f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
