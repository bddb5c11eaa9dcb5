"""/health and linly_ready when the model is ready and another part fails."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.translations import verbatim
from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import StoreError
from web.health_checks import HealthChecks


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(HealthChecks, "MAX_AGE_SECONDS", 0.0)
    monkeypatch.setattr(HealthChecks, "TIMEOUT_SECONDS", 0.3)
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with serving(manager, data=tmp_path) as address:
        yield address


def health(url: str) -> tuple[int, dict[str, Any]]:
    answer = httpx.get(f"{url}/health")
    return answer.status_code, answer.json()


def is_ready(url: str) -> float:
    found = re.search(r"^linly_ready (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


def test_a_store_that_fails_is_not_ready(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert health(url)[1]["status"] == "ready"

    def fail(*_: object, **__: object) -> None:
        raise StoreError(verbatim("The chats cannot be saved: the disk is full", "Make room."))

    with monkeypatch.context() as broken:
        broken.setattr(ChatStore, "check", fail)
        status, body = health(url)
        assert (status, body["status"]) == (503, "error")
        assert body["error"] == ("The chats cannot be saved: the disk is full. Make room.")
        assert is_ready(url) == 0
    assert health(url)[0] == 200
    assert is_ready(url) == 1


def test_a_store_that_hangs_is_not_ready(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """/health still responds."""
    released = threading.Event()
    with monkeypatch.context() as hanging:
        hanging.setattr(ChatStore, "check", lambda *_, **__: released.wait())
        for _ in range(3):
            status, body = health(url)
            assert (status, body["status"]) == (503, "error")
            assert body["error"] == "The chat store does not answer"
    released.set()


def test_while_the_model_loads_it_is_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = threading.Event()
    manager = fake_manager(FakeEngine(echo), loading)
    monkeypatch.setattr(ChatStore, "check", lambda *_, **__: 1 / 0)
    with serving(manager, data=tmp_path) as url:
        assert health(url)[1]["status"] == "loading"
        loading.set()
        manager.wait()
        assert health(url)[1]["error"] == "The chat store failed: ZeroDivisionError"
