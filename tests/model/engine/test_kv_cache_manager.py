"""The budget for keys and values: waiting, eviction and preemption, and that no reply changes.

The caches grow in steps of 16 positions here, of 4 KiB each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from model.engine import kv_cache, kv_cache_manager
from model.engine.kv_cache import SequenceCache
from model.engine.sampler import Floats
from model.engine.scheduler import Scheduler
from model.layers.llama import SequenceSlice
from model.sampling import Sampling
from model.types import Delta, FinishReason
from tests.model.engine.running import Running, RunningReply, pause, random_tokens, running

MakeEngine = Callable[[int | None], AbstractContextManager[Running]]

STEP = 16
STEP_BYTES = 4096
LONG = Sampling(temperature=0, max_tokens=60)  # with 10 tokens of prompt: 2 steps at first, then 5
SHORT = Sampling(temperature=0, max_tokens=6)  # 1 step with 10 tokens of prompt


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_cache, "GROWTH", STEP)
    monkeypatch.setattr(kv_cache_manager, "GROWTH", STEP)


@pytest.fixture
def preempted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of preempted sequences, in their order."""
    ids: list[str] = []
    preempt = Scheduler.preempt

    def record(self: Scheduler) -> object:
        sequence = preempt(self)
        if sequence:
            ids.append(sequence.request.id)
        return sequence

    monkeypatch.setattr(Scheduler, "preempt", record)
    return ids


@pytest.fixture
def engine(tiny_folder: Path, tiny_adapters: Path) -> MakeEngine:
    """Makes engines whose budget is a number of growth steps."""

    @contextmanager
    def make(steps: int | None) -> Iterator[Running]:
        budget = None if steps is None else steps * STEP_BYTES
        with running(tiny_folder, tiny_adapters, cache_bytes=budget) as made:
            assert budget is None or made.model.cache_format.position_bytes * STEP == STEP_BYTES
            yield made

    return make


def ask_at_once(
    tiny: Running, count: int, sampling: Sampling, running_then: list[int]
) -> list[RunningReply]:
    """`count` different prompts; `running_then` gets the number of running ones at each delta."""

    def note(_: Delta) -> None:
        running_then.append(tiny.engine.status().running)

    resume = pause(tiny)
    replies = [
        tiny.ask(random_tokens(10, i), "all", name=f"{i}", on_delta=note, sampling=sampling)
        for i in range(count)
    ]
    resume.set()
    return [reply.wait() for reply in replies]


@pytest.mark.parametrize("sampling", [LONG, Sampling(
    temperature=0.9, seed=5, repetition_penalty=1.2, max_tokens=60, min_tokens=60)])  # fmt: skip
def test_preemption_changes_no_reply(
    engine: MakeEngine, preempted: list[str], sampling: Sampling
) -> None:
    with engine(None) as plenty:
        expected = [reply.ids for reply in ask_at_once(plenty, 3, sampling, [])]
    assert not preempted
    with engine(7) as tiny:
        running_then: list[int] = []
        replies = ask_at_once(tiny, 3, sampling, running_then)
    assert preempted  # else the test shows nothing
    assert "0" not in preempted  # the first one is never preempted
    assert max(running_then) > 1
    assert [reply.ids for reply in replies] == expected
    for reply in replies:
        assert reply.last.finish_reason is FinishReason.LENGTH
        assert reply.last.stats
        assert reply.last.stats.completion_tokens == 60
        assert reply.last.stats.cached_tokens == 0


def test_a_preempted_sequence_comes_before_the_queue(
    engine: MakeEngine, preempted: list[str]
) -> None:
    ended: list[str] = []

    def on_end(name: str) -> Callable[[Delta], None]:
        return lambda delta: ended.append(name) if delta.finish_reason else None

    with engine(7) as tiny:
        resume = pause(tiny)
        replies = [
            tiny.ask(random_tokens(10, i), name=f"{i}", on_delta=on_end(f"{i}"), sampling=LONG)
            for i in range(4)
        ]
        resume.set()
        for reply in replies:
            reply.wait()
    assert preempted
    assert ended == ["0", "1", "2", "3"]


