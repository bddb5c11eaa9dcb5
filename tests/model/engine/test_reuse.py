"""Replies that reuse keys and values equal those of a fresh engine.

Each test also checks `cached`: without it, a cache that is never used would pass.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from model.engine.kv_cache import SequenceCache
from model.engine.sampler import Floats
from model.layers.llama import SequenceSlice
from model.sampling import Sampling
from model.types import Delta, FinishReason
from tests.model.engine.running import CACHE_BYTES, Ids, Running, pause, random_tokens, running
from tests.model.engine.test_equality import reference
from tests.tiny_model import make_adapter

LONG = Sampling(temperature=0, max_tokens=150)


# What chats do


def test_the_next_turn_computes_only_new_tokens(
    caching: Running, tiny_folder: Path, tiny_adapters: Path
) -> None:
    before: Ids = ()
    prompt = random_tokens(60, 1)
    for turn in range(3):
        reply = caching.ask(prompt, "all").wait()
        assert (reply.ids,) == tuple(reference(tiny_folder, tiny_adapters, [(prompt, "all")]))
        # All but the last token of the reply, which no forward has computed.
        assert reply.cached == max(len(before) - 1, 0)
        before = prompt + reply.ids
        prompt = before + random_tokens(30, turn + 2)


def test_the_next_turn_copies_nothing(caching: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = random_tokens(60, 1)
    reply_ids = caching.ask(prompt).wait().ids
    monkeypatch.setattr(SequenceCache, "copy_from", None)
    assert caching.ask(prompt + reply_ids + random_tokens(5, 2)).wait().cached == 59 + len(
        reply_ids
    )


def test_a_shared_system_prompt_is_computed_once(caching: Running, fresh: Running) -> None:
    system = random_tokens(100, 1)
    for seed in range(2, 6):
        prompt = system + random_tokens(seed * 7, seed)
        reply = caching.ask(prompt).wait()
        assert reply.ids == fresh.ask(prompt).wait().ids
        assert reply.cached == (100 if seed > 2 else 0)


def test_a_regenerated_reply_reuses_its_prompt(caching: Running, fresh: Running) -> None:
    """The same prompt again, greedy and drawn; the last token is always computed."""
    prompt = random_tokens(70, 1)
    for turn, temperature in enumerate((0.0, 0.9, 0.9, 0.0)):
        sampling = Sampling(temperature=temperature, seed=turn, max_tokens=24)
        reply = caching.ask(prompt, "qv", sampling=sampling).wait()
        assert reply.ids == fresh.ask(prompt, "qv", sampling=sampling).wait().ids
        assert reply.cached == (69 if turn else 0)


def test_branches_of_a_chat_share_their_prefix(caching: Running, fresh: Running) -> None:
    """An edited question: both branches of the chat reuse their common prefix."""
    start = random_tokens(50, 1)
    reply_ids = caching.ask(start).wait().ids
    trunk = start + reply_ids + random_tokens(20, 2)
    caching.ask(trunk).wait()
    for seed, common in ((3, 50 + len(reply_ids)), (4, 50 + len(reply_ids)), (5, 50)):
        prompt = trunk[:common] + random_tokens(20, seed)
        reply = caching.ask(prompt).wait()
        assert reply.ids == fresh.ask(prompt).wait().ids
        assert reply.cached == common
    continued = caching.ask(trunk + random_tokens(1, 6)).wait()
    assert continued.ids == fresh.ask(trunk + random_tokens(1, 6)).wait().ids
    assert continued.cached == len(trunk)


def test_concurrent_chats_share_their_prefix(caching: Running, fresh: Running) -> None:
    """Next turns and shared prefixes with every adapter, while long replies run."""
    others = [caching.ask(random_tokens(30, i), name=f"long {i}", sampling=LONG) for i in range(3)]
    adapters = [None, "qv", "all", "rs", "patterned"]
    prompts = {
        name: random_tokens(90, 50) + random_tokens(i + 3, i) for i, name in enumerate(adapters)
    }
    for turn in range(3):
        replies = {n: caching.ask(p, n, name=f"{n} {turn}") for n, p in prompts.items()}
        for name, reply in replies.items():
            prompt = prompts[name]
            assert reply.wait().ids == fresh.ask(prompt, name).wait().ids
            assert reply.cached > 90 if turn else reply.cached == 0
            prompts[name] = prompt + reply.ids + random_tokens(9, turn)
    for i, other in enumerate(others):
        assert other.wait().ids == fresh.ask(random_tokens(30, i), sampling=LONG).wait().ids


def test_chats_that_start_together_share_their_prefix(caching: Running, fresh: Running) -> None:
    """Each chunk of the common prefix is computed once."""
    system = random_tokens(400, 1)
    prompts = [system + random_tokens(10 + i, i + 2) for i in range(3)]
    resume = pause(caching)
    replies = [caching.ask(prompt, "all", name=f"{i}") for i, prompt in enumerate(prompts)]
    resume.set()
    computed = sum(len(p) - r.wait().cached for p, r in zip(prompts, replies, strict=True))
    assert computed <= sum(len(p) for p in prompts) - 2 * 400
    for prompt, reply in zip(prompts, replies, strict=True):
        assert reply.ids == fresh.ask(prompt, "all").wait().ids


def test_short_replies_that_start_together_share_their_prefix(
    caching: Running, fresh: Running
) -> None:
    """Each has ended before the next one's turn comes."""
    sampling = Sampling(temperature=0, max_tokens=1)
    prompts = [random_tokens(100, 1) + random_tokens(10 + i, i + 2) for i in range(4)]
    resume = pause(caching)
    replies = [caching.ask(p, name=f"{i}", sampling=sampling) for i, p in enumerate(prompts)]
    resume.set()
    assert [reply.wait().cached for reply in replies] == [0, 100, 100, 100]
    for prompt, reply in zip(prompts, replies, strict=True):
        assert reply.ids == fresh.ask(prompt, sampling=sampling).wait().ids


