"""Serves the application on a real port, in a thread of the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn
from fastapi import FastAPI

from model.serving.manager import ModelManager
from web.access import AccessPolicy
from web.chats.open_store import open_store
from web.http_protocol import server_config
from web.listen_socket import bind
from web.public_link.limits import PublicLink
from web.server import build_app
from web.training.service import TrainingService


@contextmanager
def serving(
    manager: ModelManager,
    access: AccessPolicy | None = None,
    training: TrainingService | None = None,
    link: socket.socket | None = None,
    data: Path | None = None,
    public: PublicLink | None = None,
    port: int = 0,
    database_url: str | None = None,
) -> Iterator[str]:
    """Serves `manager`, and yields the URL.

    Args:
        link: a second socket to listen on.
        data: the data folder, by default a temporary one.
    """
    with ExitStack() as stack:
        folder = data or Path(stack.enter_context(TemporaryDirectory()))
        store_handle = open_store(folder, database_url)
        stack.callback(store_handle.close)
        app = build_app(manager, access or AccessPolicy(), store_handle, training, public, folder)
        yield from _served(app, manager, link, port)


def _served(
    app: FastAPI, manager: ModelManager, link: socket.socket | None, port: int
) -> Iterator[str]:
    sock = bind("127.0.0.1", port)
    server = uvicorn.Server(server_config(app, log_level="error", grace_seconds=1))
    started = threading.Event()
    startup = server.startup

    async def signal_start(sockets: list[object] | None = None) -> None:
        await startup(sockets=sockets)  # type: ignore[arg-type]
        started.set()

    server.startup = signal_start  # type: ignore[assignment, method-assign]
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [sock, link] if link else [sock]}, daemon=True
    )
    thread.start()
    if not started.wait(60):
        raise RuntimeError("the server did not start")
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        manager.close()
        server.should_exit = True
        thread.join(20)
