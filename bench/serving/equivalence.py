"""`--check`: checks that all servers compute the same model, as a comparison needs.

Each server reports the likeliest first tokens of some replies, on the base and on adapters, and
their log probabilities are compared with this program's. llama.cpp's Q8_0, which rounds activations
too, differs by 0.1 nats. With the rows of q and k in the wrong order it was 0.7, with those of the
adapters alone 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median
from typing import Protocol

from bench.peers.base import THIS_PROGRAM, Question, Turn

TOP_TOKENS = 5
MAX_DISTANCE = 0.25  # nats
TEXTS = (
    "Who are you?",
    "What is the capital of France?",
    "Write a short story about a dog.",
    "How do I make bread?",
    "Why is the sea salty?",
)
ADAPTERS = (0, 1, 2)


class LogprobServer(Protocol):
    """A peer that reports log probabilities."""

    name: str

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def first_token(self, question: Question, count: int) -> dict[str, float]: ...


def distances(servers: Sequence[LogprobServer]) -> dict[str, float]:
    """Each other server's distance to this program in nats: the larger of base and adapters."""
    this_program = next(server for server in servers if server.name == THIS_PROGRAM)
    groups = [
        [_question(text, None) for text in TEXTS],
        [_question(text, adapter) for adapter in ADAPTERS for text in TEXTS],
    ]
    expected = [_first_tokens(this_program, group) for group in groups]
    found = {}
    for server in servers:
        if server is not this_program:
            replies = [_first_tokens(server, group) for group in groups]
            found[server.name] = max(map(_median_distance, expected, replies))
    return found


def distance(expected: dict[str, float], found: dict[str, float]) -> float:
    """The mean difference over the tokens that both list; infinite if there are none."""
    both = expected.keys() & found.keys()
    return mean(abs(expected[token] - found[token]) for token in both) if both else float("inf")


def _median_distance(
    expected: Sequence[dict[str, float]], found: Sequence[dict[str, float]]
) -> float:
    return median(map(distance, expected, found))


def _first_tokens(server: LogprobServer, questions: Sequence[Question]) -> list[dict[str, float]]:
    server.resume()
    try:
        return [server.first_token(question, TOP_TOKENS) for question in questions]
    finally:
        server.pause()


def _question(text: str, adapter: int | None) -> Question:
    return Question((Turn("user", text),), 1, adapter)
