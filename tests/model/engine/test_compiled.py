"""The engine over the compiled 8-bit model: a reply depends on nothing but its own request.

Full precision is held against transformers and PEFT elsewhere; here 8 bits are held against
themselves, alone, and to the last token.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from platformdirs import user_cache_path
from torch import Tensor

from model.config.settings import APP_NAME
from model.engine import kv_cache, kv_cache_manager, local_engine
from model.engine.scheduler import Scheduler
from model.layers.kernel_build import build_folder, make_decoder
from model.layers.linear import Int8Linear
from model.layers.llama import SequenceSlice
from model.types import Sampling
from tests.model.engine.running import Ids, Reply, Running, running
from tests.model.engine.test_equality import ADAPTERS, prompts

Job = tuple[Ids, str | None, Sampling]

TOKENS = 120
GREEDY = Sampling(temperature=0, max_tokens=TOKENS)
DRAWN = Sampling(temperature=0.02, seed=3, max_tokens=TOKENS)
PENALIZED = Sampling(temperature=1, seed=5, max_tokens=TOKENS, repetition_penalty=1.2)
WISHES = [GREEDY, DRAWN, Sampling(temperature=0, max_tokens=TOKENS, logprobs=2)]
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
    """With little attention, a random model soon repeats itself."""
    for layer in tiny.model.layers:
        assert isinstance(layer.o.linear, Int8Linear)
        layer.o.linear.scale *= 0.2
    return tiny


class Steps:
    """How many tokens each forward computed of each sequence."""

    def __init__(self, tiny: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[list[int]] = []
        forward = tiny.model.logits

        def noting(spans: Sequence[SequenceSlice], every_position: bool = False) -> Tensor:
            self.sizes.append([len(span.tokens) for span in spans])
            return forward(spans, every_position)

        monkeypatch.setattr(tiny.model, "logits", noting)


def one_by_one(tiny: Running, asked: Sequence[Job]) -> list[Reply]:
    """The replies as they are without guesses, one after another, nothing reused."""
    replies = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_engine, "MAX_SPECULATIVE_ROWS", 0)
        for prompt, adapter, wishes in asked:
            replies.append(tiny.ask(prompt, adapter, sampling=wishes).wait())
            tiny.engine._memory.clear()
    return replies


def test_nobody_gets_logits_of_anothers_vocabulary(tiny: Running) -> None:
    adapter = tiny.registry.get("extended")
    lora = tiny.registry.load("extended", adapter.digest, tiny.model)
    caches = [kv_cache.SequenceCache(tiny.model.cache_format) for _ in range(3)]
    spans = [
        SequenceSlice([5, 6], caches[0]),
        SequenceSlice([5, 360], caches[1], lora),
        SequenceSlice([7], caches[2]),
    ]
    logits = tiny.model.forward(spans)
    assert logits.shape == (3, 361)
    assert (logits[[0, 2], 320:] == -math.inf).all()
    assert logits[[0, 2], :320].isfinite().all()
    assert logits[1].isfinite().all()


@pytest.mark.parametrize("wishes", WISHES, ids=["greedy", "drawn", "logprobs"])
def test_guesses_change_nothing_but_the_number_of_steps(
    looping: Running, monkeypatch: pytest.MonkeyPatch, wishes: Sampling
) -> None:
    asked = [(prompt, None, wishes) for prompt in prompts(3, 320, 40)]
    expected = one_by_one(looping, asked)
    steps = Steps(looping, monkeypatch)
    for (prompt, _, _), reply in zip(asked, expected, strict=True):
        got = looping.ask(prompt, sampling=wishes).wait()
        looping.engine._memory.clear()
        assert got.ids == reply.ids
        # A logprob is the same to the last bit too.
        assert [d.logprobs for d in got.deltas] == [d.logprobs for d in reply.deltas]
    tokens = sum(sum(sizes) for sizes in steps.sizes)
    assert tokens > sum(len(prompt) - 1 + TOKENS for prompt, _, _ in asked), "none was wrong"
    assert len(steps.sizes) < len(asked) * TOKENS, "none was ever right"


def test_guess_ends_with_the_reply(looping: Running) -> None:
    """The last token allowed, an end token, a stop string: nothing behind them comes out."""
    (prompt,) = prompts(1, 320, 12)
    (whole,) = one_by_one(looping, [(prompt, None, GREEDY)])
    for length in range(1, 40):
        wishes = Sampling(temperature=0, max_tokens=length)
        assert looping.ask(prompt, sampling=wishes).wait().ids == whole.ids[:length]
    for at in range(20, 40):
        end = whole.ids[at]
        expected = whole.ids[: whole.ids.index(end)]
        assert looping.ask(prompt, eos=frozenset([end]), sampling=GREEDY).wait().ids == expected
        text = f"{end} "
        stopped = Sampling(temperature=0, max_tokens=TOKENS, stop=(text,))
        shown = "".join(d.text for d in looping.ask(prompt, sampling=stopped).wait().deltas)
        assert shown == "".join(f"{i} " for i in whole.ids).partition(text)[0]


def test_many_at_once_compute_no_guesses(tiny: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(tiny, monkeypatch)
    replies = [
        tiny.ask(p, sampling=GREEDY)
        for p in prompts(local_engine.MAX_SPECULATIVE_ROWS + 1, 320, 40)
    ]
    for reply in replies:
        reply.wait()
    full = [sizes for sizes in steps.sizes if len(sizes) == len(replies)]
    assert full[1:]
    assert all(size == 1 for sizes in full[1:] for size in sizes)
    assert (
        max(sum(sizes) for sizes in steps.sizes if max(sizes) < 3)
        <= local_engine.MAX_SPECULATIVE_ROWS + 1
    )


def test_torch_gets_no_guesses(
    tiny_folder: Path, tiny_adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results depend on the number of rows: a guess could change a reply."""
    with running(tiny_folder, tiny_adapters) as engine:
        steps = Steps(engine, monkeypatch)
        engine.ask(prompts(1, 320, 12)[0], sampling=GREEDY).wait()
    assert steps.sizes[1:] == [[1]] * (TOKENS - 1)


