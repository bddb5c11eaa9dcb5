"""`bench/store.py` measures every job, and prints JSON or a table."""

from __future__ import annotations

import pytest

from bench import store
from tests.bench.conftest import RunAsJson, Start


def test_store_measures_every_job(
    start: Start, run_as_json: RunAsJson, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--chats", "2", "--messages", "4", "--rounds", "1"]
    figures = run_as_json(store, *few)
    assert figures["database"] == "SQLite"
    assert figures["file"]["characters"] > 2 * 4 * store.LENGTH
    jobs = {"import", "export", "messages_1000", "check", *(f"search_{q}" for q in store.QUERIES)}
    assert jobs < figures.keys()
    for job in jobs:
        assert figures[job]["ms"] > 0
        assert figures[job]["save_wait_ms"] > 0
    assert start(store, *few) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(jobs)


def test_missing_database_is_one_sentence(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(store, "--database_url", "postgresql://127.0.0.1:1/none") == 1
    assert "Check --database_url" in capsys.readouterr().err