def test_preemption_does_not_change_the_cached_tokens(
    engine: MakeEngine, preempted: list[str]
) -> None:
    prompt = random_tokens(22, 5)
    with engine(None) as plenty:
        expected = plenty.ask(prompt, sampling=LONG).wait().ids
    with engine(9) as tiny:
        tiny.ask(prompt[:20], sampling=Sampling(max_tokens=1)).wait()
        resume = pause(tiny)
        tiny.ask(random_tokens(10, 0), name="0", sampling=LONG)
        reply = tiny.ask(prompt, name="1", sampling=LONG)
        resume.set()
        assert reply.wait().ids == expected
    assert preempted == ["1"]
    assert reply.cached == 20


def test_a_sequence_that_does_not_fit_waits(engine: MakeEngine, preempted: list[str]) -> None:
    with engine(None) as plenty:
        expected = [reply.ids for reply in ask_at_once(plenty, 5, SHORT, [])]
    with engine(2) as tiny:
        running_then: list[int] = []
        assert [r.ids for r in ask_at_once(tiny, 5, SHORT, running_then)] == expected
    assert max(running_then) == 2
    assert not preempted


def test_the_status_has_memory_as_the_waiting_reason(engine: MakeEngine) -> None:
    seen: list[str | None] = []
    with engine(2) as tiny:
        resume = pause(tiny)
        replies = [
            tiny.ask(
                random_tokens(10, i), name=f"{i}", sampling=SHORT,
                on_delta=lambda _: seen.append(tiny.engine.status().waiting_reason),
            )
            for i in range(3)
        ]  # fmt: skip
        resume.set()
        for reply in replies:
            reply.wait()
    assert seen[0] == "memory"
    assert seen[-1] is None


def test_cached_entries_are_evicted_before_a_sequence_waits(
    engine: MakeEngine, preempted: list[str]
) -> None:
    with engine(5) as tiny:
        tiny.ask(random_tokens(20, 9), sampling=LONG).wait()  # 5 steps, all of the budget
        running_then: list[int] = []
        ask_at_once(tiny, 4, SHORT, running_then)
    assert max(running_then) == 4
    assert not preempted


def test_cached_entries_are_evicted_before_a_preemption(
    engine: MakeEngine, preempted: list[str]
) -> None:
    with engine(10) as tiny:
        tiny.ask(random_tokens(10, 9), sampling=LONG).wait()
        ask_at_once(tiny, 2, LONG, [])
        assert tiny.ask(random_tokens(10, 9)).wait().cached == 0
    assert not preempted


