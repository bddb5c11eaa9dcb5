"""The page and the API on one port, and a clean end."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from model.manager import ModelManager
from web import api
from web.access import Access
from web.chats.identity import VisitorCookie
from web.chats.keeping import Keeping
from web.health_checks import HealthCheck
from web.http_protocol import server_config
from web.link_gate import LinkGate
from web.sharing import PublicLink
from web.ui import drawn
from web.ui.early import EarlyHead
from web.ui.page import build_page
from web.ui.theme import theme
from web.ui.train.desk import Desk
from web.uploads import UploadGate

QUEUE_SECONDS = 0.02  # between two looks of Gradio at its queue
GRACE_SECONDS = 1  # for open connections at the end; the page's own stay open for ever
MOST_BYTES = 50_000_000  # of a file with training data
ABOUT = "OpenAI's API over one base and its adapters: the adapter is the `model`."
LOGIN_HINT = "Any name will do; enter the passphrase that you were given as the password."


def build_app(
    manager: ModelManager,
    access: Access,
    keeping: Keeping,
    desk: Desk | None = None,
    link: PublicLink | None = None,
) -> FastAPI:
    """The whole application: API first, the page for every other path.

    Without a `desk` nobody trains here; without a `link` nobody comes from outside.
    """
    app = FastAPIOffline(title="Linly Chat", description=ABOUT, version="1", redoc_url=None)
    store = HealthCheck("The chat store", lambda: _read(keeping))
    api.install(app, manager, access, checks=[store])
    app.add_middleware(UploadGate, access=access)
    app.add_middleware(VisitorCookie)
    app.add_middleware(EarlyHead)
    if link is not None:
        app.add_middleware(LinkGate, access=access, link=link)
    app.mount(drawn.ROUTE, drawn.PageFiles())
    page = build_page(manager, access, keeping, desk, link)
    # Gradio looks a thousand times a second, which took a tenth of the model's speed.
    page._queue.sleep_when_free = QUEUE_SECONDS
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        auth=access.login,
        auth_message=LOGIN_HINT if access.passphrase else None,
        head=drawn.head(),
        theme=theme(),
        footer_links=[],
        run_history=False,
        max_file_size=MOST_BYTES,
        show_error=False,
    )


def _read(keeping: Keeping) -> None:
    keeping.store.chats(owner="", limit=1)


def serve(app: FastAPI, socks: list[socket.socket], on_end: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; `on_end` is called at once then, in a thread."""
    logging.getLogger("uvicorn.error").addFilter(_expected_at_the_end)
    _Server(server_config(app, grace_seconds=GRACE_SECONDS), on_end).run(sockets=socks)


class _Server(uvicorn.Server):
    """Ends with exit status 0 on a signal, where uvicorn would raise it again."""

    def __init__(self, config: uvicorn.Config, on_end: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_end = on_end

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        # In a thread: a handler must not wait for locks that the code it interrupted may hold.
        threading.Thread(target=self._on_end, name="ending").start()


def _expected_at_the_end(record: logging.LogRecord) -> bool:
    """Drop uvicorn's complaint about connections that outlived the grace."""
    return "graceful shutdown exceeded" not in record.getMessage()
