"""A peer that answers at once with fixed times, and a fixture that runs benchmark scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest

from bench.common import PeerError
from bench.peers.base import Peer, PeerReply, Question

Start = Callable[..., int]
Refuse = Callable[..., str]
RunAsJson = Callable[..., Any]


class FakePeer(Peer):
    """Every reply takes `first` seconds to the first token and 10 ms for each of the others."""

    first = 0.5

    def __init__(self, name: str = "ours", users: int = 12, adapters: int = 12) -> None:
        self.name = name
        self.max_users = users
        self.max_adapters = adapters
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


@pytest.fixture
def refuse(start: Start, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Runs a script that refuses its arguments; returns the only line that it prints."""

    def run(module: ModuleType, *words: str) -> str:
        assert start(module, *words) == 2
        printed = capsys.readouterr()
        [line] = printed.err.splitlines()
        assert not printed.out
        return line

    return run


@pytest.fixture
def run_as_json(start: Start, capsys: pytest.CaptureFixture[str]) -> RunAsJson:
    """Runs a script with `--json`; returns what it prints."""

    def run(module: ModuleType, *words: str) -> Any:
        assert start(module, *words, "--json") == 0
        return json.loads(capsys.readouterr().out)

    return run
