"""Fixtures of the page's stream."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import ADAPTERS, FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from tests.web.ui.stream_page import Page, ServePage
from tests.web.ui.tab_backend import TabBackend
from web import server
from web.ui.page_service import PageService


@pytest.fixture
def serve_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ServePage]:
    """Serves a page; arguments are for `serving`."""
    built: list[PageService] = []
    build = PageService.build

    def keep(*args: Any) -> PageService:
        built.append(build(*args))
        return built[-1]

    monkeypatch.setattr(server.PageService, "build", keep)
    with ExitStack() as stack:

        def served(engine: FakeEngine | None = None, adapters: Any = ADAPTERS, **more: Any) -> Page:
            engine = engine or FakeEngine(echo)
            manager = fake_manager(engine, adapters=adapters)
            manager.wait()
            url = stack.enter_context(serving(manager, data=tmp_path, **more))
            return Page(url, built[-1], engine)

        yield served


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[TabBackend]:
    made = TabBackend(tmp_path)
    yield made
    made.manager.close()
    made.store.close()


@pytest.fixture
def no_fault(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Fails a test in which a fault was logged."""
    caplog.set_level(logging.WARNING)
    yield
    assert [record for record in caplog.records if record.exc_info] == []
    assert "Traceback" not in capfd.readouterr().err
