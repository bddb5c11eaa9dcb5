"""A peer that answers at once with fixed times, and a fixture that runs benchmark scripts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import pytest

from bench.common import PeerError
from bench.peers.base import Peer, PeerReply, Question

Start = Callable[..., int]


class FakePeer(Peer):
    """Every reply takes `first` seconds to the first token and 10 ms for each of the others."""

    first = 0.5

    def __init__(self, name: str = "ours", users: int = 12, adapters: int = 12) -> None:
        self.name = name
        self.most_users = users
        self.most_adapters = adapters
        self.requests: list[list[Question]] = []
        self.error: PeerError | None = None
        self.running = False
        self.paused = False

    def start(self) -> str:
        self.running = True
        return "a fake"

    def ask(self, questions: Sequence[Question]) -> list[PeerReply]:
        assert not self.paused
        self.requests.append(list(questions))
        if self.error:
            raise self.error
        return [
            PeerReply(
                f"reply {len(self.requests)}", self.first, self.first + (q.tokens - 1) / 100,
                q.tokens,
            )
            for q in questions
        ]  # fmt: skip

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def stop(self) -> None:
        self.running = False


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Runs `main` of a script with these arguments; SIGTERM keeps its handler."""
    monkeypatch.setattr("bench.common.exit_on_sigterm", lambda: None)

    def run(module: ModuleType, *words: str) -> int:
        monkeypatch.setattr("sys.argv", [f"{module.__name__}.py", *words])
        return int(module.main())

    return run
