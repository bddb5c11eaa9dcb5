"""A peer's process: what it says is read, and its end is told with its last words."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.peers.base import PeerError
from bench.peers.child import Child

ECHO = "import sys; [print(line.strip() * 2, flush=True) for line in sys.stdin]"
DIES = "import sys; print('up', flush=True); sys.exit('no\\nroom left')"

Start = Callable[[str], Child]


def state(child: Child) -> str:
    """T is stopped."""
    return Path(f"/proc/{child.pid}/stat").read_text(encoding="ascii").split()[2]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a Python program; all are ended after the test."""
    children: list[Child] = []

    def begin(program: str) -> Child:
        children.append(Child([sys.executable, "-c", program], tmp_path / "log"))
        return children[-1]

    yield begin
    for child in children:
        child.stop()


def test_lines_go_in_and_come_out(start: Start) -> None:
    child = start(ECHO)
    child.write("ab")
    assert child.read() == "abab"


def test_an_end_is_told_with_its_last_words(start: Start) -> None:
    child = start(DIES)
    assert child.read() == "up"
    with pytest.raises(PeerError, match=r"its process ended \(room left\)"):
        child.read()
    with pytest.raises(PeerError, match="room left"):
        child.wait_for("http://127.0.0.1:9/", seconds=30)


def test_frozen_it_does_nothing_until_it_thaws(start: Start) -> None:
    child = start(ECHO)
    child.freeze()
    until = time.monotonic() + 10
    while state(child) != "T":
        assert time.monotonic() < until
    child.write("ab")
    child.thaw()
    assert child.read() == "abab"


def test_frozen_it_can_be_ended(start: Start) -> None:
    child = start(ECHO)
    child.freeze()
    child.stop()
    assert not Path(f"/proc/{child.pid}").exists()


def test_waiting_has_an_end(start: Start) -> None:
    with pytest.raises(PeerError, match="did not answer within 0 s"):
        start(ECHO).wait_for("http://127.0.0.1:9/", seconds=0)
