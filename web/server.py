"""The page and the API on one port, and a clean end."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from types import FrameType

import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.gzip import GZipMiddleware

from model.serving.manager import ModelManager
from model.system_resources import allow_many_files
from web import api, login
from web.access import AccessPolicy
from web.chats.open_store import OpenStore
from web.gradio_adapter import keep_routes
from web.health_checks import HealthCheck
from web.http_protocol import server_config
from web.login import Logins
from web.page_middleware import PageMiddleware
from web.public_link.limits import PublicLink
from web.public_link.middleware import LinkMiddleware
from web.rate_limits import AttemptLimiter
from web.security_headers import SecurityHeaders
from web.training.service import TrainingService
from web.ui import custom_components, routes
from web.ui.head_middleware import HeadInjectionMiddleware
from web.ui.service import PageService
from web.ui.theme import theme

GRACE_SECONDS = 1  # for open connections at the end; the page's own stay open for ever
ABOUT = "OpenAI's API over one base and its adapters: the adapter is the `model`."
# What the page takes of Gradio: its document and its files. Nothing of it that is called, uploaded
# to, or serves files of this machine's.
GRADIO_PATHS = ("/", "/assets/{path:path}", "/static/{path:path}", "/theme.css", "/favicon.ico")


def build_app(
    manager: ModelManager,
    access: AccessPolicy,
    store_handle: OpenStore,
    desk: TrainingService | None = None,
    link: PublicLink | None = None,
    data_dir: Path | None = None,
) -> FastAPI:
    """The whole application: API first, the page for every other path.

    Without a `desk` the page does not train; without a `link` there is no public link. Without a
    `data_dir`, uploads and the key of the logins are for this run alone.
    """
    app = FastAPIOffline(title="Linly Chat", description=ABOUT, version="1", redoc_url=None)
    folder = data_dir or Path(mkdtemp(prefix="linly-"))
    attempts = AttemptLimiter()
    logins = Logins(access, link, attempts, key=login.key_in(folder))
    service = PageService.build(manager, store_handle, desk, link, folder)
    checks = [
        HealthCheck("The chat store", lambda: store_handle.store.check()),
        HealthCheck("The page", service.check),
    ]
    api.install(app, manager, access, attempts, checks)
    app.add_middleware(HeadInjectionMiddleware)
    app.add_middleware(PageMiddleware, access=access, logins=logins, link=link)
    if link is not None:
        app.add_middleware(LinkMiddleware, access=access, link=link)
    app.add_middleware(SecurityHeaders)
    app.include_router(login.router(logins))
    app.include_router(routes.routes(service))
    # Compressed, the scripts are a third of their size.
    app.mount(
        custom_components.ROUTE,
        GZipMiddleware(custom_components.StaticFilesNoCache(), compresslevel=6),
    )
    lifespan = app.router.lifespan_context
    app = gr.mount_gradio_app(
        app, service.blocks, path="/", theme=theme(), footer_links=[], run_history=False,
        show_error=False,
    )  # fmt: skip
    # Gradio's own would start its queue, which looks for work a thousand times a second.
    app.router.lifespan_context = lifespan
    keep_routes(app, GRADIO_PATHS)
    app.state.service = service
    return app


def serve(app: FastAPI, socks: list[socket.socket], on_end: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; `on_end` is called at once then, in a thread."""
    allow_many_files()  # each tab is one
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
