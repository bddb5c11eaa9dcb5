"""The queue: how long requests wait, the positions they are sent, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.engine import step_runner, timing
from model.errors import BusyError
from model.sampling import Sampling
from model.types import Delta, Emit
from tests.model.engine.running import ForwardRecorder, pause, random_tokens, running

CHUNK = 32


@pytest.mark.parametrize("long_ones", [1, 3])
def test_a_short_prompt_waits_one_chunk_for_each_long_one(
    tiny_folder: Path, tiny_adapters: Path, monkeypatch: pytest.MonkeyPatch, long_ones: int
) -> None:
    monkeypatch.setattr(step_runner, "PREFILL_CHUNK", CHUNK)
    ended: list[tuple[str, int]] = []

    def ending(name: str) -> Emit:
        def note(delta: Delta) -> None:
            if delta.finish_reason:
                full_chunks = sum(sizes[0] == CHUNK for sizes in recorder.sizes)
                ended.append((name, full_chunks))

        return note

    with running(tiny_folder, tiny_adapters) as tiny:
        resume = pause(tiny)
        recorder = ForwardRecorder(tiny, monkeypatch)
        sampling = Sampling(temperature=0, max_tokens=1)
        prompts = {f"long {i}": random_tokens(320, i) for i in range(long_ones)}
        prompts |= {"short": random_tokens(20, 9), "second": random_tokens(50, 10)}
        replies = [
            tiny.ask(prompt, name=name, on_delta=ending(name), sampling=sampling)
            for name, prompt in prompts.items()
        ]
        resume.set()
        for reply in replies:
            reply.wait()
    # `second` has a full chunk of its own before its last 18 tokens.
    assert ended[:2] == [("short", long_ones), ("second", 2 * long_ones + 1)]
    assert [name for name, _ in ended[2:]] == [f"long {i}" for i in range(long_ones)]


def test_the_status_has_slots_as_the_waiting_reason(tiny_folder: Path, tiny_adapters: Path) -> None:
    with running(tiny_folder, tiny_adapters, max_sequences=1) as tiny:
        seen: list[tuple[int, str | None]] = []

        def note(_: Delta) -> None:
            status = tiny.engine.status()
            seen.append((status.waiting, status.waiting_reason))

        resume = pause(tiny)
        replies = [tiny.ask(random_tokens(9, i), name=f"{i}", on_delta=note) for i in range(2)]
        resume.set()
        for reply in replies:
            reply.wait()
    assert seen[0] == (1, "slots")
    assert seen[-1] == (0, None)


def test_each_request_is_sent_its_queue_position_whenever_it_changes(
    tiny_folder: Path, tiny_adapters: Path
) -> None:
    with running(tiny_folder, tiny_adapters, max_sequences=1) as tiny:
        positions: dict[str, list[tuple[int, str]]] = {}

        def note(name: str) -> Emit:
            def emit(delta: Delta) -> None:
                if delta.queued:
                    positions.setdefault(name, []).append((delta.queued.ahead, delta.queued.reason))

            return emit

        resume = pause(tiny)
        replies = [
            tiny.ask(random_tokens(9, i), name=f"{i}", on_delta=note(f"{i}")) for i in range(4)
        ]
        resume.set()
        for reply in replies:
            reply.wait()
    ahead = {name: [count for count, _ in emitted] for name, emitted in positions.items()}
    assert ahead == {"1": [0], "2": [1, 0], "3": [2, 1, 0]}
    assert {reason for emitted in positions.values() for _, reason in emitted} == {"slots"}


def test_busy_error_has_the_seconds_to_wait(
    tiny_folder: Path, tiny_adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "INITIAL_SECONDS", 20.0)
    with running(tiny_folder, tiny_adapters, max_sequences=2, max_waiting=3) as tiny:
        resume = pause(tiny)
        replies = [tiny.ask(random_tokens(9, i), name=f"{i}") for i in range(3)]
        with pytest.raises(BusyError, match=r"3 replies .* about 40 s") as caught:
            tiny.ask(random_tokens(9, 9))
        resume.set()
        for reply in replies:
            reply.wait()
    assert caught.value.retry_after == 40.0


def test_the_estimated_wait_follows_the_replies(tiny_folder: Path, tiny_adapters: Path) -> None:
    with running(tiny_folder, tiny_adapters, max_sequences=1) as tiny:
        before = tiny.estimated_wait(99)
        for i in range(3):
            tiny.ask(random_tokens(9, i)).wait()
        assert tiny.estimated_wait(99) < before / 2
