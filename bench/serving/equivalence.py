"""`--check`: checks that all servers compute the same model, as a comparison needs.

Each server reports the likeliest first tokens of some replies, on the base and on adapters, and
their log probabilities are compared with this program's. llama.cpp's Q8_0, which rounds activations
too, differs by 0.1 nats. With the rows of q and k in the wrong order it was 0.7, with those of the
adapters alone 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median

from bench.peers.base import THIS_PROGRAM, Question, Turn
from bench.peers.openai_client import OpenAIPeer

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


def distances(peers: Sequence[OpenAIPeer]) -> dict[str, float]:
    """Each other peer's distance to this program in nats: the larger of base and adapters."""
    replies = {peer.name: _first_tokens(peer) for peer in peers}
    own = replies.pop(THIS_PROGRAM)
    return {
        name: max(median(map(distance, *groups)) for groups in zip(own, found, strict=True))
        for name, found in replies.items()
    }


def distance(expected: dict[str, float], found: dict[str, float]) -> float:
    """The mean difference over the tokens that both list; infinite if there are none."""
    both = expected.keys() & found.keys()
    return mean(abs(expected[token] - found[token]) for token in both) if both else float("inf")


def _first_tokens(peer: OpenAIPeer) -> list[list[dict[str, float]]]:
    """The likeliest first tokens of each question, on the base and on the adapters."""
    peer.resume()
    try:
        return [
            [
                peer.first_token(Question((Turn("user", text),), 1, adapter), TOP_TOKENS)
                for adapter in adapters
                for text in TEXTS
            ]
            for adapters in ((None,), ADAPTERS)
        ]
    finally:
        peer.pause()
