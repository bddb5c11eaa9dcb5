"""The task that watches the model and the adapters for all tabs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from model.serving.adapter_folders import Adapter
from tests.fake_engine import ADAPTERS
from tests.web.ui.tab_backend import SECONDS, TabBackend, run
from web.chats.identity import Owner
from web.chats.tab_sessions import TabSession
from web.ui import model_watcher
from web.ui.model_watcher import ModelWatcher

pytestmark = pytest.mark.usefixtures("no_fault")


class AdaptersFolder:
    """Replaces `ModelManager.adapters`: counts its calls, of which the first one fails."""

    def __init__(self) -> None:
        self.adapters: list[Adapter] = []
        self.calls = self.concurrent = self.max_concurrent = 0
        self.may_end = threading.Event()

    def read(self, _: float) -> list[Adapter]:
        self.calls += 1
        self.concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.concurrent)
        self.may_end.wait(SECONDS)
        self.concurrent -= 1
        if self.calls == 1:
            raise OSError("the disk is gone")
        return list(self.adapters)


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


async def wait_for_change(tabs: Sequence[TabSession]) -> None:
    for tab in tabs:
        await asyncio.wait_for(tab.controls_changed.wait(), SECONDS)
        tab.controls_changed.clear()


def test_model_watcher_polls_once_for_all_tabs(
    backend: TabBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each tab took a thread, of which there are few; and after a disk had been gone for a moment,
    no open tab was updated any more."""
    monkeypatch.setattr(model_watcher, "POLL_SECONDS", 0.01)
    folder = AdaptersFolder()
    monkeypatch.setattr(backend.manager, "adapters", folder.read)

    async def watch() -> None:
        tabs = [backend.tab_sessions.open(Owner(f"visitor {n}")) for n in range(9)]
        watcher = ModelWatcher(backend.chat_service, None)
        for _ in tabs:
            watcher.begin()
        await until(lambda: folder.calls)
        folder.may_end.set()
        await wait_for_change(tabs)
        before = folder.calls
        await until(lambda: folder.calls >= before + 3)
        assert not any(tab.controls_changed.is_set() for tab in tabs)  # nothing has changed
        folder.adapters.extend(ADAPTERS)
        await wait_for_change(tabs)
        assert folder.max_concurrent == 1
        for tab in tabs:
            backend.tab_sessions.close(tab)
        await until(lambda: not watcher.running)  # with no open tab, nothing is polled

    run(watch())
    assert [record.message for record in caplog.records] == ["The adapters could not be refreshed"]
    caplog.clear()
