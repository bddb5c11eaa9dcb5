"""`bench/store.py`: everything is measured, and told as JSON or as a table."""

from __future__ import annotations

import json

import pytest

from bench import store


def start(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("bench.ending.end_cleanly", lambda: None)
    monkeypatch.setattr("sys.argv", ["bench/store.py", *words])
    return store.main()


def test_everything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--chats", "2", "--messages", "4", "--rounds", "1"]
    assert start(monkeypatch, *few, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["database"] == "SQLite"
    assert figures["file"]["characters"] > 2 * 4 * store.LENGTH
    jobs = {"import", "export", "messages_1000", "check", *(f"search_{q}" for q in store.QUERIES)}
    assert jobs < figures.keys()
    for job in jobs:
        assert figures[job]["ms"] > 0
        assert figures[job]["save_wait_ms"] > 0
    assert start(monkeypatch, *few) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(jobs)


def test_a_database_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(monkeypatch, "--database_url", "postgresql://127.0.0.1:1/none") == 1
    assert "Check --database_url" in capsys.readouterr().err
