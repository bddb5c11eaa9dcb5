"""The run itself: every peer is started once, then they take turns, workload by workload.

Turns alternate at the finest grain, and each round begins with another peer, so that whatever else
the machine does falls on all of them alike. Only one works at a time; the others wait, frozen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench.options import Options
from bench.peers.base import Peer, PeerError, PeerMissing
from bench.report import OURS, Results
from bench.workloads import Workload, warm_up

Say = Callable[[str], None]


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass
class RunningPeers:
    """The peers that are up, what each said it is, and why others are not or no longer there."""

    about: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    up: list[Peer] = field(default_factory=list)

    def lose(self, peer: Peer, error: PeerError) -> None:
        """A peer that is missing or fails is left out. Nothing can be said without ours."""
        if peer.name == OURS:
            raise error
        missing = isinstance(error, PeerMissing)
        (self.skipped if missing else self.failed)[peer.name] = str(error)
        self.up = [other for other in self.up if other is not peer]


@contextmanager
def started(peers: Sequence[Peer], say: Say) -> Iterator[RunningPeers]:
    """Start and warm all of them; end them again.

    Raises:
        PeerError: ours did not start.
    """
    cast = RunningPeers()
    try:
        for peer in peers:
            _start(peer, cast, say)
        yield cast
    finally:
        for peer in peers:
            peer.stop()


def _start(peer: Peer, cast: RunningPeers, say: Say) -> None:
    say(f"starting {peer.name} …")
    try:
        about = peer.start()
        warm_up(peer)
    except PeerError as error:
        peer.stop()
        say(f"{peer.name} is left out: {error}")
        cast.lose(peer, error)
        return
    peer.pause()
    say(f"{peer.name}: {about}")
    cast.about[peer.name] = about
    cast.up.append(peer)


def run(cast: RunningPeers, options: Options, say: Say) -> Results:
    """All rounds of all workloads.

    Raises:
        PeerError: ours failed.
    """
    results = Results([peer.name for peer in cast.up])
    for number in range(options.rounds):
        for workload in options.workloads:
            for peer in turned(cast.up, number):
                if workload.suits(peer):
                    say(f"round {number + 1}/{options.rounds}  {workload.name:15}  {peer.name}")
                    _turn(cast, peer, workload, number, options.tokens, results, say)
    return results


def turned(peers: Sequence[Peer], number: int) -> list[Peer]:
    """The peers in the order of round `number`: each round begins one further on."""
    begin = number % len(peers)
    return [*peers[begin:], *peers[:begin]]


def _turn(
    cast: RunningPeers,
    peer: Peer,
    workload: Workload,
    number: int,
    tokens: int,
    results: Results,
    say: Say,
) -> None:
    peer.resume()
    try:
        values = workload.measure(peer, number, tokens)
    except PeerError as error:
        say(f"{peer.name} is left out from here on: {error}")
        cast.lose(peer, error)
        return
    finally:
        peer.pause()
    for metric, value in zip(workload.metrics, values, strict=True):
        results.add(metric.key, peer.name, value)
        say(f"    {metric.title}: {value:.4g} {metric.unit}")
