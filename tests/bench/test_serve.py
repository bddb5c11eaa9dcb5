"""`bench/serve.py` with fake peers: flags, turns, failures, what it prints and its exit status."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import serve
from bench.common import PeerError, PeerMissingError
from bench.peers.base import Question
from bench.peers.openai_peers import OpenAIPeer
from bench.serve import VLLM_PYTHON, logprob_distance, logprob_distances, read_serve_options
from bench.serving import runner
from bench.serving.runner import run_rounds, started_peers, turn_order
from model.config.settings import CHECKOUT
from model.errors import SettingsError
from tests.bench.conftest import FakePeer

Run = Callable[..., int]


def options(*words: str, **environ: str) -> Namespace:
    return read_serve_options(words, environ)


def two_rounds() -> Namespace:
    return options("--workloads", "one", "--rounds", "2")


def test_defaults_of_the_flags() -> None:
    found = options()
    assert found.peers == ("ours", "hf", "bnb", "llama.cpp", "vllm")
    assert [workload.name for workload in found.workloads][:2] == ["one", "four"]
    assert (found.rounds, found.tokens, found.json) == (3, 64, False)
    assert found.vllm_python is None
    assert found.adapter.name == "lighthouse"


def test_peers_always_include_this_program() -> None:
    assert options("--peers", "ours").peers == ("ours",)
    assert options("--peers", "hf, ours,hf").peers == ("ours", "hf")


def test_workloads_keep_their_order() -> None:
    found = options("--workloads", "chat,one")
    assert [workload.name for workload in found.workloads] == ["one", "chat"]


def test_hyphens_count_as_underscores(tmp_path: Path) -> None:
    assert options("--base-model", str(tmp_path)).base_model == tmp_path
    assert options(f"--base-model={tmp_path}").base_model == tmp_path


def test_vllm_python_can_come_from_the_environment() -> None:
    assert options(**{VLLM_PYTHON: sys.executable}).vllm_python == Path(sys.executable)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--peers", "hf,tgi"], "there is no peer 'tgi'"),
        (["--peers", ","], "name at least one peer"),
        (["--workloads", "two"], "there is no workload 'two'"),
        (["--rounds", "0"], "'0' is not a whole number of at least 1"),
        (["--rounds", "-1"], "at least 1"),
        (["--tokens", "1"], "at least 2"),
        (["--tokens", "many"], "'many' is not a whole number"),
        (["--base_model", "nowhere"], "there is no folder nowhere"),
        (["--vllm_python", "nowhere"], "nowhere is not a program"),
        (["--chart", "nowhere/chart.png"], "is not the name of a .png"),
        (["--chart", "chart.svg"], "is not the name of a .png"),
    ],
)
def test_wrong_flags_are_refused_in_one_sentence(words: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        options(*words)
    assert message in str(error.value)
    assert str(error.value).endswith(". See --help.")
    assert "\n" not in str(error.value)


def test_unknown_flags_are_refused_with_a_suggestion() -> None:
    with pytest.raises(SettingsError, match=r"^Unknown flag --peer\. Did you mean --peers\?$"):
        options("--peer", "hf")


def test_script_starts_in_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(CHECKOUT / "bench" / "serve.py")]
    done = subprocess.run(
        [*command, "--rounds", "none"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "--rounds: 'none' is not a whole number of at least 1. See --help.\n"


def test_each_round_begins_with_another_peer() -> None:
    peers = [FakePeer(name) for name in ("ours", "hf", "vllm")]
    order = [[peer.name for peer in turn_order(peers, number)] for number in range(4)]
    assert order[0] == order[3] == ["ours", "hf", "vllm"]
    assert order[1] == ["hf", "vllm", "ours"]


def test_runner_alternates_peers_and_logs_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with started_peers([FakePeer(), FakePeer("hf")]) as running:
        results = run_rounds(running, two_rounds())
    lines = capsys.readouterr().err.splitlines()
    turns = [line.split()[-1] for line in lines if line.startswith("round")]
    assert turns == ["ours", "hf", "hf", "ours"]
    assert len(results.samples["one/adapter", "hf"]) == 2


def test_runner_lets_one_peer_run_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that polls while it waits would slow the measured one."""
    peers = [FakePeer(), FakePeer("hf"), FakePeer("vllm")]
    awake: list[list[str]] = []
    with started_peers(peers) as running:
        monkeypatch.setattr(
            runner, "log", lambda _: awake.append([p.name for p in peers if not p.paused])
        )
        run_rounds(running, two_rounds())
        assert all(peer.paused for peer in peers)
    assert awake
    assert max(map(len, awake)) <= 1


def test_runner_stops_all_peers_after_an_error() -> None:
    peers = [FakePeer(), FakePeer("hf")]
    running: list[bool] = []

    def fail() -> None:
        with started_peers(peers):
            running.extend(peer.running for peer in peers)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert running == [True, True]
    assert not any(peer.running for peer in peers)


