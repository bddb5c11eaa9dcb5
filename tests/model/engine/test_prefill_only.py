"""Prefill-only requests: what later requests find of them, and that no reply waits for them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from model.engine.sampler import Floats
from model.engine.step_runner import PREFILL_CHUNK
from model.errors import BusyError, EngineError
from model.layers.llama import SequenceSlice
from model.sampling import Sampling
from model.types import Delta, Emit, FinishReason
from tests.model.engine.running import (
    CACHE_BYTES,
    ForwardRecorder,
    Ids,
    Running,
    RunningReply,
    pause,
    random_tokens,
    running,
)


def prefill(
    engine: Running, prompt: Ids, adapter: str | None = None, name: str = "prefill"
) -> RunningReply:
    return engine.ask(prompt, adapter, name=name, prefill_only=True)


@pytest.mark.parametrize("adapter", [None, "all", "extended"])
def test_a_prefill_is_found_by_later_requests(
    caching: Running, fresh: Running, adapter: str | None
) -> None:
    chat = random_tokens(300, 1)
    (last,) = prefill(caching, chat, adapter).wait().deltas
    assert (last.text, last.finish_reason) == ("", FinishReason.STOP)
    assert last.stats
    stats = last.stats
    assert (stats.prompt_tokens, stats.completion_tokens, stats.cached_tokens) == (300, 0, 0)
    prompt = chat + random_tokens(20, 2)
    reply = caching.ask(prompt, adapter).wait()
    assert reply.cached == 300
    assert reply.ids == fresh.ask(prompt, adapter).wait().ids


def test_a_prefill_is_not_shared_with_other_adapters(caching: Running) -> None:
    prefill(caching, random_tokens(60, 1), "all").wait()
    assert caching.ask((*random_tokens(60, 1), 5)).wait().cached == 0
    assert caching.ask((*random_tokens(60, 1), 5), "all").wait().cached == 60


def test_cached_tokens_are_not_computed_again(
    caching: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply_ids = caching.ask(random_tokens(60, 1)).wait().ids
    recorder = ForwardRecorder(caching, monkeypatch)
    cached = random_tokens(60, 1) + reply_ids[:-1]
    assert prefill(caching, cached).wait().cached == len(cached)
    assert recorder.sizes == []
    assert prefill(caching, cached + random_tokens(10, 2)).wait().cached == len(cached)
    assert recorder.sizes == [[10]]


def test_an_aborted_prefill_keeps_its_computed_part(
    caching: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = ForwardRecorder(caching, monkeypatch, pause_at=0)
    reply = prefill(caching, random_tokens(500, 1))
    assert recorder.paused.wait(60)
    caching.engine.abort("prefill")
    recorder.resume.set()
    assert reply.wait().last.finish_reason is FinishReason.ABORT
    assert recorder.sizes == [[PREFILL_CHUNK]]
    assert caching.ask(random_tokens(500, 1)).wait().cached == PREFILL_CHUNK


@pytest.mark.parametrize("max_sequences", [1, 4])
def test_a_reply_waits_for_one_chunk_at_most(
    tiny_folder: Path,
    tiny_adapters: Path,
    fresh: Running,
    monkeypatch: pytest.MonkeyPatch,
    max_sequences: int,
) -> None:
    """It comes while the first chunk is computed. The prefill goes on when it has ended."""
    ended: list[str] = []

    def ending(name: str) -> Emit:
        return lambda delta: ended.append(name) if delta.finish_reason else None

    with running(tiny_folder, tiny_adapters, "none", max_sequences, CACHE_BYTES) as caching:
        recorder = ForwardRecorder(caching, monkeypatch, pause_at=0)
        prefilling = caching.ask(
            random_tokens(500, 1), name="prefill", prefill_only=True, on_delta=ending("prefill")
        )
        assert recorder.paused.wait(60)
        assert (caching.engine.status().running, caching.engine.status().waiting) == (0, 0)
        queued: list[Delta] = []

        def note(delta: Delta) -> None:
            ending("reply")(delta)
            queued.extend([delta] if delta.queued else [])

        sampling = Sampling(temperature=0, max_tokens=9)
        reply = caching.ask(random_tokens(30, 2), name="reply", on_delta=note, sampling=sampling)
        recorder.resume.set()
        assert reply.wait().ids == fresh.ask(random_tokens(30, 2), sampling=sampling).wait().ids
        assert prefilling.wait().last.finish_reason is FinishReason.STOP
        assert ended == ["reply", "prefill"]
        assert not queued
        widths = [width for (width,) in recorder.sizes]
        assert widths[:2] == [PREFILL_CHUNK, 30]
        assert widths[-1] == 500 - PREFILL_CHUNK
        assert prefilling.cached == 0  # its own first part does not count as cached
        assert caching.ask((*random_tokens(500, 1), 7)).wait().cached == 500


def test_a_reply_of_the_same_chat_takes_over_the_computed_part(
    caching: Running, fresh: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = ForwardRecorder(caching, monkeypatch, pause_at=0)
    chat = random_tokens(460, 1)
    prefilling = prefill(caching, chat)
    assert recorder.paused.wait(60)
    reply = caching.ask(chat + random_tokens(20, 2), name="reply")
    recorder.resume.set()
    assert reply.wait().cached == PREFILL_CHUNK
    assert reply.ids == fresh.ask(chat + random_tokens(20, 2)).wait().ids
    assert prefilling.wait().last.finish_reason is FinishReason.STOP
    assert PREFILL_CHUNK + sum(w for (w,) in recorder.sizes[1:] if w > 9) == 480  # each token once


def test_memory_of_a_prefill_is_free_for_replies(
    tiny_folder: Path, tiny_adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget is one full context, and the prefill has all of it."""
    with running(tiny_folder, tiny_adapters, "none", 4, 512 * 256) as caching:
        recorder = ForwardRecorder(caching, monkeypatch, pause_at=0)
        prefilling = prefill(caching, random_tokens(500, 1))
        assert recorder.paused.wait(60)
        deltas: list[Delta] = []
        reply = caching.ask(random_tokens(300, 2), on_delta=deltas.append)
        recorder.resume.set()
        assert reply.wait().last.error is None
        assert not any(delta.queued for delta in deltas)
        assert prefilling.wait().last.finish_reason is FinishReason.STOP


