"""app.py as a process: error messages, memory and shutdown."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from model.config.settings import CHECKOUT
from tests.training.fake_finetune import until

Process = subprocess.Popen[str]


def run(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "app.py", *flags],
        cwd=CHECKOUT, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--server_port", "many"], 2, "'many' is not a port"),
        (["--quantization", "3bit"], 2, "invalid choice: '3bit'"),
        (["--adapters_dir", "nowhere"], 2, "there is no folder nowhere"),
        (["--auth", "nameless"], 2, "user:password"),
        (["--quantization", "4bit", "--device", "cpu"], 2, "needs a CUDA GPU"),
        (["--base_model", "nowhere"], 1, "There is no model folder nowhere"),
        (["--base_model", "docs"], 1, "docs has no config.json"),
        (["--base_model", "./adapter"], 1, "There is no model folder adapter. Check --base_model"),
        (["--server_port", "0", "--data_dir", "app.py"], 1, "Pass another folder with --data_dir."),
        (["--database_url", "mysql://u:p@host/chats"], 2, "mysql:// is not a PostgreSQL address"),
        (
            ["--server_port", "0", "--database_url", "postgresql://u:p@127.0.0.1:1/chats"],
            1,
            "The chats in the database chats cannot be opened: connection to server",
        ),
        (["--share_hours", "-1"], 2, "not a number of hours"),
        (["--share_messages", "0"], 2, "not a whole number above 0"),
        (["--share_adapters", ","], 2, "no adapter is named"),
    ],
)
def test_wrong_use_is_one_sentence(flags: list[str], status: int, message: str) -> None:
    done = run(*flags)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (done.returncode, done.stdout) == (status, "")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "model.safetensors").write_bytes(b"torn"), "cannot be read"),
        (lambda p: (p / "tokenizer.json").unlink(), "neither tokenizer.json nor tokenizer.model"),
        (lambda p: (p / "config.json").write_text('{"model_type": "gpt2"}'), "is gpt2, but only"),
        (lambda p: [(p / "config.json").unlink(), (p / "m.gguf").touch()], "-m model convert"),
    ],
)
def test_an_unusable_base_is_refused_before_the_page_opens(
    spoil: Callable[[Path], object], message: str, tiny_folder: Path, tmp_path: Path
) -> None:
    """And before anything is loaded."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    spoil(folder)
    done = run("--base_model", str(folder))
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (done.returncode, done.stdout) == (1, "")


def test_an_error_in_the_environment_names_the_variable() -> None:
    done = run(LINLY_SERVER_PORT="many")
    assert done.returncode == 2
    assert "LINLY_SERVER_PORT" in done.stderr


def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--server_port", str(port))
    assert done.returncode == 1
    assert done.stderr == f"Port {port} is already in use. Pass another one with --server_port.\n"


@contextmanager
def started(*flags: str, port: int = 0) -> Iterator[tuple[Process, str]]:
    """Starts the program with temporary chats; yields the process and its URL."""
    with TemporaryDirectory() as chats:
        environment = {**os.environ, "LINLY_DATA_DIR": chats}
        process = subprocess.Popen(
            [sys.executable, "app.py", "--server_port", str(port), *flags],
            cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip
        yield from _greeted(process)


def _greeted(process: Process) -> Iterator[tuple[Process, str]]:
    try:
        assert process.stdout
        greeting = process.stdout.readline()
        assert "http://" in greeting, process.communicate()
        yield process, greeting.split()[2]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("output", ["full", "closed", "unread"])
def test_lost_output_does_not_end_it(output: str, tiny_folder: Path, tmp_path: Path) -> None:
    """A full disk for the log ended it, and `| head -1` gave a stack trace."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    reader, writer = os.pipe()
    os.close(reader)
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(
            [sys.executable, "app.py", "--base_model", str(tiny_folder), f"--server_port={port}"],
            cwd=CHECKOUT, stdout=full if output == "full" else writer, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "LINLY_DATA_DIR": str(tmp_path)},
            preexec_fn=partial(os.close, 1) if output == "closed" else None,
        )  # fmt: skip
    os.close(writer)
    try:
        until(lambda: is_served(port))
        process.terminate()
        assert (process.wait(60), process.stderr and process.stderr.read()) == (0, "")
    finally:
        process.kill()
        process.communicate()


def is_served(port: int) -> bool:
    try:
        return health(f"http://127.0.0.1:{port}")["status"] == "ready"
    except OSError:
        return False


def read_until(process: Process, words: str) -> None:
    """Reads the program's output up to a line with `words`."""
    assert process.stdout
    seen = ""
    while words not in (line := process.stdout.readline()):
        seen += line
        assert line, f"it ended without {words!r}: {seen}"


def health(address: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=60) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as answer:
        return dict(json.load(answer))


@pytest.mark.real_model
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["loading", "ready"])
def test_signals_end_it_cleanly(default_folder: Path, number: signal.Signals, when: str) -> None:
    """It ends with status 0 and an empty stderr, also while loading."""
    with started("--threads", "1") as (process, address):
        assert health(address)["status"] in ("loading", "ready")
        if when == "ready":
            read_until(process, "Ready after")
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, ""), out


@pytest.mark.real_model
@pytest.mark.slow
def test_memory_with_the_default_model(default_folder: Path) -> None:
    """Under 1.5 GB at its peak, after a reply."""
    with started() as (process, address):
        read_until(process, "Ready after")
        assert health(address)["status"] == "ready"
        body = {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 50}
        request = urllib.request.Request(
            f"{address}/v1/chat/completions", json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] > 1
        status = Path(f"/proc/{process.pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)
    assert peak * 1024 < 1.5e9