def test_the_last_token_of_a_reply_is_computed_again(caching: Running, fresh: Running) -> None:
    """It was chosen last: no forward has computed its keys and values."""
    sampling = Sampling(temperature=0, max_tokens=1)
    first = random_tokens(100, 1)
    second = first + fresh.ask(first, sampling=sampling).wait().ids + random_tokens(20, 2)
    resume = pause(caching)
    caching.ask(first, name="first", sampling=sampling)
    reply = caching.ask(second, name="second")
    resume.set()
    assert reply.wait().cached == 100
    assert reply.ids == fresh.ask(second).wait().ids


def test_a_running_chat_shares_its_prefix(caching: Running, fresh: Running) -> None:
    system = random_tokens(100, 1)
    first = caching.ask(system, name="first", sampling=LONG)
    while not first.deltas:
        first.done.wait(0.001)
    prompt = system + random_tokens(8, 2)
    second = caching.ask(prompt, name="second").wait()
    assert not first.done.is_set()
    assert second.cached == 100
    assert second.ids == fresh.ask(prompt).wait().ids
    assert first.wait().ids == fresh.ask(system, sampling=LONG).wait().ids


def test_an_aborted_reply_is_reused(caching: Running, fresh: Running) -> None:
    """Stop, then the next question: the computed part of the reply is reused."""

    seen: list[Delta] = []

    def stop(delta: Delta) -> None:
        seen.append(delta)
        if len(seen) == 5:
            caching.engine.abort("mine")

    prompt = random_tokens(40, 1)
    reply = caching.ask(prompt, name="mine", on_delta=stop, sampling=LONG)
    assert reply.wait().last.finish_reason is FinishReason.ABORT
    continued = prompt + reply.ids + random_tokens(7, 2)
    second = caching.ask(continued).wait()
    assert second.cached >= 40 + 4
    assert second.ids == fresh.ask(continued).wait().ids


def test_an_evicted_prefix_is_computed_again(
    tiny_folder: Path, tiny_adapters: Path, fresh: Running
) -> None:
    """The least recently used entry is evicted; a prompt computed again is cached again."""
    prompts = [random_tokens(200, seed) for seed in range(4)]
    with running(tiny_folder, tiny_adapters, cache_bytes=3 * 65536) as caching:
        cached = []
        for at in (0, 1, 0, 2, 0, 3, 1, 1):
            reply = caching.ask(prompts[at]).wait()
            assert reply.ids == fresh.ask(prompts[at]).wait().ids
            cached.append(reply.cached)
    assert cached == [0, 0, 199, 0, 199, 0, 0, 199]


