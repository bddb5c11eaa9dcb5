"""Fixtures: visitors of a page with a scripted engine, and a fake clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from model.serving.adapter_folders import Adapter
from tests.fake_engine import ADAPTERS, FakeEngine, fake_manager
from tests.web.app_server import serving
from tests.web.browser import ChatPage
from tests.web.fake_clock import FakeClock
from web.access import AccessPolicy

OpenPage = Callable[..., ChatPage]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Serves an engine and opens its page; fails a test in which a page logged an error."""
    with ExitStack() as stack:
        chats: list[ChatPage] = []

        def serve(engine: FakeEngine, ready: bool = True, access: AccessPolicy | None = None,
                  loading: threading.Event | None = None, fail: Exception | None = None,
                  data: Path | None = None, adapters: Sequence[Adapter] = ADAPTERS,
                  tuned: bool = True, **context: object) -> ChatPage:  # fmt: skip
            manager = fake_manager(engine, loading, fail, adapters=adapters, tuned=tuned)
            if ready:
                manager.wait()
            url = stack.enter_context(serving(manager, access, data=data))
            page = stack.enter_context(browser.new_context(**context)).new_page()
            chats.append(ChatPage(page).open(url))
            return chats[-1]

        yield serve
        assert [complaint for chat in chats for complaint in chat.complaints] == []
