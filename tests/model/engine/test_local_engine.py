"""The local engine: aborts, faults that end one reply alone, bounded work and queues."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from model.engine.sampler import Floats
from model.engine.step_runner import PREFILL_CHUNK
from model.errors import BusyError, EngineError
from model.layers.llama import SequenceSlice
from model.sampling import Sampling
from model.translations import LocalizedText
from model.types import Delta, FinishReason
from tests.model.engine.running import ForwardRecorder, Running, RunningReply, running
from tests.tiny_model import make_adapter

LONG = Sampling(temperature=0, max_tokens=200)
PROMPT = (5, 6, 7, 8)


@pytest.fixture
def tiny(tiny_folder: Path, tiny_adapters: Path) -> Iterator[Running]:
    with running(tiny_folder, tiny_adapters) as engine:
        yield engine


def completed(reply: RunningReply) -> int:
    assert reply.last.stats
    return reply.last.stats.completion_tokens


def test_abort_ends_within_one_token(tiny: Running) -> None:
    seen: list[Delta] = []

    def abort_at_third(delta: Delta) -> None:
        seen.append(delta)
        if len(seen) == 3:
            tiny.engine.abort("mine")

    reply = tiny.ask(PROMPT, name="mine", on_delta=abort_at_third, sampling=LONG).wait()
    assert reply.last.finish_reason is FinishReason.ABORT
    assert completed(reply) in (3, 4)


def test_abort_leaves_the_others_alone(tiny: Running) -> None:
    undisturbed = tiny.ask(PROMPT, sampling=LONG).wait().ids
    other = tiny.ask(PROMPT, name="other", sampling=LONG)
    mine = tiny.ask(PROMPT, name="mine", sampling=LONG)
    tiny.engine.abort("mine")
    assert other.wait().ids == undisturbed
    assert mine.wait().last.finish_reason is FinishReason.ABORT


def test_abort_of_an_unknown_request_is_ignored(tiny: Running) -> None:
    tiny.engine.abort("unknown")
    assert tiny.ask(PROMPT).wait().last.finish_reason is FinishReason.LENGTH


def test_a_waiting_request_can_be_aborted(tiny_folder: Path, tiny_adapters: Path) -> None:
    with running(tiny_folder, tiny_adapters, max_sequences=1) as tiny:
        first = tiny.ask(PROMPT, name="first", sampling=LONG)
        second = tiny.ask(PROMPT, name="second", sampling=LONG)
        tiny.engine.abort("second")
        assert second.wait().last.finish_reason is FinishReason.ABORT
        assert completed(second) == 0
        assert completed(first.wait()) == 200


def test_a_failing_step_ends_only_its_sequence(
    tiny: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prefill that runs out of memory must not take the running replies with it."""
    forward = tiny.model.logits

    def failing(slices: Sequence[SequenceSlice], every_position: bool = False) -> Floats:
        if any(len(part.tokens) > 50 for part in slices):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return forward(slices, every_position)

    monkeypatch.setattr(tiny.model, "logits", failing)
    healthy = tiny.ask(PROMPT, sampling=LONG)
    broken = tiny.ask(tuple(range(5, 105)))
    assert broken.wait().last.finish_reason is FinishReason.ERROR
    assert "not enough memory" in str(broken.last.error)
    assert completed(healthy.wait()) == 200
    assert tiny.engine.status().error is None


