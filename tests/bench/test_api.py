"""The measurement of the API: its server without a model, and its table."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import api
from bench.machine import cpu_seconds, resident_bytes


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "FIRSTS", 3)
    monkeypatch.setattr(api, "STREAMS", 2)
    monkeypatch.setattr(api, "SECONDS", 1)
    monkeypatch.setattr(api, "CONNECTIONS", 3)
    monkeypatch.setattr(api, "SETTLE_SECONDS", 0)


@pytest.mark.slow
def test_the_paced_server_does_what_it_is_told(tmp_path: Path, quick: None) -> None:
    paced = api.Paced(tmp_path)
    try:
        assert paced.first() > 0
        assert paced.first_direct() > 0
        assert paced.share() >= 0  # fails by itself where an event is missing
        assert paced.share_direct() >= 0
        assert paced.idle() < 100
        assert cpu_seconds(paced.child.pid) > 0
        assert resident_bytes(paced.child.pid) > 1e6
    finally:
        paced.child.stop()


def test_every_figure_has_its_line() -> None:
    lines = api.table(dict.fromkeys(api.WORDS, 1.5)).splitlines()
    assert len(lines) == len(api.WORDS)
    assert all("1.5" in line for line in lines)
