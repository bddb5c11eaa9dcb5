"""Peers take turns; one that fails is left out, and ours ends the run."""

from __future__ import annotations

import pytest

from bench.options import Options, read_options
from bench.peers.base import PeerError, PeerMissing
from bench.rounds import run, started, turned
from tests.bench.fakes import FakePeer


def options(*words: str) -> Options:
    return read_options(["--workloads", "one", "--rounds", "2", *words], {})


def test_each_round_begins_with_another_peer() -> None:
    peers = [FakePeer(name) for name in ("ours", "hf", "vllm")]
    order = [[peer.name for peer in turned(peers, number)] for number in range(4)]
    assert order[0] == order[3] == ["ours", "hf", "vllm"]
    assert order[1] == ["hf", "vllm", "ours"]


def test_peers_alternate_and_progress_is_told() -> None:
    said: list[str] = []
    with started([FakePeer(), FakePeer("hf")], said.append) as cast:
        said.clear()
        results = run(cast, options(), said.append)
    turns = [line.split()[-1] for line in said if line.startswith("round")]
    assert turns == ["ours", "hf", "hf", "ours"]
    assert len(results.samples["one/adapter", "hf"]) == 2


def test_only_one_works_at_a_time() -> None:
    """A server that polls while it waits would slow the one that is measured."""
    peers = [FakePeer(), FakePeer("hf"), FakePeer("vllm")]
    awake: list[list[str]] = []
    with started(peers, lambda line: None) as cast:
        run(cast, options(), lambda line: awake.append([p.name for p in peers if not p.paused]))
        assert all(peer.paused for peer in peers)
    assert max(map(len, awake)) <= 1


def test_all_are_ended() -> None:
    peers = [FakePeer(), FakePeer("hf")]
    running: list[bool] = []

    def break_off() -> None:
        with started(peers, lambda line: None):
            running.extend(peer.running for peer in peers)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert running == [True, True]
    assert not any(peer.running for peer in peers)


def test_what_is_missing_is_skipped_and_said_in_a_line() -> None:
    missing = FakePeer("vllm")
    missing.error = PeerMissing("no environment")
    said: list[str] = []
    with started([FakePeer(), missing], said.append) as cast:
        assert cast.skipped == {"vllm": "no environment"}
        assert not cast.failed
        assert [peer.name for peer in cast.up] == ["ours"]
    assert "vllm is left out: no environment" in said


def test_who_fails_in_the_middle_is_left_out_and_the_others_go_on() -> None:
    failing = FakePeer("hf")
    with started([FakePeer(), failing], lambda line: None) as cast:
        failing.error = PeerError("out of memory")
        results = run(cast, options(), lambda line: None)
    assert cast.failed == {"hf": "out of memory"}
    assert len(results.samples["one/base", "ours"]) == 2
    assert results.median("one/base", "hf") is None


def test_without_ours_there_is_nothing_to_say() -> None:
    ours = FakePeer()
    ours.error = PeerError("no port")
    with pytest.raises(PeerError, match="no port"), started([ours], lambda line: None):
        pass
