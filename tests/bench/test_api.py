"""`bench/api.py`: the server with the fake engine, and the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import api
from bench.common import cpu_seconds, resident_bytes


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "FIRST_TOKENS", 3)
    monkeypatch.setattr(api, "STREAMS", 2)
    monkeypatch.setattr(api, "SECONDS", 1)
    monkeypatch.setattr(api, "CONNECTIONS", 3)
    monkeypatch.setattr(api, "SETTLE_SECONDS", 0)


@pytest.mark.slow
def test_fake_engine_server_is_measured_with_and_without_http(tmp_path: Path, quick: None) -> None:
    server = api.FakeEngineServer(tmp_path)
    try:
        assert server.first_token() > 0
        assert server.first_token_direct() > 0
        assert server.core_share() >= 0  # raises if an event is missing
        assert server.core_share_direct() >= 0
        assert server.idle_connections() < 100
        assert cpu_seconds(server.child.pid) > 0
        assert resident_bytes(server.child.pid) > 1e6
    finally:
        server.child.stop()


def test_table_has_a_line_for_each_figure() -> None:
    lines = api.table(dict.fromkeys(api.LINES, 1.5)).splitlines()
    assert len(lines) == len(api.LINES)
    assert all("1.5" in line for line in lines)
