"""The engine over the compiled 8-bit model: a reply depends on its own request alone.

`test_equality` compares full precision with transformers and PEFT; here replies in 8 bits are
compared with 8-bit replies alone, to the last token.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from model.config.settings import APP_NAME
from model.engine import kv_cache, kv_cache_manager, step_runner
from model.engine.scheduler import Scheduler
from model.layers.kernel_build import build_folder, make_decoder
from model.layers.linear import Int8Linear
from model.layers.llama import SequenceSlice
from model.sampling import Sampling
from tests.model.engine.running import ForwardRecorder, Ids, Running, RunningReply, running
from tests.model.engine.test_equality import ADAPTERS, prompts

Job = tuple[Ids, str | None, Sampling]

TOKENS = 120
GREEDY = Sampling(temperature=0, max_tokens=TOKENS)
DRAWN = Sampling(temperature=0.02, seed=3, max_tokens=TOKENS)
PENALIZED = Sampling(temperature=1, seed=5, max_tokens=TOKENS, repetition_penalty=1.2)
SAMPLINGS = [GREEDY, DRAWN, Sampling(temperature=0, max_tokens=TOKENS, logprobs=2)]
PLENTY = 1 << 26


@contextmanager
def compiled(base: Path, adapters: Path, cache_bytes: int) -> Iterator[Running]:
    with running(base, adapters, "8bit", cache_bytes=cache_bytes) as engine:
        decoder = make_decoder(build_folder(user_cache_path(APP_NAME)), engine.model, 2, 256, 16)
        engine.model.set_decoder(decoder)
        yield engine


@pytest.fixture
def tiny(tiny_folder: Path, tiny_adapters: Path) -> Iterator[Running]:
    with compiled(tiny_folder, tiny_adapters, cache_bytes=PLENTY) as engine:
        yield engine


@pytest.fixture
def looping(tiny: Running) -> Running:
    """A model that soon repeats itself: a random one with little attention."""
    for layer in tiny.model.layers:
        assert isinstance(layer.o.linear, Int8Linear)
        layer.o.linear.scale *= 0.2
    return tiny


def one_by_one(tiny: Running, jobs: Sequence[Job]) -> list[RunningReply]:
    """The replies without draft tokens, one after another, nothing reused."""
    replies = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_runner, "MAX_SPECULATIVE_ROWS", 0)
        for prompt, adapter, sampling in jobs:
            replies.append(tiny.ask(prompt, adapter, sampling=sampling).wait())
            tiny.clear_cache()
    return replies


def test_logits_of_another_vocabulary_are_minus_infinity(tiny: Running) -> None:
    adapter = tiny.registry.get("extended")
    lora = tiny.registry.load("extended", adapter.digest, tiny.model)
    caches = [kv_cache.SequenceCache(tiny.model.cache_format) for _ in range(3)]
    slices = [
        SequenceSlice([5, 6], caches[0]),
        SequenceSlice([5, 360], caches[1], lora),
        SequenceSlice([7], caches[2]),
    ]
    logits = tiny.model.forward(slices)
    assert logits.shape == (3, 361)
    assert (logits[[0, 2], 320:] == -math.inf).all()
    assert logits[[0, 2], :320].isfinite().all()
    assert logits[1].isfinite().all()


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "drawn", "logprobs"])
def test_draft_tokens_change_only_the_number_of_steps(
    looping: Running, monkeypatch: pytest.MonkeyPatch, sampling: Sampling
) -> None:
    jobs = [(prompt, None, sampling) for prompt in prompts(3, 320, 40)]
    expected = one_by_one(looping, jobs)
    recorder = ForwardRecorder(looping, monkeypatch)
    for (prompt, _, _), reply in zip(jobs, expected, strict=True):
        got = looping.ask(prompt, sampling=sampling).wait()
        looping.clear_cache()
        assert got.ids == reply.ids
        # Logprobs are the same to the last bit, too.
        assert [d.logprobs for d in got.deltas] == [d.logprobs for d in reply.deltas]
    tokens = sum(sum(sizes) for sizes in recorder.sizes)
    assert tokens > sum(len(prompt) - 1 + TOKENS for prompt, _, _ in jobs), (
        "no draft token was wrong"
    )
    assert len(recorder.sizes) < len(jobs) * TOKENS, "no draft token was right"


def test_draft_ends_with_the_reply(looping: Running) -> None:
    """At the last allowed token, an end token or a stop string: no later draft token comes out."""
    (prompt,) = prompts(1, 320, 12)
    (full_reply,) = one_by_one(looping, [(prompt, None, GREEDY)])
    for length in range(1, 40):
        sampling = Sampling(temperature=0, max_tokens=length)
        assert looping.ask(prompt, sampling=sampling).wait().ids == full_reply.ids[:length]
    for at in range(20, 40):
        end = full_reply.ids[at]
        expected = full_reply.ids[: full_reply.ids.index(end)]
        assert looping.ask(prompt, eos=frozenset([end]), sampling=GREEDY).wait().ids == expected
        text = f"{end} "
        stopped = Sampling(temperature=0, max_tokens=TOKENS, stop=(text,))
        shown = "".join(d.text for d in looping.ask(prompt, sampling=stopped).wait().deltas)
        assert shown == "".join(f"{i} " for i in full_reply.ids).partition(text)[0]


def test_many_sequences_have_no_draft_tokens(
    tiny: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = ForwardRecorder(tiny, monkeypatch)
    replies = [
        tiny.ask(p, sampling=GREEDY) for p in prompts(step_runner.MAX_SPECULATIVE_ROWS + 1, 320, 40)
    ]
    for reply in replies:
        reply.wait()
    full = [sizes for sizes in recorder.sizes if len(sizes) == len(replies)]
    assert full[1:]
    assert all(size == 1 for sizes in full[1:] for size in sizes)
    assert (
        max(sum(sizes) for sizes in recorder.sizes if max(sizes) < 3)
        <= step_runner.MAX_SPECULATIVE_ROWS + 1
    )


def test_torch_has_no_draft_tokens(
    tiny_folder: Path, tiny_adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results depend on the number of rows: a draft could change a reply."""
    with running(tiny_folder, tiny_adapters) as engine:
        recorder = ForwardRecorder(engine, monkeypatch)
        engine.ask(prompts(1, 320, 12)[0], sampling=GREEDY).wait()
    assert recorder.sizes[1:] == [[1]] * (TOKENS - 1)


