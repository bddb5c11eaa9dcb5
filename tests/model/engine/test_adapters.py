"""Adapters that are loaded, evicted and deleted while replies use them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model.errors import EngineError
from model.sampling import Sampling
from model.types import EngineRequest, PreparedAdapter
from tests.model.engine.running import (
    NumberDetokenizer,
    Running,
    RunningReply,
    pause,
    random_tokens,
    running,
)

NAMES = ("qv", "all", "rs", "patterned")
PROMPT = random_tokens(30, 1)
LONG = Sampling(temperature=0, max_tokens=150)


def count_loads(tiny: Running, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    loads: list[str] = []
    load = tiny.registry.load

    def record(name: str, *args: object) -> object:
        loads.append(name)
        return load(name, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(tiny.registry, "load", record)
    return loads


def test_an_adapter_loaded_again_gives_the_same_replies(
    tiny_folder: Path, tiny_adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tiny_folder, tiny_adapters) as plenty:
        expected = [plenty.ask(PROMPT, name).wait().ids for name in NAMES]
    with running(tiny_folder, tiny_adapters, adapter_bytes=1) as tiny:
        loads = count_loads(tiny, monkeypatch)
        for _ in range(2):
            assert [tiny.ask(PROMPT, name).wait().ids for name in NAMES] == expected
    assert loads == [*NAMES, *NAMES]


def test_an_adapter_in_use_is_not_loaded_twice(
    tiny_folder: Path, tiny_adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter that a waiting reply will use is in use, too."""
    with running(tiny_folder, tiny_adapters, max_sequences=1, adapter_bytes=1) as tiny:
        loads = count_loads(tiny, monkeypatch)
        resume = pause(tiny)
        replies = [tiny.ask(PROMPT, name, name=f"1 {name}", sampling=LONG) for name in NAMES]
        replies += [tiny.ask(PROMPT, name, name=f"2 {name}", sampling=LONG) for name in NAMES]
        resume.set()
        ids = [reply.wait().ids for reply in replies]
    assert ids[:4] == ids[4:]
    assert loads == [*NAMES]


def test_a_prepared_adapter_is_ready_after_its_eviction(
    tiny_folder: Path, tiny_adapters: Path
) -> None:
    with running(tiny_folder, tiny_adapters) as plenty:
        expected = plenty.ask(PROMPT, "all").wait().ids
    with running(tiny_folder, tiny_adapters, adapter_bytes=1) as tiny:
        prepared = tiny.engine.prepare("all", tiny.registry.get("all").digest)
        for name in ("qv", "rs", "patterned"):
            tiny.ask(PROMPT, name).wait()
        reply = RunningReply("r")
        sampling = Sampling(temperature=0, max_tokens=24)
        tiny.engine.submit(
            EngineRequest("r", PROMPT, sampling, frozenset(), NumberDetokenizer(), prepared),
            reply.emit,
        )
        assert reply.wait().ids == expected


def test_an_adapter_deleted_while_in_use(
    tiny_folder: Path, tiny_adapters: Path, tmp_path: Path
) -> None:
    adapters = shutil.copytree(tiny_adapters, tmp_path / "adapters")
    with running(tiny_folder, tiny_adapters) as plenty:
        expected = plenty.ask(PROMPT, "all", sampling=LONG).wait().ids
    with running(tiny_folder, adapters, adapter_bytes=1) as tiny:
        resume = pause(tiny)
        reply = tiny.ask(PROMPT, "all", sampling=LONG)
        shutil.rmtree(adapters / "all")
        resume.set()
        assert tiny.ask(PROMPT, "qv").wait().last.error is None
        assert reply.wait().ids == expected


def test_an_unloaded_adapter_finishes_its_replies(tiny_folder: Path, tiny_adapters: Path) -> None:
    with running(tiny_folder, tiny_adapters) as tiny:
        expected = tiny.ask(PROMPT, "all", sampling=LONG).wait().ids
        resume = pause(tiny)
        reply = tiny.ask(PROMPT, "all", sampling=LONG, name="again")
        tiny.engine.unload("all")
        tiny.engine.unload("unknown")
        assert tiny.engine.counts().adapters == ()
        resume.set()
        assert reply.wait().ids == expected


def test_loads_and_evictions_are_counted(tiny_folder: Path, tiny_adapters: Path) -> None:
    with running(tiny_folder, tiny_adapters, adapter_bytes=1) as tiny:
        for name in ("qv", "all", "qv"):  # the handles are not kept
            tiny.engine.prepare(name, tiny.registry.get(name).digest)
        counts = tiny.engine.counts()
        assert (counts.adapter_loads, counts.adapter_evictions) == (3, 2)
        assert counts.adapters == ("qv",)
        assert counts.adapter_bytes > 0


def test_steps_are_counted_by_their_size(tiny_folder: Path, tiny_adapters: Path) -> None:
    with running(tiny_folder, tiny_adapters, cache_bytes=1 << 24) as tiny:
        resume = pause(tiny)
        replies = [tiny.ask(PROMPT, name, name=name, sampling=LONG) for name in NAMES]
        resume.set()
        tokens = sum(len(reply.wait().ids) for reply in replies)
        counts = tiny.engine.counts()
    rows = sum(size * steps for size, steps in counts.decode_steps.items())
    assert max(counts.decode_steps) >= len(NAMES)
    # Each reply's first token comes from its prompt, and a right draft token saves its step.
    assert 0 < rows <= tokens
    assert 0 < counts.cache_bytes <= (counts.cache_budget or 0)


def test_an_adapter_prepared_by_another_engine_is_refused(
    tiny_folder: Path, tiny_adapters: Path
) -> None:
    with running(tiny_folder, tiny_adapters) as tiny:
        foreign = PreparedAdapter("all", tiny.registry.get("all").digest)
        request = EngineRequest(
            "r", PROMPT, Sampling(max_tokens=1), frozenset(), NumberDetokenizer(), foreign
        )
        with pytest.raises(EngineError, match="has not loaded the adapter 'all'"):
            tiny.engine.submit(request, lambda delta: None)
