"""The admin routes load and unload adapters, and require the admin key."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from web.access import AccessPolicy

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(echo)


@pytest.fixture
def admin(engine: FakeEngine) -> Iterator[httpx.Client]:
    manager = fake_manager(engine)
    manager.wait()
    with (
        serving(manager, AccessPolicy(api_keys=("user",), admin_key="boss")) as url,
        httpx.Client(base_url=f"{url}/v1", headers={"Authorization": "Bearer boss"}) as client,
    ):
        yield client


def names(admin: httpx.Client) -> list[str]:
    return [model["id"] for model in admin.get("/models").json()["data"]]


def test_adapters_are_listed_with_their_problems(admin: httpx.Client) -> None:
    states = {state["name"]: state for state in admin.get("/adapters").json()["adapters"]}
    assert set(states) == {"pirate", "linly", "torn"}
    assert states["pirate"]["ready"]
    assert states["pirate"]["problem"] is None
    assert not states["pirate"]["loaded"]
    assert "adapter_model.safetensors" in states["torn"]["problem"]
    assert not any("path" in state for state in states.values())


def test_adapter_is_unloaded_and_loaded_again(admin: httpx.Client, engine: FakeEngine) -> None:
    assert admin.post("/adapters/pirate/load").json()["loaded"]
    assert engine.loaded == ("pirate",)

    gone = admin.post("/adapters/pirate/unload").json()
    assert (gone["ready"], gone["loaded"]) == (False, False)
    assert "disabled by an administrator" in gone["problem"]
    assert engine.loaded == ()
    assert names(admin) == ["fake-base", "linly"]
    refused = admin.post("/chat/completions", json={"model": "pirate", "messages": HELLO})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "adapter_broken")
    assert "is disabled" in refused.json()["error"]["message"]

    admin.post("/adapters/rescan")  # does not enable the adapter
    assert names(admin) == ["fake-base", "linly"]
    assert admin.post("/adapters/pirate/load").json()["ready"]
    assert names(admin) == ["fake-base", "pirate", "linly"]
    reply = admin.post("/chat/completions", json={"model": "pirate", "messages": HELLO})
    assert reply.json()["choices"][0]["message"]["content"] == "pirate heard: hello "


@pytest.mark.parametrize(
    ("name", "action", "status"),
    [
        ("nobody", "load", 404),
        ("nobody", "unload", 404),
        ("torn", "load", 422),
        ("..%2f..%2fetc", "load", 404),
        ("%2e%2e", "unload", 404),
    ],
)
def test_load_and_unload_of_unusable_adapters_fail(
    admin: httpx.Client, name: str, action: str, status: int
) -> None:
    answer = admin.post(f"/adapters/{name}/{action}")
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("key", ["user", "wrong", ""])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", "/rescan"), ("POST", "/pirate/load"), ("POST", "/pirate/unload")],
)
def test_other_keys_cannot_use_the_admin_routes(
    admin: httpx.Client, engine: FakeEngine, method: str, path: str, key: str
) -> None:
    answer = admin.request(
        method, f"/adapters{path}", headers={"Authorization": f"Bearer {key}".strip()}
    )
    assert answer.status_code == (403 if key == "user" else 401)
    assert engine.loaded == ()
    assert names(admin) == ["fake-base", "pirate", "linly"]


def test_without_an_admin_key_the_routes_are_closed() -> None:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with serving(manager) as url:
        answer = httpx.post(f"{url}/v1/adapters/pirate/unload")
        assert answer.status_code == 403
        assert "--admin_key" in answer.json()["error"]["message"]
