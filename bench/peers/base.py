"""What a measurement asks, what comes back, and what every peer can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class PeerError(Exception):
    """A peer did not do what it should, in one sentence."""


class PeerMissing(PeerError):  # noqa: N818 - being absent is no fault
    """A peer is not installed here; the sentence says how it would be."""


@dataclass(frozen=True)
class Turn:
    """One message of a chat; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Question:
    """One request, decoded greedily.

    `tokens` is the length of the reply: exactly that where `exact`, else at most. `adapter` is its
    number among the measurement's adapters; None asks the base.
    """

    turns: tuple[Turn, ...]
    tokens: int
    adapter: int | None = None
    exact: bool = True


@dataclass(frozen=True)
class PeerReply:
    """What came back: seconds from the request to the first text and to the end; tokens in all."""

    text: str
    first: float
    seconds: float
    tokens: int

    @property
    def speed(self) -> float:
        """Tokens a second after the first one."""
        return (self.tokens - 1) / max(self.seconds - self.first, 1e-9)


@dataclass(frozen=True)
class BenchFixtures:
    """What all peers are given: the base as a Hugging Face folder, and PEFT adapter folders.

    `names` are folders in `adapters`. `cache` keeps what is made once, `scratch` goes away with
    the measurement. `threads` is the number of cores.
    """

    base: Path
    adapters: Path
    names: tuple[str, ...]
    cache: Path
    scratch: Path
    threads: int

    def paths(self, count: int) -> list[Path]:
        """The first `count` adapters' folders."""
        return [self.adapters / name for name in self.names[:count]]


class Peer(Protocol):
    """A server in a process of its own. It takes `most_users` at once, with `most_adapters`."""

    name: str
    most_users: int
    most_adapters: int

    def start(self) -> str:
        """Start it, wait until it answers, and say in one line what it is.

        Raises:
            PeerError: it does not come up. PeerMissing: it is not installed.
        """

    def ask(self, questions: Sequence[Question]) -> list[PeerReply]:
        """Ask everything at the same moment; the replies in the questions' order.

        Raises:
            PeerError: one of them failed.
        """

    def pause(self) -> None:
        """Keep it from using the machine until `resume`; it stays in memory."""

    def resume(self) -> None:
        """Let it run again."""

    def stop(self) -> None:
        """End it. Also where `start` failed, and twice."""
