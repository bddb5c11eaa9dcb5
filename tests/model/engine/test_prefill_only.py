"""Reading ahead: what it leaves for later requests, and that no reply waits for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from model.engine import local_engine
from model.engine.local_engine import PREFILL_CHUNK
from model.engine.sampler import Floats
from model.layers.llama import SequenceSlice
from model.types import BusyError, Delta, EngineError, FinishReason, Sampling
from tests.model.engine.running import Ids, Reply, Running, pause, random_tokens, running

PLENTY = 1 << 26


@pytest.fixture
def tiny(tiny_folder: Path, tiny_adapters: Path) -> Iterator[Running]:
    with running(tiny_folder, tiny_adapters, cache_bytes=PLENTY) as engine:
        yield engine


@pytest.fixture(scope="module")
def fresh(tiny_folder: Path, tiny_adapters: Path) -> Iterator[Running]:
    """An engine that reuses nothing."""
    with running(tiny_folder, tiny_adapters) as engine:
        yield engine


def read(engine: Running, prompt: Ids, adapter: str | None = None, name: str = "read") -> Reply:
    return engine.ask(prompt, adapter, name=name, prefill_only=True)


class Steps:
    """Every forward's spans as numbers of tokens; the one at `pause_at` waits for `resume`."""

    def __init__(
        self, tiny: Running, monkeypatch: pytest.MonkeyPatch, pause_at: int | None = None
    ) -> None:
        self.seen: list[list[int]] = []
        self.paused, self.resume = threading.Event(), threading.Event()
        forward = tiny.model.logits

        def noting(spans: Sequence[SequenceSlice], every_position: bool = False) -> Floats:
            self.seen.append([len(span.tokens) for span in spans])
            if len(self.seen) - 1 == pause_at:
                self.paused.set()
                assert self.resume.wait(60)
            return forward(spans, every_position)

        monkeypatch.setattr(tiny.model, "logits", noting)


@pytest.mark.parametrize("adapter", [None, "all", "extended"])
def test_what_was_read_is_found(tiny: Running, fresh: Running, adapter: str | None) -> None:
    chat = random_tokens(300, 1)
    (last,) = read(tiny, chat, adapter).wait().deltas
    assert (last.text, last.finish_reason) == ("", FinishReason.STOP)
    assert last.stats
    stats = last.stats
    assert (stats.prompt_tokens, stats.completion_tokens, stats.cached_tokens) == (300, 0, 0)
    prompt = chat + random_tokens(20, 2)
    reply = tiny.ask(prompt, adapter).wait()
    assert reply.cached == 300
    assert reply.ids == fresh.ask(prompt, adapter).wait().ids


def test_nothing_is_shared_with_whoever_is_not_meant(tiny: Running) -> None:
    read(tiny, random_tokens(60, 1), "all").wait()
    assert tiny.ask((*random_tokens(60, 1), 5)).wait().cached == 0
    assert tiny.ask((*random_tokens(60, 1), 5), "all").wait().cached == 60


