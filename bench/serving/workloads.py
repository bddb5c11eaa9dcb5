"""The workloads: each one sends a peer requests and returns the values of its metrics.

A server answers a prompt that it has cached at once, which would hide the time to the first token.
So no prompt comes twice in a run, all peers get the same ones, and nothing is random.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from statistics import mean

from bench.peers.base import Peer, Question, Turn

MIXED = (None, 0, 1, 2)  # the base and three adapters
CHAT_TOKENS = 40
PER_ROUND = 64  # prompts that a round may use, all workloads together
SPEED, DELAY = "tokens/s", "s"

WORDS = """
sailor widow smith painter doctor farmer soldier singer baker hunter judge monk
old proud quiet hungry clever tired lonely brave stubborn gentle careless poor
harbour desert valley forest market castle island mill garden tower bridge cave
"""
WHO, HOW, WHERE = (line.split() for line in WORDS.strip().splitlines())
HEROES = tuple(product(HOW, WHO, WHERE))
STRIDE = 611  # has no factor in common with the number of heroes, so each comes before any repeats
STORY = (
    "Tell the story of a {} {} from a {}: how it begins in a hard winter, who helps, "
    "what goes wrong on the way, and what everybody remembers of it many years later."
)
TOPICS = (
    "how people there earned their bread",
    "what the houses looked like inside",
    "who made the laws and who broke them",
    "how the children were taught",
    "what was eaten on feast days",
    "how news came from far away",
    "what the old people were afraid of",
    "how it all came to an end",
)
# About sixty words with the topic.
CHAT_TURN = (
    "Thinking of the {} {} and of that {}, please tell me now {}. Be as exact as "
    "you can, name the people and the places, say what it cost and how long it took, mention what "
    "a visitor would have seen, heard and smelled there on an ordinary morning, and end with one "
    "thing that hardly anybody knows today."
)


def unique_prompt(number: int) -> str:
    """The prompt `number`, of about forty words, which begins differently from its neighbours."""
    return STORY.format(*_hero(number))


def chat_prompts(number: int) -> list[str]:
    """The user's side of the chat `number`: eight prompts of about sixty words."""
    return [CHAT_TURN.format(*_hero(number), topic) for topic in TOPICS]


def _hero(number: int) -> tuple[str, str, str]:
    return HEROES[number * STRIDE % len(HEROES)]


@dataclass(frozen=True)
class Round:
    """One turn of a peer in a workload: the round's number and the replies' length in tokens.

    `first_prompt` is where the workload's prompts begin among those of the round.
    """

    number: int
    tokens: int
    first_prompt: int = 0

    @property
    def start(self) -> int:
        return self.number * PER_ROUND + self.first_prompt

    def question(self, number: int, adapter: int | None = None) -> Question:
        """The workload's question `number` in this round."""
        turn = Turn("user", unique_prompt(self.start + number))
        return Question((turn,), self.tokens, adapter)


@dataclass(frozen=True)
class Metric:
    """A figure in `tokens/s`, where more is better, or in `s`, where less is."""

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
    run: Callable[[Peer, Round], list[float]]
    first_prompt: int = 0

    def suits(self, peer: Peer) -> bool:
        return self.users <= peer.max_users and self.adapters <= peer.max_adapters

    def measure(self, peer: Peer, round_number: int, tokens: int) -> list[float]:
        return self.run(peer, Round(round_number, tokens, self.first_prompt))


def warm_up(peer: Peer) -> None:
    """Let the peer compile, allocate and read what it needs, for every size of a batch."""
    warm = Round(number=-1, tokens=4)
    mixed = [None, *range(min(3, peer.max_adapters))]
    for users in (count for count in (1, 4, 12) if count <= peer.max_users):
        peer.ask([warm.question(user, mixed[user % len(mixed)]) for user in range(users)])
        peer.ask([warm.question(user + 20) for user in range(users)])
    for adapter in range(peer.max_adapters):  # the first use reads it from the disk
        peer.ask([warm.question(50 + adapter, adapter)])


def single_user(peer: Peer, turn: Round) -> list[float]:
    """Tokens a second after the first one: on the base, then on an adapter."""
    return [peer.ask([turn.question(n, adapter)])[0].speed for n, adapter in enumerate((None, 0))]


def concurrent_users(peer: Peer, turn: Round, adapters: Sequence[int | None]) -> list[float]:
    """All users' tokens over the time until the last one ends, and the mean first token."""
    questions = [turn.question(number, adapter) for number, adapter in enumerate(adapters)]
    began = time.perf_counter()
    replies = peer.ask(questions)
    seconds = time.perf_counter() - began
    return [sum(r.tokens for r in replies) / seconds, mean(r.first for r in replies)]


def chat(peer: Peer, turn: Round) -> list[float]:
    """Seconds to the first token of a chat's last turn; the peer may have cached the others."""
    turns: list[Turn] = []
    first = 0.0
    for text in chat_prompts(turn.start):
        turns.append(Turn("user", text))
        reply = peer.ask([Question(tuple(turns), CHAT_TOKENS, exact=False)])[0]
        turns.append(Turn("assistant", reply.text))
        first = reply.first
    return [first]


def busy(peer: Peer, turn: Round) -> list[float]:
    """Tokens a second of one user on the base, while another process keeps a core busy."""
    with _busy_core():
        return [peer.ask([turn.question(0)])[0].speed]


@contextmanager
def _busy_core() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)  # until it has started
        yield
    finally:
        process.kill()
        process.wait()


def _crowd(name: str, title: str, first_prompt: int, adapters: tuple[int | None, ...]) -> Workload:
    """Users who ask at the same time, one for each entry of `adapters`."""
    metrics = (
        Metric(f"{name}/together", title, SPEED),
        Metric(f"{name}/first", f"{title}: first token", DELAY),
    )
    needed = max((adapter + 1 for adapter in adapters if adapter is not None), default=0)

    def run(peer: Peer, turn: Round) -> list[float]:
        return concurrent_users(peer, turn, adapters)

    return Workload(name, len(adapters), needed, metrics, run, first_prompt)


ONE = (Metric("one/base", "1 user, base", SPEED), Metric("one/adapter", "1 user, adapter", SPEED))
CHAT = (Metric("chat/first", "turn 8 of a chat: first token", DELAY),)
BUSY = (Metric("busy/base", "1 user, base, one core busy", SPEED),)
ALL = (
    Workload("one", 1, 1, ONE, single_user, 0),
    _crowd("four", "4 users, base + 3 adapters", 2, MIXED),
    _crowd("twelve", "12 users, base + 3 adapters", 6, MIXED * 3),
    _crowd("twelve_base", "12 users, base", 18, (None,) * 12),
    _crowd("twelve_adapters", "12 users, 12 adapters", 30, tuple(range(12))),
    Workload("chat", 1, 0, CHAT, chat, 42),
    Workload("busy", 1, 0, BUSY, busy, 43),
)
NAMES = tuple(workload.name for workload in ALL)
