"""Fixtures: a browser for the package, and the harness in a fresh context for each test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, expect

from tests.web.browser import PATIENCE, chromium
from tests.web.ui.static.harness import Harness, Site, site

Open = Callable[..., Harness]
MAY_COPY = ["clipboard-read", "clipboard-write"]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE)
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="package")
def served() -> Iterator[Site]:
    with site() as served:
        yield served


@pytest.fixture
def opened(browser: Browser, served: Site) -> Iterator[Open]:
    """Opens the harness in its own browser context; fails a test whose page logged an error."""
    with ExitStack() as stack:
        opened: list[Harness] = []

        def open_harness(
            query: str = "", fake_clock: bool = False, server: dict[str, object] | None = None,
            **context: object,
        ) -> Harness:  # fmt: skip
            visitor = stack.enter_context(browser.new_context(permissions=MAY_COPY, **context))
            harness = Harness(visitor.new_page(), served, fake_clock)
            harness.page.add_init_script(f"window.harnessServer = {json.dumps(server or {})};")
            opened.append(harness)
            return harness.open(query)

        yield open_harness
        assert [complaint for harness in opened for complaint in harness.complaints] == []


@pytest.fixture
def harness(opened: Open) -> Harness:
    return opened()
