"""Measures the chat store: how long imports, exports and searches take, and what they delay.

`python bench/store.py [--chats N] [--messages N] [--rounds N] [--database_url URL] [--json]` works
on a new SQLite file, or in a PostgreSQL database that it fills. `gap` is the longest time for which
an event loop in the main thread did not run, `save wait` the longest time that saving a reply took
meanwhile. Each figure is the best of the rounds, so that a busy machine disturbs it less.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

# A script's import path begins with its own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import common
from bench.common import seconds_of
from model.sampling import Sampling
from model.types import FinishReason
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

TEXTS = (
    "The quick brown fox jumps over the lazy dog. " * 12,
    "敏捷的棕色狐狸跳过了懒狗。" * 40,
    "Über größere Füße läuft élan. " * 17,
)
LENGTH = 500  # characters of a message
QUERIES = {"ascii": "zebra", "chinese": "找不到", "accented": "nicht übrig"}  # without matches
PAUSE_SECONDS = 0.002  # between two saves, and between two runs of the event loop
BENCH = "bench"  # owner of the rows, and the server that saves them


@common.script
def main() -> int:
    parser = common.script_parser("store", __doc__, rounds=3)
    common.add_number(parser, "chats", 500)
    common.add_number(parser, "messages", 50, "of each chat")
    parser.add_argument(
        "--database_url",
        metavar="URL",
        help="PostgreSQL database to measure (default: an SQLite file)",
    )
    args = parser.read(sys.argv[1:])
    database = "PostgreSQL" if args.database_url else "SQLite"
    with (
        tempfile.TemporaryDirectory(prefix="linly-bench-") as scratch,
        closing(open_store(Path(scratch), args.database_url)) as opened,
    ):
        figures = measure_store(opened.store, args.chats, args.messages, args.rounds)
    conditions = {"machine": common.machine(), "database": database}
    return common.print_figures({**conditions, **figures}, args.json, table)


def measure_store(
    store: ChatStore, chats: int, messages: int, rounds: int
) -> dict[str, Mapping[str, float]]:
    """Every job's figures in milliseconds, and the size of the file that is imported."""
    owner = f"{BENCH}:{uuid.uuid4().hex}"
    store.import_chats(owner, generate_chats(chats, messages))
    file = "".join(export_chats(store, owner))
    long = store.import_chats(owner, generate_chats(1, 1000))[0].id
    jobs: dict[str, Callable[[], object]] = {
        "import": lambda: store.import_chats(f"{BENCH}:{uuid.uuid4().hex}", read_chats(file)),
        "export": lambda: sum(map(len, export_chats(store, owner))),
        "messages_1000": lambda: store.messages(owner, long),
        "check": store.check,
        **{f"search_{name}": partial(store.chats, owner, text) for name, text in QUERIES.items()},
    }
    figures: dict[str, Mapping[str, float]] = {"file": {"characters": len(file)}}
    for name, job in jobs.items():
        runs = [asyncio.run(_run_job(store, job)) for _ in range(rounds)]
        figures[name] = {key: min(run[key] for run in runs) for key in runs[0]}
    return figures


def generate_chats(chats: int, messages: int) -> Iterator[ImportedChat]:
    """Chats of questions and replies in several languages, with their generation runs."""
    for _ in range(chats):
        branch: list[ChatMessage] = []
        for number in range(messages):
            settings = ChatSettings("poet", sampling=Sampling(seed=number))
            run = GenerationRun(
                settings, "base", "8bit", "digest", FinishReason.STOP, 100, 90, 50, 12.5
            )
            is_reply = number % 2
            branch.append(
                ChatMessage(
                    uuid.uuid4().hex, branch[-1].id if branch else None,
                    "assistant" if is_reply else "user", TEXTS[number % len(TEXTS)][:LENGTH],
                    created=float(number), runs=(run,) * is_reply,
                )
            )  # fmt: skip
        chat = Chat(uuid.uuid4().hex, "A chat", 1.0, 1.0, branch[-1].id, ChatSettings("poet"))
        yield ImportedChat(chat, tuple(branch))


async def _run_job(store: ChatStore, job: Callable[[], object]) -> dict[str, float]:
    """Run the job in a thread, beside this event loop and a thread that saves a reply."""
    chat = store.create(f"{BENCH}:reader", "title", ChatSettings()).id
    reply = ChatMessage(uuid.uuid4().hex, None, "assistant", "", MessageState.STREAMING)
    store.add(f"{BENCH}:reader", chat, reply, BENCH)
    done = threading.Event()

    def save() -> float:
        """The longest time that saving took."""
        waits: list[float] = []
        while not waits or not done.is_set():
            waits.append(seconds_of(lambda: store.save_text(reply.id, "x" * 1000, BENCH)))
            time.sleep(PAUSE_SECONDS)
        return max(waits)

    def work() -> float:
        try:
            return seconds_of(job)
        finally:
            done.set()

    saving = asyncio.create_task(asyncio.to_thread(save))
    await asyncio.sleep(5 * PAUSE_SECONDS)  # until it saves
    working = asyncio.create_task(asyncio.to_thread(work))
    gap = await _longest_gap(working)
    seconds = {"ms": await working, "gap_ms": gap, "save_wait_ms": await saving}
    return {key: 1000 * value for key, value in seconds.items()}


async def _longest_gap(working: asyncio.Task[float]) -> float:
    """The longest time between two runs of the event loop until the task is done."""
    longest, last = 0.0, time.perf_counter()
    while not working.done():
        await asyncio.sleep(PAUSE_SECONDS)
        now = time.perf_counter()
        longest, last = max(longest, now - last - PAUSE_SECONDS), now
    return longest


def table(figures: common.Figures) -> str:
    keys = ("ms", "gap_ms", "save_wait_ms")
    rows = [["", *(key.replace("_", " ") for key in keys)]]
    for name, job in figures.items():
        if isinstance(job, Mapping) and "ms" in job:
            rows.append([name, *(f"{job[key]:.1f}" for key in keys)])
    return common.format_table(rows)


if __name__ == "__main__":
    sys.exit(main())
