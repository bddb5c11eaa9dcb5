"""Runs the benchmark: starts every peer once, then lets them take turns, workload by workload.

Each round begins with another peer, so that the machine's other work slows all of them alike. Only
one peer runs at a time; the others are paused.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench.common import PeerError, PeerMissingError, log
from bench.peers.base import THIS_PROGRAM, Peer
from bench.serving.report import Results
from bench.serving.workloads import warm_up


@dataclass
class RunningPeers:
    """The peers that run, their descriptions, and why others are missing or have failed."""

    about: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    peers: list[Peer] = field(default_factory=list)

    def start(self, peer: Peer) -> None:
        """Start a peer and warm it up; then it waits, paused.

        Raises:
            PeerError: this program did not start.
        """
        log(f"starting {peer.name} …")
        try:
            about = peer.start()
            warm_up(peer)
        except PeerError as error:
            peer.stop()
            log(f"{peer.name} is left out: {error}")
            self.remove(peer, error)
            return
        peer.pause()
        log(f"{peer.name}: {about}")
        self.about[peer.name] = about
        self.peers.append(peer)

    def remove(self, peer: Peer, error: PeerError) -> None:
        """Leave out a peer that is missing or failed.

        Raises:
            PeerError: it is this program, without which there is nothing to compare.
        """
        if peer.name == THIS_PROGRAM:
            raise error
        missing = isinstance(error, PeerMissingError)
        (self.skipped if missing else self.failed)[peer.name] = str(error)
        self.peers = [other for other in self.peers if other is not peer]


@contextmanager
def started_peers(peers: Sequence[Peer]) -> Iterator[RunningPeers]:
    """Start and warm up all peers; stop them at the end.

    Raises:
        PeerError: this program did not start.
    """
    running = RunningPeers()
    try:
        for peer in peers:
            running.start(peer)
        yield running
    finally:
        for peer in peers:
            peer.stop()


def run_rounds(running: RunningPeers, options: Namespace) -> Results:
    """All rounds of all workloads.

    Raises:
        PeerError: this program failed.
    """
    results = Results([peer.name for peer in running.peers])
    for number in range(options.rounds):
        for workload in options.workloads:
            for peer in turn_order(running.peers, number):
                if workload.suits(peer):
                    log(f"round {number + 1}/{options.rounds}  {workload.name:15}  {peer.name}")
                    try:
                        with peer.awake():
                            values = workload.measure(peer, number, options.tokens)
                    except PeerError as error:
                        log(f"{peer.name} is left out from here on: {error}")
                        running.remove(peer, error)
                        continue
                    for metric, value in zip(workload.metrics, values, strict=True):
                        results.add(metric.key, peer.name, value)
                        log(f"    {metric.title}: {value:.4g} {metric.unit}")
    return results


def turn_order(peers: Sequence[Peer], number: int) -> list[Peer]:
    """The peers in the order of round `number`, which begins one further than the last."""
    begin = number % len(peers)
    return [*peers[begin:], *peers[:begin]]
