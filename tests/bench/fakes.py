"""A peer that answers at once, with the times that it is told."""

from __future__ import annotations

from collections.abc import Sequence

from bench.peers.base import PeerError, PeerReply, Question


class FakePeer:
    """Every reply takes `first` seconds to the first token and 10 ms for each of the others."""

    def __init__(self, name: str = "ours", users: int = 12, adapters: int = 12) -> None:
        self.name = name
        self.most_users = users
        self.most_adapters = adapters
        self.first = 0.5
        self.asked: list[list[Question]] = []
        self.error: PeerError | None = None
        self.running = False
        self.paused = False

    def start(self) -> str:
        self.running = True
        return "a fake"

    def ask(self, questions: Sequence[Question]) -> list[PeerReply]:
        assert not self.paused
        self.asked.append(list(questions))
        if self.error:
            raise self.error
        return [
            PeerReply(
                f"reply {len(self.asked)}", self.first, self.first + (q.tokens - 1) / 100, q.tokens
            )
            for q in questions
        ]

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def stop(self) -> None:
        self.running = False