def test_what_is_known_is_not_read_again(tiny: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tiny.ask(random_tokens(60, 1)).wait().ids
    steps = Steps(tiny, monkeypatch)
    known = random_tokens(60, 1) + said[:-1]
    assert read(tiny, known).wait().cached == len(known)
    assert steps.seen == []
    assert read(tiny, known + random_tokens(10, 2)).wait().cached == len(known)
    assert steps.seen == [[10]]


def test_aborted_midway_it_keeps_what_was_read(
    tiny: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(tiny, monkeypatch, pause_at=0)
    reply = read(tiny, random_tokens(500, 1))
    assert steps.paused.wait(60)
    tiny.engine.abort("read")
    steps.resume.set()
    assert reply.wait().last.finish_reason is FinishReason.ABORT
    assert steps.seen == [[PREFILL_CHUNK]]
    assert tiny.ask(random_tokens(500, 1)).wait().cached == PREFILL_CHUNK


@pytest.mark.parametrize("max_sequences", [1, 4])
def test_a_reply_waits_for_one_chunk_at_most(
    tiny_folder: Path,
    tiny_adapters: Path,
    fresh: Running,
    monkeypatch: pytest.MonkeyPatch,
    max_sequences: int,
) -> None:
    """It comes while the first chunk is computed. Reading goes on when it has ended."""
    ended: list[str] = []

    def ending(name: str) -> local_engine.Emit:
        return lambda delta: ended.append(name) if delta.finish_reason else None

    with running(tiny_folder, tiny_adapters, "none", max_sequences, PLENTY) as tiny:
        steps = Steps(tiny, monkeypatch, pause_at=0)
        reading = tiny.ask(
            random_tokens(500, 1), name="read", prefill_only=True, on_delta=ending("read")
        )
        assert steps.paused.wait(60)
        assert (tiny.engine.status().running, tiny.engine.status().waiting) == (0, 0)
        queued: list[Delta] = []

        def note(delta: Delta) -> None:
            ending("reply")(delta)
            queued.extend([delta] if delta.queued else [])

        wishes = Sampling(temperature=0, max_tokens=9)
        reply = tiny.ask(random_tokens(30, 2), name="reply", on_delta=note, sampling=wishes)
        steps.resume.set()
        assert reply.wait().ids == fresh.ask(random_tokens(30, 2), sampling=wishes).wait().ids
        assert reading.wait().last.finish_reason is FinishReason.STOP
        assert ended == ["reply", "read"]
        assert not queued
        widths = [width for (width,) in steps.seen]
        assert widths[:2] == [PREFILL_CHUNK, 30]
        assert widths[-1] == 500 - PREFILL_CHUNK
        assert reading.cached == 0  # what it had read itself does not count as known
        assert tiny.ask((*random_tokens(500, 1), 7)).wait().cached == 500


def test_the_chats_own_question_takes_over_what_was_read(
    tiny: Running, fresh: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(tiny, monkeypatch, pause_at=0)
    chat = random_tokens(460, 1)
    reading = read(tiny, chat)
    assert steps.paused.wait(60)
    reply = tiny.ask(chat + random_tokens(20, 2), name="reply")
    steps.resume.set()
    assert reply.wait().cached == PREFILL_CHUNK
    assert reply.ids == fresh.ask(chat + random_tokens(20, 2)).wait().ids
    assert reading.wait().last.finish_reason is FinishReason.STOP
    assert PREFILL_CHUNK + sum(w for (w,) in steps.seen[1:] if w > 9) == 480  # each token once


def test_memory_that_was_read_into_is_there_for_replies(
    tiny_folder: Path, tiny_adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget of one whole context, and reading has all of it."""
    with running(tiny_folder, tiny_adapters, "none", 4, 512 * 256) as tiny:
        steps = Steps(tiny, monkeypatch, pause_at=0)
        reading = read(tiny, random_tokens(500, 1))
        assert steps.paused.wait(60)
        told: list[Delta] = []
        reply = tiny.ask(random_tokens(300, 2), on_delta=told.append)
        steps.resume.set()
        assert reply.wait().last.error is None
        assert not any(delta.queued for delta in told)
        assert reading.wait().last.finish_reason is FinishReason.STOP


def test_those_who_are_to_be_read_fill_nobodys_queue(
    tiny: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny.engine, "_max_waiting", 2)
    resume = pause(tiny)
    readings = [read(tiny, random_tokens(30, i), name=f"{i}") for i in range(2)]
    with pytest.raises(BusyError):
        read(tiny, random_tokens(30, 9))
    replies = [tiny.ask(random_tokens(30, i), name=f"reply {i}") for i in (5, 6)]
    assert tiny.engine.status().waiting == 2
    resume.set()
    for each in (*readings, *replies):
        assert each.wait().last.error is None


def test_reading_changes_no_guess_at_the_wait(tiny: Running) -> None:
    before = tiny.engine._wait_estimator.estimate(3)
    read(tiny, random_tokens(300, 1)).wait()
    assert tiny.engine._wait_estimator.estimate(3) == before


def test_closing_ends_what_waits_to_be_read(tiny: Running) -> None:
    resume = pause(tiny)
    reply = read(tiny, random_tokens(300, 1))
    threading.Timer(0.1, resume.set).start()
    tiny.engine.close()
    assert reply.wait().last.finish_reason is FinishReason.ABORT
    with pytest.raises(EngineError):
        read(tiny, random_tokens(300, 1))


def test_a_failing_step_ends_reading_and_nothing_else(
    tiny: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(spans: Sequence[SequenceSlice], every_position: bool = False) -> Floats:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(tiny.model, "logits", failing)
        assert read(tiny, random_tokens(60, 1)).wait().last.finish_reason is FinishReason.ERROR
    assert tiny.ask(random_tokens(60, 1)).wait().last.error is None