def test_runner_skips_a_missing_peer_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    missing = FakePeer("vllm")
    missing.error = PeerMissingError("no environment")
    with started_peers([FakePeer(), missing]) as running:
        assert running.skipped == {"vllm": "no environment"}
        assert not running.failed
        assert [peer.name for peer in running.peers] == ["ours"]
    assert "vllm is left out: no environment" in capsys.readouterr().err.splitlines()


def test_runner_goes_on_without_a_peer_that_fails_in_the_middle() -> None:
    failing = FakePeer("hf")
    with started_peers([FakePeer(), failing]) as running:
        failing.error = PeerError("out of memory")
        results = run_rounds(running, two_rounds())
    assert running.failed == {"hf": "out of memory"}
    assert len(results.samples["one/base", "ours"]) == 2
    assert results.median("one/base", "hf") is None


def test_runner_fails_without_this_program() -> None:
    this_program = FakePeer()
    this_program.error = PeerError("no port")
    with pytest.raises(PeerError, match="no port"), started_peers([this_program]):
        pass


class LogprobServer(OpenAIPeer):
    """Its log probabilities are wrong by some nats, on the base and on adapters."""

    def __init__(self, name: str, base: float, adapters: float) -> None:
        self.name = name
        self.child = None
        self._errors = (base, adapters)

    def start(self) -> str:
        return ""

    def selection(self, adapter: int | None) -> dict[str, object]:
        return {}

    def first_token(self, question: Question, count: int) -> dict[str, float]:
        error = self._errors[question.adapter is not None]
        return {"a": -1 + error, "b": -2 - error}


def test_equivalence_is_the_worse_of_base_and_adapters() -> None:
    servers = [
        LogprobServer("right", 0.1, 0.05), LogprobServer("ours", 0, 0),
        LogprobServer("wrong", 0.1, 2),
    ]  # fmt: skip
    assert logprob_distances(servers) == pytest.approx({"right": 0.1, "wrong": 2})


def test_equivalence_compares_tokens_that_both_list() -> None:
    assert logprob_distance({"a": -1, "b": -2}, {"a": -1.5, "c": 0}) == 0.5
    assert math.isinf(logprob_distance({"a": -1}, {"b": -1}))


@pytest.fixture
def peers() -> list[FakePeer]:
    return [FakePeer(), FakePeer("hf")]


@pytest.fixture
def run(peers: list[FakePeer], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """`main` with these words, measuring `peers`, and with its handler of SIGTERM."""
    monkeypatch.setattr(serve, "make_fixtures", lambda options, scratch: None)
    monkeypatch.setattr(serve, "make_peers", lambda options, fixtures: peers)
    before = signal.getsignal(signal.SIGTERM)

    def start(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["bench/serve.py", "--rounds", "1", *words])
        return serve.main()

    yield start
    signal.signal(signal.SIGTERM, before)


def test_serve_prints_the_table_and_the_conditions(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--workloads", "one") == 0
    printed = capsys.readouterr()
    line = " ".join(printed.out.splitlines()[2].split())
    assert line == "1 user, adapter tokens/s 100 100 1.00x"
    assert "rounds: 1; tokens a reply: 64" in printed.out
    assert "hf: a fake" in printed.out
    assert "round 1/1" in printed.err


def test_serve_prints_nothing_but_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "--tokens", "8") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["tokens"] == 8
    assert printed["peers"] == {"ours": "a fake", "hf": "a fake"}
    assert len(printed["metrics"]) == 12


def test_serve_fails_and_names_a_peer_that_failed(
    run: Run, peers: list[FakePeer], capsys: pytest.CaptureFixture[str]
) -> None:
    peers[1].error = PeerError("no memory")
    assert run("--workloads", "one") == 1
    assert "hf failed: no memory" in capsys.readouterr().out


def test_serve_without_this_program_is_one_sentence(
    run: Run, peers: list[FakePeer], capsys: pytest.CaptureFixture[str]
) -> None:
    peers[0].error = PeerError("no port")
    assert run("--workloads", "one") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == "The measurement broke off: no port"
    assert not any(peer.running for peer in peers)


def test_serve_stops_its_servers_after_two_signals(run: Run, peers: list[FakePeer]) -> None:
    """`timeout` signals the program and then its whole group: the second one must not interrupt
    the cleanup."""

    def interrupted(stop: Callable[[], None]) -> Callable[[], None]:
        def stop_after_signal() -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            stop()

        return stop_after_signal

    for peer in peers:
        peer.stop = interrupted(peer.stop)  # type: ignore[method-assign]
    peers[1].ask = lambda questions: signal.raise_signal(signal.SIGTERM)  # type: ignore[assignment, return-value]
    with pytest.raises(SystemExit):
        run("--workloads", "one")
    assert not any(peer.running for peer in peers)


def test_serve_draws_a_chart(run: Run, tmp_path: Path) -> None:
    assert run("--chart", str(tmp_path / "chart.png")) == 0
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
