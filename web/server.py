"""Assembles the application (page and API), serves it on one port, and shuts it down cleanly."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.gzip import GZipMiddleware

from model.cleanup import keep_temporary_folder
from model.serving.manager import ModelManager
from model.system_resources import allow_many_files
from web import api, login
from web.access import AccessPolicy
from web.api.paths import ApiPathMiddleware
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
from web.ui.page_service import PageService
from web.ui.theme import theme

GRACE_SECONDS = 1  # for open connections at the end; the page's own never end by themselves
DESCRIPTION = "OpenAI's API over one base and its adapters: the adapter is the `model`."
# The routes of Gradio that the page uses: its document and its static files. Gradio's other routes
# call functions, take uploads or serve files of this machine.
GRADIO_PATHS = ("/", "/assets/{path:path}", "/static/{path:path}", "/theme.css", "/favicon.ico")


def build_app(
    manager: ModelManager,
    access: AccessPolicy,
    store_handle: OpenStore,
    training: TrainingService | None = None,
    link: PublicLink | None = None,
    data_dir: Path | None = None,
) -> FastAPI:
    """Returns the application: the API, and the page for all other paths.

    Args:
        training: None for a page that cannot train.
        link: None if there is no public link.
        data_dir: for uploads and the login key; None keeps them for this run only.
    """
    app = FastAPIOffline(title="Linly Chat", description=DESCRIPTION, version="1", redoc_url=None)
    folder = data_dir or keep_temporary_folder()
    attempts = AttemptLimiter()
    logins = Logins(access, link, attempts, key=login.key_in(folder))
    service = PageService.build(manager, store_handle, training, link, folder)
    checks = [
        HealthCheck("The chat store", lambda: store_handle.store.check()),
        HealthCheck("The page", service.check),
    ]
    api.install(app, manager, access, attempts, checks)
    _add_middleware(app, access, logins, link)
    app.include_router(login.router(logins))
    app.include_router(routes.routes(service))
    # Compression reduces the scripts to a third of their size.
    app.mount(
        custom_components.ROUTE,
        GZipMiddleware(custom_components.StaticFilesNoCache(), compresslevel=6),
    )
    app = _mount_gradio(app, service.blocks)
    app.state.service = service
    return app


def _add_middleware(
    app: FastAPI, access: AccessPolicy, logins: Logins, link: PublicLink | None
) -> None:
    """Adds the page's middleware; the last one added runs first."""
    app.add_middleware(HeadInjectionMiddleware)
    app.add_middleware(PageMiddleware, access=access, logins=logins, link=link)
    app.add_middleware(ApiPathMiddleware)
    if link is not None:
        app.add_middleware(LinkMiddleware, access=access, link=link)
    app.add_middleware(SecurityHeaders)


def _mount_gradio(app: FastAPI, blocks: gr.Blocks) -> FastAPI:
    """Mounts Gradio's document and static files at "/", without its queue and other routes."""
    lifespan = app.router.lifespan_context
    app = gr.mount_gradio_app(
        app, blocks, path="/", theme=theme(), footer_links=[], run_history=False, show_error=False
    )
    # Gradio's lifespan would start its queue, which polls for work a thousand times a second.
    app.router.lifespan_context = lifespan
    keep_routes(app, GRADIO_PATHS)
    return app


def serve(app: FastAPI, socks: list[socket.socket], on_end: Callable[[], None]) -> None:
    """Serves until SIGTERM or Ctrl-C, and then calls `on_end` at once in a thread."""
    allow_many_files()  # each tab has a connection
    logging.getLogger("uvicorn.error").addFilter(_expected_at_the_end)
    _Server(server_config(app, grace_seconds=GRACE_SECONDS), on_end).run(sockets=socks)


class _Server(uvicorn.Server):
    """A uvicorn server that exits with status 0 on a signal; uvicorn would raise it again."""

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
    """Log filter that drops uvicorn's message about connections still open after GRACE_SECONDS."""
    return "graceful shutdown exceeded" not in record.getMessage()
