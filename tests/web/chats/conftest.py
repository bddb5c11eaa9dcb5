"""Stores in both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fake import FakeEngine, echo
from tests.web.chats.world import Open, World
from tests.web.postgres import PostgresServer, postgres_server
from web.chats.open_store import OpenStore, open_store
from web.chats.store.chat_store import ChatStore
from web.chats.store.postgres import Postgres

OpenChatStore = Callable[[], ChatStore]


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL for all tests of this process."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def url(server: PostgresServer) -> str:
    """An empty database's."""
    return server.database()


@pytest.fixture
def back(server: PostgresServer) -> Iterator[PostgresServer]:
    """The server, which is there again after a test that stops it."""
    yield server
    server.kill()
    server.start()


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store can be: a path, or the URL of an empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "chats.db")
    server: PostgresServer = request.getfixturevalue("server")
    return server.database()


def store_at(address: str) -> ChatStore:
    return ChatStore(Postgres(address) if "://" in address else Path(address))


@pytest.fixture
def open_chat_store(address: str) -> Iterator[OpenChatStore]:
    """Each call opens the same database, once more."""
    with ExitStack() as stack:

        def opened() -> ChatStore:
            store = store_at(address)
            stack.callback(store.close)
            return store

        yield opened


@pytest.fixture
def store(open_chat_store: OpenChatStore) -> ChatStore:
    return open_chat_store()


@pytest.fixture
def opened(url: str) -> Iterator[Open]:
    """Each call is another replica of the program."""
    with ExitStack() as stack:

        def one() -> OpenStore:
            kept = open_store(Path("unused"), url)
            stack.callback(kept.close)
            return kept

        yield one


@pytest.fixture
def worlds(opened: Open, url: str) -> Iterator[tuple[World, World]]:
    pair = World(opened(), FakeEngine(echo, ticking=True)), World(opened(), FakeEngine(echo))
    for one in pair:
        one.url = url
    yield pair
    for one in pair:
        one.manager.close()
