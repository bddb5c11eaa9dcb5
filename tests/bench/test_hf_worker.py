"""The transformers peer computes what it should, whichever short cut it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tiny import make_adapter

TOKENS = 6


@pytest.fixture(scope="module")
def make_worker(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Any:
    """Makes workers with two adapters that change replies."""
    parent = tmp_path_factory.mktemp("two")
    targets = ["q_proj", "v_proj", "down_proj"]
    adapters = [
        make_adapter(tiny_folder, parent / name, seed=seed, r=4, target_modules=targets)
        for seed, name in enumerate(("one", "two"), start=1)
    ]

    def make() -> Any:
        from bench.peers.hf_worker import Worker, load

        return Worker(tiny_folder, load(tiny_folder, "float32")[0], adapters)

    return make


def question(*texts: str, adapter: int | None = None) -> dict[str, Any]:
    roles = ("user", "assistant")
    turns = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    return {"turns": turns, "tokens": TOKENS, "adapter": adapter, "exact": True}


def test_a_mixed_batch_is_what_each_gets_alone(make_worker: Any) -> None:
    worker = make_worker()
    mixed = [
        question("Who is the quick brown fox?"),
        question("x = 1", adapter=0),
        question("The lazy dog.", adapter=1),
    ]
    together = worker.answer(mixed)
    assert together == [worker.answer([one])[0] for one in mixed]
    assert len(set(together)) == 3


def test_a_kept_cache_changes_no_reply(
    make_worker: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Turn two of a chat, another adapter's question between, and a shorter one."""
    chat = ["Hello dog", "Hello fox", "And the quick one?"]
    asked = [
        question(*chat[:1]),
        question(*chat),
        question(*chat, adapter=1),
        question(*chat[:1], adapter=1),
    ]
    keeping = make_worker()
    kept = [keeping.answer([one]) for one in asked]
    capsys.readouterr()
    assert kept == [make_worker().answer([one]) for one in asked]
    assert capsys.readouterr().out == ".\n" * TOKENS * len(asked)