def test_prefills_do_not_fill_the_queue_of_replies(tiny_folder: Path, tiny_adapters: Path) -> None:
    with running(tiny_folder, tiny_adapters, cache_bytes=CACHE_BYTES, max_waiting=2) as caching:
        resume = pause(caching)
        prefills = [prefill(caching, random_tokens(30, i), name=f"{i}") for i in range(2)]
        with pytest.raises(BusyError):
            prefill(caching, random_tokens(30, 9))
        replies = [caching.ask(random_tokens(30, i), name=f"reply {i}") for i in (5, 6)]
        assert caching.engine.status().waiting == 2
        resume.set()
        for reply in (*prefills, *replies):
            assert reply.wait().last.error is None


def test_a_prefill_does_not_change_the_estimated_wait(caching: Running) -> None:
    before = caching.estimated_wait(3)
    prefill(caching, random_tokens(300, 1)).wait()
    assert caching.estimated_wait(3) == before


def test_closing_ends_a_waiting_prefill(caching: Running) -> None:
    resume = pause(caching)
    reply = prefill(caching, random_tokens(300, 1))
    threading.Timer(0.1, resume.set).start()
    caching.engine.close()
    assert reply.wait().last.finish_reason is FinishReason.ABORT
    with pytest.raises(EngineError):
        prefill(caching, random_tokens(300, 1))


def test_a_failing_step_ends_the_prefill_alone(
    caching: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(slices: Sequence[SequenceSlice], every_position: bool = False) -> Floats:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(caching.model, "logits", failing)
        assert (
            prefill(caching, random_tokens(60, 1)).wait().last.finish_reason is FinishReason.ERROR
        )
    assert caching.ask(random_tokens(60, 1)).wait().last.error is None