@pytest.mark.slow
def test_the_budget_is_not_exceeded(
    engine: MakeEngine, preempted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum of running, waiting and cached sequences, at every forward."""
    with engine(9) as tiny:
        seen: list[int] = []
        forward = tiny.model.logits

        def record(slices: Sequence[SequenceSlice], every_position: bool = False) -> Floats:
            scheduler = tiny.engine._scheduler
            sequences = (*scheduler.running, *scheduler.waiting)
            seen.append(tiny.engine._memory.nbytes(sequences))
            return forward(slices, every_position)

        monkeypatch.setattr(tiny.model, "logits", record)
        prompts = [random_tokens(10 + i, i) for i in range(4)]
        for _ in range(3):
            resume = pause(tiny)
            replies = [tiny.ask(p, name=f"{i}", sampling=LONG) for i, p in enumerate(prompts)]
            resume.set()
            chosen = [reply.wait().ids[:9] for reply in replies]
            prompts = [
                p + ids + random_tokens(3, 7) for p, ids in zip(prompts, chosen, strict=True)
            ]
    assert 7 * STEP_BYTES < max(seen) <= 9 * STEP_BYTES
    assert preempted


def test_the_context_is_bounded_by_the_budget(engine: MakeEngine) -> None:
    with engine(3) as tiny, engine(None) as plenty, engine(1000) as enough:
        assert tiny.engine.context_length == 3 * STEP
        assert enough.engine.context_length == plenty.engine.context_length == 512


def test_a_single_sequence_ends_with_the_budget(engine: MakeEngine) -> None:
    with engine(None) as plenty:
        expected = plenty.ask(random_tokens(10, 0), sampling=LONG).wait().ids
    with engine(3) as tiny:
        reply = tiny.ask(random_tokens(10, 0), sampling=LONG).wait()
        assert reply.last.finish_reason is FinishReason.LENGTH
        assert reply.last.error is None
        assert reply.ids == expected[: 3 * STEP - 10 + 1]
        assert tiny.ask(random_tokens(10, 1), sampling=SHORT).wait().last.finish_reason == "length"


def test_a_preempted_sequence_may_fill_the_budget_later(
    engine: MakeEngine, preempted: list[str]
) -> None:
    """The budget has no room for a step beside its tokens: it must start over all the same."""
    with engine(None) as plenty:
        expected = [reply.ids for reply in ask_at_once(plenty, 2, LONG, [])]
    with engine(5) as tiny:
        assert [reply.ids for reply in ask_at_once(tiny, 2, LONG, [])] == expected
    assert preempted == ["1"]


def test_a_prompt_beyond_the_budget_is_refused(engine: MakeEngine) -> None:
    with engine(3) as tiny:
        reply = tiny.ask(random_tokens(49, 0)).wait()
        assert reply.last.finish_reason is FinishReason.ERROR
        assert "not enough memory" in str(reply.last.error)
        assert (
            tiny.ask(random_tokens(48, 0), sampling=Sampling(max_tokens=1)).wait().last.error
            is None
        )


# When the machine runs out of memory, whatever the budget


def test_a_batch_without_memory_continues_with_fewer_sequences(
    engine: MakeEngine, preempted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    with engine(None) as tiny:
        expected = [reply.ids for reply in ask_at_once(tiny, 3, LONG, [])]
        forward = tiny.model.logits

        def failing(slices: Sequence[SequenceSlice], every_position: bool = False) -> Floats:
            if len(slices) > 1:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
            return forward(slices, every_position)

        monkeypatch.setattr(tiny.model, "logits", failing)
        assert [reply.ids for reply in ask_at_once(tiny, 3, LONG, [])] == expected
    assert set(preempted) == {"1", "2"}


def test_cached_entries_are_dropped_when_a_step_lacks_memory(
    engine: MakeEngine, preempted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    with engine(1000) as tiny:
        expected = tiny.ask(random_tokens(30, 0), sampling=LONG).wait().ids
        tiny.ask(random_tokens(30, 1)).wait()
        forward, failed = tiny.model.logits, []

        def failing_once(slices: Sequence[SequenceSlice], every_position: bool = False) -> Floats:
            if not failed:
                failed.append(True)
                raise MemoryError
            return forward(slices, every_position)

        monkeypatch.setattr(tiny.model, "logits", failing_once)
        assert tiny.ask(random_tokens(30, 0), sampling=LONG).wait().ids == expected
        assert failed
        assert tiny.ask(random_tokens(30, 1)).wait().cached == 0
    assert not preempted


@pytest.mark.parametrize("growing", [False, True])
def test_cached_entries_are_dropped_when_a_cache_lacks_memory(
    engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, growing: bool
) -> None:  # fmt: skip
    with engine(1000) as tiny:
        expected = tiny.ask(random_tokens(10, 0), sampling=LONG).wait().ids
        tiny.ask(random_tokens(30, 1)).wait()
        reserve, failed = SequenceCache.reserve, []

        def failing_once(self: SequenceCache, needed: int) -> None:
            if needed > self.capacity and bool(self.length) is growing and not failed:
                failed.append(True)
                raise RuntimeError("CUDA out of memory")
            reserve(self, needed)

        monkeypatch.setattr(SequenceCache, "reserve", failing_once)
        assert tiny.ask(random_tokens(10, 0), sampling=LONG).wait().ids == expected
        assert failed
        assert tiny.ask(random_tokens(30, 1)).wait().cached == 0


def test_without_memory_for_a_cache_the_second_sequence_waits(
    engine: MakeEngine, preempted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    with engine(None) as tiny:
        expected = [reply.ids for reply in ask_at_once(tiny, 2, LONG, [])]
        reserve = SequenceCache.reserve

        def failing(self: SequenceCache, needed: int) -> None:
            others = [s for s in tiny.engine._scheduler.running if s.cache is not self]
            if needed > self.capacity and any(s.cache.length for s in others):
                raise MemoryError
            reserve(self, needed)

        monkeypatch.setattr(SequenceCache, "reserve", failing)
        assert [reply.ids for reply in ask_at_once(tiny, 2, LONG, [])] == expected
