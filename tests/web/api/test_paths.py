"""The API's paths as clients write them, and preflight requests of browsers."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator

import httpx
import pytest

from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from web.access import AccessPolicy

KEY = "sk-of-a-friend"
ADMIN = "sk-of-the-boss"
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
ORIGIN = "https://chat.example.com"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        serving(manager, AccessPolicy(api_keys=(KEY,), admin_key=ADMIN, origins=(ORIGIN,))) as url,
        httpx.Client(base_url=url, headers=headers) as client,
    ):
        yield client


@pytest.mark.parametrize(
    "path",
    ["/v1/models/", "/v1//models", "/v1/v1/models", "/v1/v1//models//", "/v1/models/pirate/"],
)
def test_slashes_and_a_second_v1_do_not_matter(client: httpx.Client, path: str) -> None:
    assert client.get(path).json()["object"] in ("list", "model")
    assert client.get(path, headers={"Authorization": ""}).status_code == 401


def test_chats_are_served_at_these_paths(client: httpx.Client) -> None:
    for path in ("/v1/chat/completions/", "/v1//chat//completions", "/v1/v1/chat/completions"):
        assert client.post(path, json=CHAT).json()["object"] == "chat.completion"
    assert client.post("/v1/completions/", json={"prompt": "x"}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "suggestion"),
    [
        ("POST", "/chat/completions", "/v1/chat/completions"),
        ("POST", "/completions/", "/v1/completions"),
        ("GET", "/models", "/v1/models"),
        ("GET", "/models/pirate", "/v1/models/pirate"),
        ("GET", "//v1/models", "/v1/models"),
        ("POST", "//chat//completions", "/v1/chat/completions"),
    ],
)
def test_a_base_url_without_v1_is_named(
    client: httpx.Client, method: str, path: str, suggestion: str
) -> None:
    """These answered with the page's 404, which says nothing. They are not served: proxies guard
    the API by its prefix."""
    answer = client.request(method, str(client.base_url).rstrip("/") + path, json=CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert f"Use {suggestion}:" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v1/",
        "/v1/nothing",
        "/v1/v1",
        "/v1/embeddings",
        "/embeddings",
        "/responses/",
        "//v1",
    ],
)
def test_an_unknown_path_lists_those_that_exist(client: httpx.Client, path: str) -> None:
    answer = client.get(str(client.base_url).rstrip("/") + path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert "/v1/chat/completions" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "path", ["/v1//page/events", "/v1/v1/", "/v1/../login", "/v1//%2e%2e/page/chat.js",
             "/chat/completions/../../login", "/v1//login", "/models/" + "x" * 5000],
)  # fmt: skip
def test_these_paths_lead_to_no_part_of_the_page(client: httpx.Client, path: str) -> None:
    url = client.base_url
    connection = http.client.HTTPConnection(url.host, url.port or 80)  # it sends a path as it is
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Authorization": f"Bearer {KEY}"})
        answer = connection.getresponse()
        text = answer.read(100_000)
    assert (answer.status, json.loads(text)["error"]["code"]) == (404, "not_found")
    assert len(text) < 1000


@pytest.mark.parametrize(
    "path", ["/v1//adapters", "/v1/v1/adapters", "/v1/adapters/", "//v1/adapters", "/adapters",
             "/v1/v1/adapters/pirate/load", "/v1/./adapters", "/v1/%2fadapters"],
)  # fmt: skip
def test_the_admin_paths_have_one_form(client: httpx.Client, path: str) -> None:
    """A proxy that closes /v1/adapters would let these through."""
    admin = {"Authorization": f"Bearer {ADMIN}"}
    url = client.base_url
    assert client.get("/v1/adapters", headers=admin).status_code == 200
    for method in ("GET", "POST"):
        connection = http.client.HTTPConnection(url.host, url.port or 80)
        with contextlib.closing(connection):
            connection.request(method, path, headers=admin)
            assert connection.getresponse().status == 404


def preflight(client: httpx.Client, origin: str, **headers: str) -> httpx.Response:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-any"}
    sent = {"Origin": origin, **asked, **headers}
    return client.options("/v1/chat/completions", headers=sent)


def test_allowed_origins_reach_a_private_network(client: httpx.Client) -> None:
    """Chrome asks so before a public page may reach a private address."""
    private = {"Access-Control-Request-Private-Network": "true"}
    allowed = preflight(client, ORIGIN, **private)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-private-network"] == "true"
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    for origin in ("https://evil.example", f"{ORIGIN}.evil.example", "null"):
        foreign = preflight(client, origin, **private)
        assert foreign.status_code == 400
        assert "access-control-allow-private-network" not in foreign.headers
        assert "access-control-allow-origin" not in foreign.headers
    assert "access-control-allow-private-network" not in preflight(client, ORIGIN).headers
