"""Two replicas of the page on one PostgreSQL, with a visitor's tabs at both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, expect

from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from tests.web.browser import ChatPage
from tests.web.postgres import PostgresServer, postgres_server

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


def test_a_reply_at_one_replica_is_shown_and_stopped_at_the_other(
    browser: Browser, server: PostgresServer
) -> None:
    engines = FakeEngine(echo, ticking=True), FakeEngine(echo)
    url = server.database()
    with ExitStack() as stack:
        addresses = []
        for engine in engines:
            manager = fake_manager(engine)
            manager.wait()
            addresses.append(stack.enter_context(serving(manager, database_url=url)))
        context = stack.enter_context(browser.new_context())
        here, there = (ChatPage(context.new_page()).open(address) for address in addresses)
        here.ask("one two three")
        there.row("one two three").click()
        engines[0].tick(2)
        expect(there.log).to_contain_text("base heard:")
        expect(there.stop).to_be_visible()
        there.stop.click()
        for chat in (here, there):
            expect(chat.log).to_contain_text("Stopped")
            expect(chat.send).to_be_visible()
        there.ask("and now")
        expect(here.log).to_contain_text("base heard: and now")
        assert not here.complaints + there.complaints