def test_the_sequence_that_makes_a_step_fail_ends_alone(
    tiny: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a batch fails, each sequence is tried alone."""
    forward = tiny.model.logits

    def failing(slices: Sequence[SequenceSlice], every_position: bool = False) -> Floats:
        if any(part.cache.length + len(part.tokens) == 40 for part in slices):
            raise RuntimeError("boom")
        return forward(slices, every_position)

    short, long = PROMPT[:10], tuple(range(5, 35))
    expected = [tiny.ask(prompt).wait().ids for prompt in (short, short[:5])]
    monkeypatch.setattr(tiny.model, "logits", failing)
    replies = [tiny.ask(prompt, name=str(i)) for i, prompt in enumerate((short, long, short[:5]))]
    assert [reply.wait().ids for reply in replies[::2]] == expected
    assert replies[1].wait().last.finish_reason is FinishReason.ERROR
    assert "boom" in str(replies[1].last.error)
    assert len(replies[1].ids) == 10


def test_a_fault_in_one_reply_leaves_its_neighbours(tiny: Running) -> None:
    """A reply's own text or sampling may fail in any way; the batch goes on."""
    seen: list[Delta] = []

    def fail_at_third(delta: Delta) -> None:
        seen.append(delta)
        if len(seen) == 3:
            raise IndexError("piece id is out of range")

    healthy = tiny.ask(PROMPT, name="healthy", sampling=LONG)
    broken = tiny.ask(PROMPT, name="broken", on_delta=fail_at_third, sampling=LONG)
    assert broken.wait().last.finish_reason is FinishReason.ERROR
    assert completed(healthy.wait()) == 200
    assert tiny.engine.status().error is None


def test_the_error_of_a_dying_thread_is_reported(
    tiny: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(slices: Sequence[SequenceSlice], every_position: bool = False) -> Floats:
        raise KeyError("a fault of the program")

    monkeypatch.setattr(tiny.model, "logits", dying)
    reply = tiny.ask(PROMPT).wait()
    assert reply.last.finish_reason is FinishReason.ERROR
    with pytest.raises(EngineError, match="a fault of the program"):
        tiny.ask(PROMPT)
    assert "a fault of the program" in str(tiny.engine.status().error)


def test_a_long_prompt_does_not_stall_the_others(
    tiny: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two chunks of one prompt, each running sequence gets a token."""
    decoding = tiny.ask(PROMPT, sampling=Sampling(temperature=0, max_tokens=400))
    while not decoding.deltas:
        decoding.done.wait(0.001)
    recorder = ForwardRecorder(tiny, monkeypatch)
    tiny.ask(tuple([9] * 500)).wait()
    widths = [max(sizes) for sizes in recorder.sizes]
    chunks = [i for i, width in enumerate(widths) if width > 1]
    assert [widths[i] for i in chunks] == [PREFILL_CHUNK, 500 - PREFILL_CHUNK]
    assert chunks[1] - chunks[0] > 1
    tiny.engine.abort(decoding.id)


def test_no_more_than_max_sequences_run(tiny_folder: Path, tiny_adapters: Path) -> None:
    with running(tiny_folder, tiny_adapters, max_sequences=2) as tiny:
        seen: list[int] = []
        replies = [
            tiny.ask(
                PROMPT, name=f"{i}", on_delta=lambda _: seen.append(tiny.engine.status().running)
            )
            for i in range(5)
        ]
        assert len({reply.wait().ids for reply in replies}) == 1
    assert max(seen) == 2


def test_a_full_queue_refuses(tiny_folder: Path, tiny_adapters: Path) -> None:
    with running(tiny_folder, tiny_adapters, max_waiting=0) as tiny, pytest.raises(BusyError):
        tiny.ask(PROMPT)


def test_closing_ends_running_replies(tiny: Running) -> None:
    reply = tiny.ask(PROMPT, sampling=LONG)
    tiny.engine.close()
    assert reply.wait().last.finish_reason is FinishReason.ABORT
    with pytest.raises(EngineError):
        tiny.ask(PROMPT)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_same_seed_gives_the_same_reply_alone_and_in_a_batch(
    tiny: Running, temperature: float
) -> None:
    sampling = Sampling(temperature=temperature, seed=11, max_tokens=24)
    alone = tiny.ask(PROMPT, "all", sampling=sampling).wait().ids
    batch = [tiny.ask(PROMPT, "all", name=f"{i}", sampling=sampling) for i in range(3)]
    batch.append(tiny.ask(PROMPT, name="base", sampling=sampling))
    assert [reply.wait().ids for reply in batch[:3]] == [alone] * 3
    batch[3].wait()


def test_a_retrained_adapter_is_loaded_again(tiny_folder: Path, tmp_path: Path) -> None:
    """Known by name alone, the adapter would keep the old weights under the new digest."""
    path = tmp_path / "adapters" / "a"
    make_adapter(tiny_folder, path, seed=1, r=4, target_modules=["q_proj", "down_proj"])
    with running(tiny_folder, tmp_path / "adapters") as engine:
        digest = engine.registry.get("a").digest
        before = engine.ask(PROMPT, "a").wait().ids
        make_adapter(tiny_folder, path, seed=2, r=4, target_modules=["q_proj", "down_proj"])
        assert engine.ask(PROMPT, "a", digest=digest).wait().ids == before
        assert engine.ask(PROMPT, "a").wait().ids != before


def test_8bit_stays_close_to_full_precision(tiny_folder: Path, tiny_adapters: Path) -> None:
    """Logits of the int8 weights against those of float32, in decode and in prefill."""
    from model.engine.kv_cache import SequenceCache

    logits = {}
    for quantization in ("none", "8bit"):
        with running(tiny_folder, tiny_adapters, quantization) as tiny:
            cache = SequenceCache(tiny.model.cache_format)
            prefill = tiny.model.forward([SequenceSlice(tuple(range(3, 40)), cache)])
            decode = tiny.model.forward([SequenceSlice((40,), cache)])
            logits[quantization] = torch.cat((prefill, decode))
    error = (logits["8bit"] - logits["none"]).std(dim=1) / logits["none"].std(dim=1)
    assert (error > 0).all()  # or nothing was quantised
    assert (error < 0.05).all()


def test_step_that_hangs_shows_in_the_status(
    tiny_folder: Path, tiny_adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/health reports it; idle time does not count."""
    now = 0.0
    inside, released = threading.Event(), threading.Event()
    with running(tiny_folder, tiny_adapters, clock=lambda: now) as tiny:
        logits = tiny.model.logits

        def hang(*args: Any, **kwargs: Any) -> Floats:
            inside.set()
            released.wait()
            return logits(*args, **kwargs)

        monkeypatch.setattr(tiny.model, "logits", hang)
        now = 1000.0
        reply = tiny.ask(PROMPT)
        assert inside.wait(60)
        now = 1090.0
        status = tiny.engine.status()
        assert (status.running, status.step_age, status.slowest_step) == (1, 90, None)
        released.set()
        assert reply.wait().last.finish_reason is FinishReason.LENGTH
        while tiny.engine.status().slowest_step != 90:
            pass  # the step that emits the last token ends after it
        assert tiny.engine.status().step_age == 0


def test_engine_thread_that_has_ended_is_an_error(
    tiny: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading.Thread, "is_alive", lambda thread: False)
    assert tiny.engine.status().error == LocalizedText("engine_thread_ended")
    monkeypatch.undo()
    assert tiny.engine.status().error is None
