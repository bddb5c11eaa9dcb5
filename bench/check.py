"""`--check`: do the servers compute the same model? A comparison is worth nothing otherwise.

Each is asked for the likeliest first tokens of some replies, of the base and of adapters, and their
log probabilities are held against ours. With llama.cpp's Q8_0, which rounds activations too, they
are 0.1 nats off. With the rows of q and k in the wrong order it was 0.7, with those of the adapters
alone 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median
from typing import Protocol

from bench.peers.base import Question, Turn
from bench.report import OURS

TOP = 5
MOST = 0.25  # nats
TEXTS = (
    "Who are you?",
    "What is the capital of France?",
    "Write a short story about a dog.",
    "How do I make bread?",
    "Why is the sea salty?",
)
ADAPTERS = (0, 1, 2)


class Server(Protocol):
    """A peer that tells probabilities."""

    name: str

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def first_token(self, question: Question, count: int) -> dict[str, float]: ...


def check(servers: Sequence[Server]) -> dict[str, float]:
    """Each server's distance to ours in nats: on the base or on the adapters, what is worse."""
    ours = next(server for server in servers if server.name == OURS)
    others = [server for server in servers if server is not ours]
    base = _distances(ours, others, [_question(text, None) for text in TEXTS])
    adapted = _distances(ours, others, [_question(t, a) for a in ADAPTERS for t in TEXTS])
    return {name: max(base[name], adapted[name]) for name in base}


def distance(ours: dict[str, float], theirs: dict[str, float]) -> float:
    """The mean difference over the tokens that both name; infinite if there are none."""
    both = ours.keys() & theirs.keys()
    return mean(abs(ours[token] - theirs[token]) for token in both) if both else float("inf")


def _distances(
    ours: Server, others: Sequence[Server], questions: Sequence[Question]
) -> dict[str, float]:
    """The median over the questions, of each of the others."""
    wanted = _told(ours, questions)
    return {
        server.name: median(map(distance, wanted, _told(server, questions))) for server in others
    }


def _told(server: Server, questions: Sequence[Question]) -> list[dict[str, float]]:
    server.resume()
    try:
        return [server.first_token(question, TOP) for question in questions]
    finally:
        server.pause()


def _question(text: str, adapter: int | None) -> Question:
    return Question((Turn("user", text),), 1, adapter)