def mixed() -> list[Job]:
    jobs = zip(prompts(16, 320, 300), ADAPTERS * 2, strict=True)
    samplings = GREEDY, DRAWN, PENALIZED
    return [(prompt, adapter, samplings[i % 3]) for i, (prompt, adapter) in enumerate(jobs)]


def test_replies_in_a_batch_are_as_alone(tiny: Running) -> None:
    expected = one_by_one(tiny, mixed())
    replies = [
        tiny.ask(prompt, adapter, name=str(i), sampling=sampling)
        for i, (prompt, adapter, sampling) in enumerate(mixed())
    ]
    assert [reply.wait().ids for reply in replies] == [reply.ids for reply in expected]
    assert len({reply.ids for reply in expected[: len(ADAPTERS)]}) == len(ADAPTERS)


@pytest.mark.parametrize("adapter", [None, "all", "whole"])
def test_next_turns_over_cached_prefixes_are_as_without(tiny: Running, adapter: str | None) -> None:
    prompt = prompts(1, 320, 60)[0]
    for turn in range(3):
        got = tiny.ask(prompt, adapter, sampling=GREEDY).wait()
        assert bool(got.cached) == (turn > 0)
        tiny.clear_cache()
        (expected,) = one_by_one(tiny, [(prompt, adapter, GREEDY)])
        assert got.ids == expected.ids
        tiny.ask(prompt, adapter, sampling=GREEDY).wait()
        prompt = (*prompt, *got.ids, 5 + turn, 9, 4)


def test_replies_are_as_alone_after_a_preemption(
    tiny_folder: Path, tiny_adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last sequence is preempted and starts over; no reply changes."""
    for module in (kv_cache, kv_cache_manager):
        monkeypatch.setattr(module, "GROWTH", 16)
    position = 2 * 2 * 2 * 8 * 2  # keys and values, layers, key heads, size, bytes
    with compiled(tiny_folder, tiny_adapters, cache_bytes=200 * position) as engine:
        jobs = [(prompt, "all", GREEDY) for prompt in prompts(3, 320, 20)]
        expected = one_by_one(engine, jobs)
        preempted = []
        preempt = Scheduler.preempt

        def record(self: Scheduler) -> object:
            preempted.append(sequence := preempt(self))
            return sequence

        monkeypatch.setattr(Scheduler, "preempt", record)
        replies = [engine.ask(p, a, name=str(i), sampling=w) for i, (p, a, w) in enumerate(jobs)]
        assert [reply.wait().ids for reply in replies] == [reply.ids for reply in expected]
        assert any(preempted)


def test_closing_ends_all_threads(tiny_folder: Path, tiny_adapters: Path) -> None:
    before = threading.active_count()
    with compiled(tiny_folder, tiny_adapters, cache_bytes=PLENTY) as engine:
        engine.ask(prompts(1, 320, 12)[0]).wait()
        assert threading.active_count() == before + 2  # the engine's and one worker
    assert threading.active_count() == before