# What must not be shared


def test_nothing_is_shared_between_adapters_and_scales(caching: Running, fresh: Running) -> None:
    prompt = random_tokens(60, 1)
    for name, adapter_scale in (("all", 1.0), (None, 1.0), ("qv", 1.0), ("all", 0.5), ("qv", 0.25)):
        reply = caching.ask(prompt, name, adapter_scale=adapter_scale).wait()
        assert reply.ids == fresh.ask(prompt, name, adapter_scale=adapter_scale).wait().ids
        assert reply.cached == 0
        assert caching.ask(prompt, name, adapter_scale=adapter_scale).wait().cached == 59


def test_nothing_is_shared_between_running_adapters(caching: Running, fresh: Running) -> None:
    prompt = random_tokens(60, 1)
    resume = pause(caching)
    jobs = [("all", 1.0), (None, 1.0), ("qv", 1.0), ("all", 0.5)]
    replies = [caching.ask(prompt, n, adapter_scale=s, name=f"{n} {s}") for n, s in jobs]
    resume.set()
    for (name, adapter_scale), reply in zip(jobs, replies, strict=True):
        assert reply.wait().ids == fresh.ask(prompt, name, adapter_scale=adapter_scale).wait().ids
        assert reply.cached == 0


def test_scale_zero_shares_with_the_base(caching: Running, fresh: Running) -> None:
    prompt = random_tokens(60, 1)
    caching.ask(prompt, "all", adapter_scale=0).wait()
    reply = caching.ask(prompt).wait()
    assert reply.cached == 59
    assert reply.ids == fresh.ask(prompt).wait().ids


def test_a_retrained_adapter_shares_nothing_with_its_past(
    tiny_folder: Path, tmp_path: Path
) -> None:
    path, prompt = tmp_path / "a", random_tokens(60, 1)
    make_adapter(tiny_folder, path, seed=1, r=4, target_modules="all-linear")
    with running(tiny_folder, tmp_path, cache_bytes=CACHE_BYTES) as caching:
        before = caching.ask(prompt, "a").wait().ids
        shutil.rmtree(path)
        make_adapter(tiny_folder, path, seed=2, r=4, target_modules="all-linear")
        after = caching.ask(prompt, "a").wait()
        assert after.cached == 0
        assert caching.ask(prompt, "a").wait().cached == 59
    with running(tiny_folder, tmp_path) as fresh:
        assert after.ids == fresh.ask(prompt, "a").wait().ids != before


def test_a_failed_reply_is_not_cached(caching: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a step may be stored; the entries of other replies stay."""
    cached, prompt = random_tokens(60, 1), random_tokens(60, 2)
    caching.ask(cached).wait()
    forward = caching.model.logits

    def failing(slices: Sequence[SequenceSlice], every_position: bool = False) -> Floats:
        if len(slices[0].tokens) == 1:
            raise RuntimeError("a bad step")
        return forward(slices, every_position)

    monkeypatch.setattr(caching.model, "logits", failing)
    assert caching.ask(prompt).wait().last.finish_reason is FinishReason.ERROR
    monkeypatch.undo()
    assert caching.ask(prompt).wait().cached == 0
    assert caching.ask(cached).wait().cached == 59


def test_short_prefixes_are_reused_only_as_complete_entries(
    caching: Running, fresh: Running
) -> None:
    prompt = random_tokens(4, 1)
    reply_ids = caching.ask(prompt, sampling=Sampling(temperature=0, max_tokens=5)).wait().ids
    assert caching.ask(prompt + random_tokens(3, 2)).wait().cached == 0
    continued = prompt + reply_ids + random_tokens(3, 3)
    reply = caching.ask(continued).wait()
    assert reply.cached == 8
    assert reply.ids == fresh.ask(continued).wait().ids


def test_without_a_budget_nothing_is_reused(fresh: Running) -> None:
    prompt = random_tokens(60, 1)
    resume = pause(fresh)
    replies = [fresh.ask(prompt, name=f"{i}") for i in range(2)]
    resume.set()
    assert [reply.wait().cached for reply in replies] == [0, 0]
    assert fresh.ask(prompt).wait().cached == 0
