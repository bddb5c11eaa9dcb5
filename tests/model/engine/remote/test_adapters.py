"""Adapters of a server elsewhere: those that it lists, and those that it is given."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from starlette.responses import JSONResponse

from model.engine.remote import engine
from model.serving.manager import ModelManager
from model.types import AdapterError, ChatRequest, Message, UnknownModelError
from tests.model.engine.remote.conftest import Open, ask, text
from tests.model.engine.remote.fake_server import Server
from tests.tiny import make_adapter

HELLO = (Message("user", "Hello"),)


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> Path:
    """Two adapters, one of them with a template of its own."""
    for name in ("mine", "other"):
        make_adapter(tiny_folder, tmp_path / name, seed=1, r=2, target_modules=["q_proj"])
    (tmp_path / "mine" / "linly_adapter.json").write_text('{"template": "linly"}')
    return tmp_path


def names(manager: object) -> dict[str, bool]:
    return {one.name: one.ready for one in manager.adapters()}  # type: ignore[attr-defined]


def test_those_of_the_server_are_listed_beside_those_here(
    opened: Open, server: Server, folder: Path
) -> None:
    server.adapters = ["theirs"]
    manager = opened(server, adapters_dir=folder)
    assert names(manager) == {"mine": True, "other": True, "theirs": True}
    assert text(ask(manager, ChatRequest(HELLO, adapter="theirs"))).startswith("theirs read")
    assert server.given == []  # nothing lies here that it could be given


def test_one_that_it_does_not_have_is_loaded_once(
    opened: Open, server: Server, folder: Path
) -> None:
    manager = opened(server, adapters_dir=folder)
    for _ in range(2):
        said = ask(manager, ChatRequest(HELLO, adapter="mine"))
        assert text(said).startswith("mine read")
    (given,) = server.given
    assert given["lora_path"] == str((folder / "mine").resolve())
    assert said[-1].stats
    assert said[-1].stats.adapter == "mine"
    assert said[-1].stats.adapter_digest
    assert manager.counts().adapters == ("mine",)
    assert given["lora_name"] == f"mine@{said[-1].stats.adapter_digest[:12]}"
    assert manager.counts().adapter_loads == 1


def test_its_own_template_writes_the_prompt(opened: Open, server: Server, folder: Path) -> None:
    server.adapters = ["mine"]
    ask(opened(server, adapters_dir=folder), ChatRequest(HELLO, adapter="mine"))
    assert server.given == []
    assert "User:" in server.asked[0]["stop"]


def test_one_that_changes_is_loaded_anew(
    opened: Open, server: Server, folder: Path, tiny_folder: Path
) -> None:
    manager = opened(server, adapters_dir=folder)
    first = ask(manager, ChatRequest(HELLO, adapter="other"))[-1].stats
    make_adapter(tiny_folder, folder / "other", seed=2, r=4, target_modules=["q_proj"])
    then = ask(manager, ChatRequest(HELLO, adapter="other"))[-1].stats
    assert len(server.given) == 2
    # In place, vLLM would read the files again at each step.
    assert not any("load_inplace" in given for given in server.given)
    assert first
    assert then
    # Another name: what it has computed with the earlier weights must not be found again.
    names = [asked["model"] for asked in server.asked]
    assert names == [f"other@{stats.adapter_digest[:12]}" for stats in (first, then)]
    assert names[0] != names[1]
    assert server.taken_away == names[:1]
    assert [one.name for one in manager.adapters()] == ["mine", "other"]


def test_one_that_changes_where_it_was_listed_is_loaded_beside_it(
    opened: Open, server: Server, folder: Path, tiny_folder: Path
) -> None:
    server.adapters = ["other"]
    manager = opened(server, adapters_dir=folder)
    ask(manager, ChatRequest(HELLO, adapter="other"))
    make_adapter(tiny_folder, folder / "other", seed=2, r=4, target_modules=["q_proj"])
    ask(manager, ChatRequest(HELLO, adapter="other"))
    first, then = [asked["model"] for asked in server.asked]
    assert first == "other"
    assert then.startswith("other@")
    assert server.taken_away == []


def test_a_listing_that_forgets_loads_nothing_again(
    opened: Open, server: Server, folder: Path
) -> None:
    """Behind a router, one server speaks for all."""
    manager = opened(server, adapters_dir=folder)
    ask(manager, ChatRequest(HELLO, adapter="mine"))
    server.listing = JSONResponse({"data": [{"id": "tiny", "parent": None}]})
    server.looks = 0
    while server.looks < 2:
        time.sleep(0.01)
    for _ in range(3):
        assert text(ask(manager, ChatRequest(HELLO, adapter="mine"))).startswith("mine read")
    assert len(server.given) == 1


def test_one_that_loads_keeps_nobody_else_waiting(
    opened: Open, server: Server, folder: Path
) -> None:
    server.loading = threading.Event()
    manager = opened(server, adapters_dir=folder)

    async def together() -> tuple[list[str], str]:
        slow = [
            asyncio.ensure_future(collected(manager, ChatRequest(HELLO, adapter="mine")))
            for _ in range(30)
        ]
        base = await collected(manager, ChatRequest(HELLO))
        assert not any(task.done() for task in slow)
        server.loading.set()  # type: ignore[union-attr]
        return await asyncio.gather(*slow), base

    slow, base = asyncio.run(together())
    assert base.startswith("tiny read")
    assert {said.split()[0] for said in slow} == {"mine"}
    assert len(server.given) == 1


async def collected(manager: ModelManager, request: ChatRequest) -> str:
    return "".join([d.text async for burst in manager.chat(request) for d in burst])


def test_one_that_does_not_fit_is_tried_once(
    opened: Open, server: Server, folder: Path, tiny_folder: Path
) -> None:
    make_adapter(tiny_folder, folder / "unfit", seed=1, r=2, target_modules=["q_proj"])
    manager = opened(server, adapters_dir=folder)
    for _ in range(3):
        with pytest.raises(AdapterError, match="greater than max_lora_rank"):
            ask(manager, ChatRequest(HELLO, adapter="unfit"))
    assert len(server.given) == 1


def test_a_server_that_was_started_anew_is_given_it_again(
    opened: Open, server: Server, folder: Path
) -> None:
    manager = opened(server, adapters_dir=folder)
    ask(manager, ChatRequest(HELLO, adapter="mine"))
    server.adapters = []  # it has forgotten, and nobody has looked since
    said = ask(manager, ChatRequest(HELLO, adapter="mine", affinity="c-1"))
    assert text(said).startswith("mine read")
    assert len(server.given) == 2


def test_a_server_that_loads_none_says_so_beforehand(
    opened: Open, server: Server, folder: Path
) -> None:
    server.loads, server.adapters = False, ["mine"]
    manager = opened(server, adapters_dir=folder)
    assert names(manager) == {"mine": True, "other": False}
    with pytest.raises(AdapterError, match="--lora-modules"):
        ask(manager, ChatRequest(HELLO, adapter="other"))
    assert text(ask(manager, ChatRequest(HELLO, adapter="mine"))).startswith("mine read")


def test_one_that_it_cannot_read(
    opened: Open, server: Server, folder: Path, tiny_folder: Path
) -> None:
    make_adapter(tiny_folder, folder / "unreadable", seed=1, r=2, target_modules=["q_proj"])
    manager = opened(server, adapters_dir=folder)
    with pytest.raises(AdapterError, match="under the same path") as caught:
        ask(manager, ChatRequest(HELLO, adapter="unreadable"))
    assert str(folder) not in str(caught.value)  # where it lies is nobody's business


def test_one_that_vanished_there(
    opened: Open, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was listed, and lies nowhere here."""
    monkeypatch.setattr(engine, "LOOK_SECONDS", 600)  # no other look before the request
    server.adapters = ["theirs"]
    manager = opened(server, adapters_dir=folder)
    server.adapters = []
    with pytest.raises(AdapterError, match="does not serve the adapter 'theirs'"):
        ask(manager, ChatRequest(HELLO, adapter="theirs"))


def test_one_whose_folder_is_gone_is_gone(opened: Open, server: Server, folder: Path) -> None:
    """Though the server still has it: nobody can say what it is any more."""
    manager = opened(server, adapters_dir=folder)
    ask(manager, ChatRequest(HELLO, adapter="mine"))
    (folder / "mine").rename(folder.parent / "gone")
    assert names(manager) == {"other": True}
    with pytest.raises(UnknownModelError):
        ask(manager, ChatRequest(HELLO, adapter="mine"))


def test_unloading_takes_it_from_the_server(opened: Open, server: Server, folder: Path) -> None:
    manager = opened(server, adapters_dir=folder)
    manager.load_adapter("mine")
    (name,) = server.adapters
    assert name.startswith("mine@")
    manager.unload_adapter("mine")
    assert server.taken_away == [name]
    assert names(manager)["mine"] is False
    manager.load_adapter("mine")
    assert names(manager)["mine"] is True
