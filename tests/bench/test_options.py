"""Flags of the benchmark: what they mean, and one sentence where they are wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.options import VLLM_PYTHON, Options, read_options
from model.config.settings import CHECKOUT


def read(*words: str, **environ: str) -> Options:
    return read_options(words, environ)


def test_defaults() -> None:
    options = read()
    assert options.peers == ("ours", "hf", "bnb", "llama.cpp", "vllm")
    assert [workload.name for workload in options.workloads][:2] == ["one", "four"]
    assert (options.rounds, options.tokens, options.json) == (3, 64, False)
    assert options.vllm_python is None
    assert options.adapter.name == "lighthouse"


def test_ours_is_always_there_and_can_be_alone() -> None:
    assert read("--peers", "ours").peers == ("ours",)
    assert read("--peers", "hf, ours,hf").peers == ("ours", "hf")


def test_workloads_keep_their_order() -> None:
    options = read("--workloads", "chat,one")
    assert [workload.name for workload in options.workloads] == ["one", "chat"]


def test_hyphens_count_as_underscores(tmp_path: Path) -> None:
    assert read("--base-model", str(tmp_path)).base_model == tmp_path
    assert read(f"--base-model={tmp_path}").base_model == tmp_path


def test_vllms_python_can_come_from_the_environment() -> None:
    assert read(**{VLLM_PYTHON: sys.executable}).vllm_python == Path(sys.executable)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--peers", "hf,tgi"], "there is no peer 'tgi'"),
        (["--peers", ","], "name at least one peer"),
        (["--workloads", "two"], "there is no workload 'two'"),
        (["--rounds", "0"], "'0' is not a whole number of at least 1"),
        (["--rounds", "-1"], "at least 1"),
        (["--tokens", "1"], "at least 2"),
        (["--tokens", "many"], "'many' is not a whole number"),
        (["--base_model", "nowhere"], "there is no folder nowhere"),
        (["--vllm_python", "nowhere"], "nowhere is no program"),
        (["--chart", "nowhere/chart.png"], "is no name for a .png"),
        (["--chart", "chart.svg"], "is no name for a .png"),
        (["--peer", "hf"], "Unrecognized arguments: --peer hf"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        read(*words)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
    assert line.endswith(". See --help.")


def test_it_starts_as_a_script_wherever_one_stands(tmp_path: Path) -> None:
    command = [sys.executable, str(CHECKOUT / "bench" / "serve.py")]
    done = subprocess.run(
        [*command, "--rounds", "none"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "--rounds: 'none' is not a whole number of at least 1. See --help.\n"
