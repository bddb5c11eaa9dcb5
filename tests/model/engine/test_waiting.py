"""Who waits for how long, and what those are told who may not even wait."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from model.engine import local_engine
from model.engine.sampler import Floats
from model.layers.llama import SequenceSlice
from model.types import BusyError, Delta, Sampling
from tests.model.engine.running import pause, random_tokens, running

CHUNK = 32


@pytest.mark.parametrize("long_ones", [1, 3])
def test_a_short_prompt_waits_one_chunk_for_each_long_one(
    tiny_folder: Path, tiny_adapters: Path, monkeypatch: pytest.MonkeyPatch, long_ones: int
) -> None:
    monkeypatch.setattr(local_engine, "PREFILL_CHUNK", CHUNK)
    widths: list[int] = []
    answered: list[tuple[str, int]] = []

    def answering(name: str) -> local_engine.Emit:
        def note(delta: Delta) -> None:
            if delta.finish_reason:
                answered.append((name, widths.count(CHUNK)))

        return note

    with running(tiny_folder, tiny_adapters) as tiny:
        forward = tiny.model.logits

        def noting(spans: Sequence[SequenceSlice], every_position: bool = False) -> Floats:
            widths.append(len(spans[0].tokens))
            return forward(spans, every_position)

        resume = pause(tiny)
        monkeypatch.setattr(tiny.model, "logits", noting)
        wishes = Sampling(temperature=0, max_tokens=1)
        prompts = {f"long {i}": random_tokens(320, i) for i in range(long_ones)}
        prompts |= {"short": random_tokens(20, 9), "second": random_tokens(50, 10)}
        replies = [
            tiny.ask(prompt, name=name, on_delta=answering(name), sampling=wishes)
            for name, prompt in prompts.items()
        ]
        resume.set()
        for reply in replies:
            reply.wait()
    # `second` has a whole chunk of its own before its last 18 tokens.
    assert answered[:2] == [("short", long_ones), ("second", 2 * long_ones + 1)]
    assert [name for name, _ in answered[2:]] == [f"long {i}" for i in range(long_ones)]


def test_the_status_tells_that_slots_are_waited_for(tiny_folder: Path, tiny_adapters: Path) -> None:
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


def test_each_is_told_its_place_in_the_queue_whenever_it_moves(
    tiny_folder: Path, tiny_adapters: Path
) -> None:
    with running(tiny_folder, tiny_adapters, max_sequences=1) as tiny:
        told: dict[str, list[tuple[int, str]]] = {}

        def note(name: str) -> local_engine.Emit:
            def emit(delta: Delta) -> None:
                if delta.queued:
                    told.setdefault(name, []).append((delta.queued.ahead, delta.queued.reason))

            return emit

        resume = pause(tiny)
        replies = [
            tiny.ask(random_tokens(9, i), name=f"{i}", on_delta=note(f"{i}")) for i in range(4)
        ]
        resume.set()
        for reply in replies:
            reply.wait()
    places = {name: [ahead for ahead, _ in seen] for name, seen in told.items()}
    assert places == {"1": [0], "2": [1, 0], "3": [2, 1, 0]}
    assert {reason for seen in told.values() for _, reason in seen} == {"slots"}


def test_who_is_refused_is_told_when_to_come_back(tiny_folder: Path, tiny_adapters: Path) -> None:
    with running(tiny_folder, tiny_adapters, max_sequences=2, max_waiting=3) as tiny:
        resume = pause(tiny)
        tiny.engine._wait_estimator.record(20.0)
        replies = [tiny.ask(random_tokens(9, i), name=f"{i}") for i in range(3)]
        with pytest.raises(BusyError, match=r"3 replies .* about 40 s") as caught:
            tiny.ask(random_tokens(9, 9))
        resume.set()
        for reply in replies:
            reply.wait()
    assert caught.value.retry_after == 40.0


def test_the_wait_is_learned_from_replies(tiny_folder: Path, tiny_adapters: Path) -> None:
    with running(tiny_folder, tiny_adapters, max_sequences=1) as tiny:
        before = tiny.engine._wait_estimator.estimate(99)
        for i in range(3):
            tiny.ask(random_tokens(9, i)).wait()
        assert tiny.engine._wait_estimator.estimate(99) < before / 2
