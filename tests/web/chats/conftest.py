"""Stores in both databases, and replicas of the program over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fake_engine import FakeEngine, echo
from tests.web.chats.chat_app import ChatApp, OpenReplica
from tests.web.postgres import PostgresServer, postgres_server
from web.chats.open_store import OpenStore, open_store
from web.chats.store.chat_store import ChatStore
from web.chats.store.postgres import Postgres

OpenChatStore = Callable[[], ChatStore]
MakeChatApp = Callable[..., ChatApp]


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL server for all tests of this process."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def url(server: PostgresServer) -> str:
    """The URL of an empty database."""
    return server.database()


@pytest.fixture
def restarted_server(server: PostgresServer) -> Iterator[PostgresServer]:
    """The server for a test that stops it; it is started again afterwards."""
    yield server
    server.kill()
    server.start()


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A path for a SQLite file, or the URL of an empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "chats.db")
    server: PostgresServer = request.getfixturevalue("server")
    return server.database()


def store_at(address: str) -> ChatStore:
    """A store at an `address`."""
    return ChatStore(Postgres(address) if "://" in address else Path(address))


@pytest.fixture
def open_chat_store(address: str) -> Iterator[OpenChatStore]:
    """Opens the same database once more at each call."""
    with ExitStack() as stack:

        def open_once_more() -> ChatStore:
            store = store_at(address)
            stack.callback(store.close)
            return store

        yield open_once_more


@pytest.fixture
def store(open_chat_store: OpenChatStore) -> ChatStore:
    """An empty store."""
    return open_chat_store()


@pytest.fixture
def open_replica(url: str) -> Iterator[OpenReplica]:
    """Opens the store of another replica on one PostgreSQL at each call."""
    with ExitStack() as stack:

        def open_once_more() -> OpenStore:
            store_handle = open_store(Path("unused"), url)
            stack.callback(store_handle.close)
            return store_handle

        yield open_once_more


@pytest.fixture
def make_chat_app(tmp_path: Path) -> Iterator[MakeChatApp]:
    """Makes the chat services over a SQLite file, with the given engine."""
    with ExitStack() as stack:

        def make(engine: FakeEngine | None = None, **options: object) -> ChatApp:
            store_handle = open_store(tmp_path)
            stack.callback(store_handle.close)
            app = ChatApp(store_handle, engine or FakeEngine(echo), **options)  # type: ignore[arg-type]
            stack.callback(app.close)
            return app

        yield make


@pytest.fixture
def chat_app(make_chat_app: MakeChatApp) -> ChatApp:
    """The chat services with an engine that answers at once."""
    return make_chat_app()


@pytest.fixture
def replicas(open_replica: OpenReplica) -> Iterator[tuple[ChatApp, ChatApp]]:
    """Two replicas on one PostgreSQL. The engine of the first one waits for ticks."""
    pair = (
        ChatApp(open_replica(), FakeEngine(echo, ticking=True)),
        ChatApp(open_replica(), FakeEngine(echo)),
    )
    yield pair
    for app in pair:
        app.close()
