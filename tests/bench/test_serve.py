"""The whole benchmark with peers that are fakes: what it prints, and its exit status."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import serve
from bench.peers.base import PeerError
from tests.bench.fakes import FakePeer

Run = Callable[..., int]


@pytest.fixture
def peers() -> list[FakePeer]:
    return [FakePeer(), FakePeer("hf")]


@pytest.fixture
def run(peers: list[FakePeer], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """`main` with these words, measuring `peers`."""
    monkeypatch.setattr(serve, "prepare", lambda options, scratch: None)
    monkeypatch.setattr(serve, "make_peers", lambda options, stage: peers)
    before = signal.getsignal(signal.SIGTERM)

    def start(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["bench/serve.py", "--rounds", "1", *words])
        return serve.main()

    yield start
    signal.signal(signal.SIGTERM, before)


def test_the_table_and_what_one_should_know(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--workloads", "one") == 0
    said = capsys.readouterr()
    line = " ".join(said.out.splitlines()[2].split())
    assert line == "1 user, adapter tokens/s 100 100 1.00x"
    assert "rounds: 1; tokens a reply: 64" in said.out
    assert "hf: a fake" in said.out
    assert "round 1/1" in said.err


def test_json_is_all_that_is_printed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "--tokens", "8") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tokens"] == 8
    assert told["peers"] == {"ours": "a fake", "hf": "a fake"}
    assert len(told["metrics"]) == 12


def test_a_peer_that_fails_is_named_and_fails_the_run(
    run: Run, peers: list[FakePeer], capsys: pytest.CaptureFixture[str]
) -> None:
    peers[1].error = PeerError("no memory")
    assert run("--workloads", "one") == 1
    assert "hf failed: no memory" in capsys.readouterr().out


def test_without_ours_one_sentence(
    run: Run, peers: list[FakePeer], capsys: pytest.CaptureFixture[str]
) -> None:
    peers[0].error = PeerError("no port")
    assert run("--workloads", "one") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1] == "Nothing could be measured: no port"
    assert not any(peer.running for peer in peers)


def test_told_to_end_twice_it_still_ends_its_servers(run: Run, peers: list[FakePeer]) -> None:
    """`timeout` signals the program and then its whole group: the second broke off the cleaning."""

    def stopped_again(stop: Callable[[], None]) -> Callable[[], None]:
        def stop_and_again() -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            stop()

        return stop_and_again

    for peer in peers:
        peer.stop = stopped_again(peer.stop)  # type: ignore[method-assign]
    peers[1].ask = lambda questions: signal.raise_signal(signal.SIGTERM)  # type: ignore[assignment]
    with pytest.raises(SystemExit):
        run("--workloads", "one")
    assert not any(peer.running for peer in peers)


def test_a_chart_is_drawn(run: Run, tmp_path: Path) -> None:
    assert run("--chart", str(tmp_path / "chart.png")) == 0
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
