"""Helpers for tests of a served page and the streams of its tabs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.fake_engine import FakeEngine
from tests.web.page_client import Caller, Stream
from web.ui.layout import Layout
from web.ui.page_service import PageService

SECONDS = 60.0  # a bound, not a measure


class Page:
    """A served page, its service and its engine."""

    def __init__(self, url: str, service: PageService, engine: FakeEngine) -> None:
        self.url, self.service, self.engine = url, service, engine

    def number(self, component: Callable[[Layout], Any]) -> int:
        """What a control is known by."""
        layout = self.service.layout
        return layout.controls.components.index(component(layout))


ServePage = Callable[..., Page]


def stream_of(caller: Caller) -> Stream:
    assert caller.stream
    return caller.stream


def shows(text: str) -> Callable[[Stream], bool]:
    return lambda tab: tab.texts[-1:] == [text]


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