def mixed() -> list[Job]:
    jobs = zip(prompts(16, 320, 300), ADAPTERS * 2, strict=True)
    wishes = GREEDY, DRAWN, PENALIZED
    return [(prompt, adapter, wishes[i % 3]) for i, (prompt, adapter) in enumerate(jobs)]


def test_in_every_mix_as_alone(tiny: Running) -> None:
    expected = one_by_one(tiny, mixed())
    replies = [
        tiny.ask(prompt, adapter, name=str(i), sampling=wishes)
        for i, (prompt, adapter, wishes) in enumerate(mixed())
    ]
    assert [reply.wait().ids for reply in replies] == [reply.ids for reply in expected]
    assert len({reply.ids for reply in expected[: len(ADAPTERS)]}) == len(ADAPTERS)


@pytest.mark.parametrize("adapter", [None, "all", "whole"])
def test_next_turns_over_what_was_kept(tiny: Running, adapter: str | None) -> None:
    prompt = prompts(1, 320, 60)[0]
    for turn in range(3):
        got = tiny.ask(prompt, adapter, sampling=GREEDY).wait()
        assert bool(got.cached) == (turn > 0)
        tiny.engine._memory.clear()
        (expected,) = one_by_one(tiny, [(prompt, adapter, GREEDY)])
        assert got.ids == expected.ids
        tiny.ask(prompt, adapter, sampling=GREEDY).wait()
        prompt = (*prompt, *got.ids, 5 + turn, 9, 4)


def test_with_memory_for_one_and_a_half(
    tiny_folder: Path, tiny_adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The youngest gives way and starts over; nobody's reply changes."""
    for module in (kv_cache, kv_cache_manager):
        monkeypatch.setattr(module, "GROWTH", 16)
    position = 2 * 2 * 2 * 8 * 2  # keys and values, layers, key heads, size, bytes
    with compiled(tiny_folder, tiny_adapters, cache_bytes=200 * position) as engine:
        asked = [(prompt, "all", GREEDY) for prompt in prompts(3, 320, 20)]
        expected = one_by_one(engine, asked)
        given_way = []
        preempt = Scheduler.preempt

        def noting(self: Scheduler) -> object:
            given_way.append(sequence := preempt(self))
            return sequence

        monkeypatch.setattr(Scheduler, "preempt", noting)
        replies = [engine.ask(p, a, name=str(i), sampling=w) for i, (p, a, w) in enumerate(asked)]
        assert [reply.wait().ids for reply in replies] == [reply.ids for reply in expected]
        assert any(given_way)


def test_closing_sends_all_threads_home(tiny_folder: Path, tiny_adapters: Path) -> None:
    before = threading.active_count()
    with compiled(tiny_folder, tiny_adapters, cache_bytes=PLENTY) as engine:
        engine.ask(prompts(1, 320, 12)[0]).wait()
        assert threading.active_count() == before + 2  # the engine's, and the one that helps it
    assert threading.active_count() == before
