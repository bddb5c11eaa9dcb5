"""What is measured: each workload asks a peer something and returns its metrics' values."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import mean

from bench.peers.base import Peer, Question, Turn
from bench.questions import chat_turns, story

MIXED = (None, 0, 1, 2)  # the base and three adapters
CHAT_TOKENS = 40
PER_ROUND = 64  # questions that a round may ask, of all workloads together
SPEED, DELAY = "tokens/s", "s"


@dataclass(frozen=True)
class Load:
    """One turn of a peer: which round it is, and how long replies are, in tokens."""

    round: int
    tokens: int
    first_question: int = 0

    def question(self, number: int, adapter: int | None = None) -> Question:
        """The `number`-th question of this workload in this round."""
        place = self.round * PER_ROUND + self.first_question + number
        return Question((Turn("user", story(place)),), self.tokens, adapter)


@dataclass(frozen=True)
class Metric:
    """A figure: `tokens/s` is better the more, seconds the fewer."""

    key: str
    title: str
    unit: str

    @property
    def more_is_better(self) -> bool:
        return self.unit == SPEED


@dataclass(frozen=True)
class Workload:
    """`run` returns one value for each of `metrics`. It needs so many users and adapters."""

    name: str
    users: int
    adapters: int
    metrics: tuple[Metric, ...]
    run: Callable[[Peer, Load], list[float]]
    first_question: int = 0

    def suits(self, peer: Peer) -> bool:
        return self.users <= peer.most_users and self.adapters <= peer.most_adapters

    def measure(self, peer: Peer, round_: int, tokens: int) -> list[float]:
        """One turn of `peer`."""
        return self.run(peer, Load(round_, tokens, self.first_question))


def warm_up(peer: Peer) -> None:
    """Let the peer compile, allocate and read what it does the first time, in every shape."""
    users = (1, 4, 12)
    load = Load(round=-1, tokens=4)
    for number in (count for count in users if count <= peer.most_users):
        mixed = [None, *range(min(3, peer.most_adapters))]
        peer.ask([load.question(user, mixed[user % len(mixed)]) for user in range(number)])
        peer.ask([load.question(user + 20, None) for user in range(number)])
    for adapter in range(peer.most_adapters):  # what is read from disk once is no speed
        peer.ask([load.question(50 + adapter, adapter)])


def one(peer: Peer, load: Load) -> list[float]:
    """Tokens a second after the first one: the base, then an adapter."""
    return [peer.ask([load.question(n, adapter)])[0].speed for n, adapter in enumerate((None, 0))]


def together(peer: Peer, load: Load, adapters: Sequence[int | None]) -> list[float]:
    """All users' tokens over the time until the last one has them, and the mean first token."""
    questions = [load.question(number, adapter) for number, adapter in enumerate(adapters)]
    began = time.perf_counter()
    replies = peer.ask(questions)
    seconds = time.perf_counter() - began
    return [sum(r.tokens for r in replies) / seconds, mean(r.first for r in replies)]


def chat(peer: Peer, load: Load) -> list[float]:
    """Seconds to the first token of the last turn, whatever the peer has kept of the others."""
    turns: list[Turn] = []
    first = 0.0
    for text in chat_turns(load.round * PER_ROUND + load.first_question):
        turns.append(Turn("user", text))
        reply = peer.ask([Question(tuple(turns), CHAT_TOKENS, exact=False)])[0]
        turns.append(Turn("assistant", reply.text))
        first = reply.first
    return [first]


def busy(peer: Peer, load: Load) -> list[float]:
    """Tokens a second of one user on the base, beside a process that never rests."""
    with busy_core():
        return [peer.ask([load.question(0)])[0].speed]


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy meanwhile."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)  # until it has begun
        yield
    finally:
        process.kill()
        process.wait()


def _crowd(
    name: str, title: str, first_question: int, adapters: tuple[int | None, ...]
) -> Workload:
    """Users who ask at the same time, one for each entry of `adapters`."""
    metrics = (
        Metric(f"{name}/together", title, SPEED),
        Metric(f"{name}/first", f"{title}: first token", DELAY),
    )
    needed = max((adapter + 1 for adapter in adapters if adapter is not None), default=0)

    def run(peer: Peer, load: Load) -> list[float]:
        return together(peer, load, adapters)

    return Workload(name, len(adapters), needed, metrics, run, first_question)


ONE = (Metric("one/base", "1 user, base", SPEED), Metric("one/adapter", "1 user, adapter", SPEED))
CHAT = (Metric("chat/first", "turn 8 of a chat: first token", DELAY),)
BUSY = (Metric("busy/base", "1 user, base, one core busy", SPEED),)
ALL = (
    Workload("one", 1, 1, ONE, one, 0),
    _crowd("four", "4 users, base + 3 adapters", 2, MIXED),
    _crowd("twelve", "12 users, base + 3 adapters", 6, MIXED * 3),
    _crowd("twelve_base", "12 users, base", 18, (None,) * 12),
    _crowd("twelve_adapters", "12 users, 12 adapters", 30, tuple(range(12))),
    Workload("chat", 1, 0, CHAT, chat, 42),
    Workload("busy", 1, 0, BUSY, busy, 43),
)
NAMES = tuple(workload.name for workload in ALL)
