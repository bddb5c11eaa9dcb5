"""All paths of the program are on a list, so that no path is added by accident."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from starlette.routing import BaseRoute, Mount, WebSocketRoute

from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from web.access import AccessPolicy
from web.chats.open_store import open_store
from web.server import GRADIO_PATHS, build_app

GET, HEAD, BOTH, POST = ("GET",), ("HEAD",), ("GET", "HEAD"), ("POST",)
FILES, WEBSOCKET, ANY = ("files",), ("websocket",), ("any",)
API = {
    "/health": GET, "/metrics": GET, "/v1/models": GET, "/v1/models/{name}": GET,
    "/v1/chat/completions": POST, "/v1/completions": POST, "/v1/adapters": GET,
    "/v1/adapters/rescan": POST, "/v1/adapters/{name}/load": POST,
    "/v1/adapters/{name}/unload": POST,
}  # fmt: skip
PAGE = {
    ("/login", GET), ("/login", POST), ("/logout", POST), ("/page/actions/{kind}", POST),
    ("/page/import", POST), ("/page/export", POST), ("/page/upload", POST),
    ("/page/events", WEBSOCKET), ("/page", FILES), ("/openapi.json", BOTH), ("/docs", GET),
    ("/docs/oauth2-redirect", GET), ("/static-offline-docs", FILES),
}  # fmt: skip
# The document and its files. `web/page_rules.py` refuses everything else that Gradio has.
HEADS = ("/health", "/metrics", "/v1/models", "/v1/models/{name}")
GRADIO = {("/", HEAD), *((path, GET) for path in GRADIO_PATHS)}
EXPECTED = {
    *API.items(),
    *((path, HEAD) for path in HEADS),
    *((path, ANY) for path in (*API, "/v1/{rest:path}")),
    *PAGE,
    *GRADIO,
}
# Files of the page's own under a name that Gradio has, too, or paths that have the same name.
SHARED = re.compile(r"/(assets|static)/x|/(openapi\.json|login/?|logout)?")


def routes(found: Sequence[BaseRoute], before: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields all routes with their methods, including nested ones."""
    for route in found:
        path = before + str(getattr(route, "path", ""))
        included = getattr(route, "original_router", None)
        inner = getattr(getattr(route, "app", None), "routes", None)
        if included is not None:
            yield from routes(included.routes, before)
        elif isinstance(route, Mount) and inner:
            yield from routes(inner, path)
        elif isinstance(route, Mount):
            yield path, FILES
        elif isinstance(route, WebSocketRoute):
            yield path, WEBSOCKET
        elif methods := getattr(route, "methods", None):
            yield path, tuple(sorted(methods))
        else:
            yield path, ANY


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    store_handle = open_store(tmp_path_factory.mktemp("chats"))
    manager = fake_manager(FakeEngine(echo))
    yield build_app(manager, AccessPolicy(), store_handle)
    store_handle.close()
    manager.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with serving(manager, data=tmp_path_factory.mktemp("chats")) as url:
        yield url


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        yield client


def test_routes_every_one_is_on_the_list(app: Any) -> None:
    found = set(routes(app.routes))
    assert found == EXPECTED


def test_routes_the_check_sees_gradio_s() -> None:
    """If `routes` did not find Gradio's routes, the other tests would check nothing."""
    paths = {path for path, _ in gradio_s()}
    assert len(paths) > 40
    assert {"/gradio_api/queue/join", "/gradio_api/upload", "/config", "/monitoring"} < paths


def gradio_s() -> list[tuple[str, str]]:
    """Returns Gradio's paths, with a value for each parameter, and their methods."""
    made = gr.routes.App.create_app(gr.Blocks())
    found = {
        (re.sub(r"\{[^}]*\}", "x", path), method)
        for path, methods in routes(made.routes) if path not in GRADIO_PATHS for method in methods
    }  # fmt: skip
    return sorted(found)


@pytest.mark.parametrize(("path", "method"), gradio_s())
def test_routes_of_gradio_are_closed(http: httpx.Client, path: str, method: str) -> None:
    sent = method if method.isupper() else "GET"
    prefixes = ["/gradio_api", "/page"] if SHARED.fullmatch(path) else ["", "/gradio_api", "/page"]
    for prefix in prefixes:
        for content in (b"", b"{}"):
            answer = http.request(sent, f"{prefix}{path}", content=content)
            assert answer.status_code == 404, prefix


def test_routes_of_the_page_s_own_names_are_not_gradio_s(http: httpx.Client) -> None:
    """Gradio has a login under the same name."""
    assert "gradio" not in http.get("/login").text.lower()
    assert http.get("/logout").status_code == 405
    assert http.get("/openapi.json").json()["info"]["title"] == "Linly Chat"


def test_routes_no_file_of_this_machine_is_served(http: httpx.Client, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    for before in (
        "/gradio_api/file=", "/file=", "/static/", "/assets/", "/page/", "/file/", "/static/..",
        "/gradio_api/file/", "/custom_component/",
    ):  # fmt: skip
        for path in (str(secret), str(secret).replace("/", "%2f")):
            answer = http.get(f"{before}{path}")
            assert answer.status_code == 404
            assert "the secret" not in answer.text
