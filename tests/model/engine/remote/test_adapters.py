"""Adapters on a model server: those that it lists, and those that are loaded there."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from starlette.responses import JSONResponse

from model.engine.remote import engine
from model.errors import AdapterError, UnknownModelError
from model.serving.manager import ModelManager
from model.types import ChatRequest, Message
from tests.model.engine.remote.conftest import ManagerOpener, ask, text
from tests.model.engine.remote.fake_server import Server
from tests.tiny_model import make_adapter

HELLO = (Message("user", "Hello"),)


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> Path:
    """Two adapters, one of them with a template of its own."""
    for name in ("mine", "other"):
        make_adapter(tiny_folder, tmp_path / name, seed=1, r=2, target_modules=["q_proj"])
    (tmp_path / "mine" / "linly_adapter.json").write_text('{"template": "linly"}')
    return tmp_path


def readiness(manager: ModelManager) -> dict[str, bool]:
    return {adapter.name: adapter.ready for adapter in manager.adapters()}


def test_the_servers_adapters_are_listed_beside_the_local_ones(
    open_manager: ManagerOpener, server: Server, folder: Path
) -> None:
    server.adapters = ["theirs"]
    manager = open_manager(server, adapters_dir=folder)
    assert readiness(manager) == {"mine": True, "other": True, "theirs": True}
    assert text(ask(manager, ChatRequest(HELLO, adapter="theirs"))).startswith("theirs read")
    assert server.load_requests == []  # there is no folder on this machine


def test_an_adapter_is_loaded_on_the_server_once(
    open_manager: ManagerOpener, server: Server, folder: Path
) -> None:
    manager = open_manager(server, adapters_dir=folder)
    for _ in range(2):
        deltas = ask(manager, ChatRequest(HELLO, adapter="mine"))
        assert text(deltas).startswith("mine read")
    (loaded,) = server.load_requests
    assert loaded["lora_path"] == str((folder / "mine").resolve())
    stats = deltas[-1].stats
    assert stats
    assert stats.adapter == "mine"
    assert stats.adapter_digest
    assert manager.counts().adapters == ("mine",)
    assert loaded["lora_name"] == f"mine@{stats.adapter_digest[:12]}"
    assert manager.counts().adapter_loads == 1


def test_an_adapters_template_renders_the_prompt(
    open_manager: ManagerOpener, server: Server, folder: Path
) -> None:
    server.adapters = ["mine"]
    ask(open_manager(server, adapters_dir=folder), ChatRequest(HELLO, adapter="mine"))
    assert server.load_requests == []
    assert "User:" in server.requests[0]["stop"]


def test_a_changed_adapter_is_loaded_again(
    open_manager: ManagerOpener, server: Server, folder: Path, tiny_folder: Path
) -> None:
    manager = open_manager(server, adapters_dir=folder)
    first = ask(manager, ChatRequest(HELLO, adapter="other"))[-1].stats
    make_adapter(tiny_folder, folder / "other", seed=2, r=4, target_modules=["q_proj"])
    second = ask(manager, ChatRequest(HELLO, adapter="other"))[-1].stats
    assert len(server.load_requests) == 2
    # In place, vLLM would read the files again at each step.
    assert not any("load_inplace" in loaded for loaded in server.load_requests)
    assert first
    assert second
    # Another name: keys and values of the earlier weights must not be found again.
    names = [request["model"] for request in server.requests]
    assert names == [f"other@{stats.adapter_digest[:12]}" for stats in (first, second)]
    assert names[0] != names[1]
    assert server.unloaded == names[:1]
    assert [adapter.name for adapter in manager.adapters()] == ["mine", "other"]


def test_a_changed_adapter_is_loaded_beside_the_listed_one(
    open_manager: ManagerOpener, server: Server, folder: Path, tiny_folder: Path
) -> None:
    server.adapters = ["other"]
    manager = open_manager(server, adapters_dir=folder)
    ask(manager, ChatRequest(HELLO, adapter="other"))
    make_adapter(tiny_folder, folder / "other", seed=2, r=4, target_modules=["q_proj"])
    ask(manager, ChatRequest(HELLO, adapter="other"))
    first, second = [request["model"] for request in server.requests]
    assert first == "other"
    assert second.startswith("other@")
    assert server.unloaded == []


def test_an_adapter_missing_in_the_list_is_not_loaded_again(
    open_manager: ManagerOpener, server: Server, folder: Path
) -> None:
    """Behind a router, the list is that of one server among several."""
    manager = open_manager(server, adapters_dir=folder)
    ask(manager, ChatRequest(HELLO, adapter="mine"))
    server.listing = JSONResponse({"data": [{"id": "tiny", "parent": None}]})
    server.polls = 0
    while server.polls < 2:
        time.sleep(0.01)
    for _ in range(3):
        assert text(ask(manager, ChatRequest(HELLO, adapter="mine"))).startswith("mine read")
    assert len(server.load_requests) == 1


def test_a_load_does_not_block_other_requests(
    open_manager: ManagerOpener, server: Server, folder: Path
) -> None:
    server.finish_load = threading.Event()
    manager = open_manager(server, adapters_dir=folder)

    async def together() -> tuple[list[str], str]:
        slow = [
            asyncio.ensure_future(reply_text(manager, ChatRequest(HELLO, adapter="mine")))
            for _ in range(30)
        ]
        base = await reply_text(manager, ChatRequest(HELLO))
        assert not any(task.done() for task in slow)
        server.finish_load.set()  # type: ignore[union-attr]
        return await asyncio.gather(*slow), base

    slow, base = asyncio.run(together())
    assert base.startswith("tiny read")
    assert {reply.split()[0] for reply in slow} == {"mine"}
    assert len(server.load_requests) == 1


async def reply_text(manager: ModelManager, request: ChatRequest) -> str:
    return "".join([d.text async for batch in manager.chat(request) for d in batch])


def test_an_adapter_that_the_server_refuses_is_tried_once(
    open_manager: ManagerOpener, server: Server, folder: Path, tiny_folder: Path
) -> None:
    make_adapter(tiny_folder, folder / "unfit", seed=1, r=2, target_modules=["q_proj"])
    manager = open_manager(server, adapters_dir=folder)
    for _ in range(3):
        with pytest.raises(AdapterError, match="greater than max_lora_rank"):
            ask(manager, ChatRequest(HELLO, adapter="unfit"))
    assert len(server.load_requests) == 1


def test_an_adapter_is_loaded_again_after_a_restart(
    open_manager: ManagerOpener, server: Server, folder: Path
) -> None:
    manager = open_manager(server, adapters_dir=folder)
    ask(manager, ChatRequest(HELLO, adapter="mine"))
    server.adapters = []  # as after a restart; no poll has come since
    deltas = ask(manager, ChatRequest(HELLO, adapter="mine", affinity="c-1"))
    assert text(deltas).startswith("mine read")
    assert len(server.load_requests) == 2


def test_a_server_that_loads_no_adapters_shows_them_as_not_ready(
    open_manager: ManagerOpener, server: Server, folder: Path
) -> None:
    server.loads_adapters, server.adapters = False, ["mine"]
    manager = open_manager(server, adapters_dir=folder)
    assert readiness(manager) == {"mine": True, "other": False}
    with pytest.raises(AdapterError, match="--lora-modules"):
        ask(manager, ChatRequest(HELLO, adapter="other"))
    assert text(ask(manager, ChatRequest(HELLO, adapter="mine"))).startswith("mine read")


def test_an_adapter_that_the_server_cannot_read_is_refused(
    open_manager: ManagerOpener, server: Server, folder: Path, tiny_folder: Path
) -> None:
    make_adapter(tiny_folder, folder / "unreadable", seed=1, r=2, target_modules=["q_proj"])
    manager = open_manager(server, adapters_dir=folder)
    with pytest.raises(AdapterError, match="under the same path") as caught:
        ask(manager, ChatRequest(HELLO, adapter="unreadable"))
    assert str(folder) not in str(caught.value)  # users must not see the path


def test_an_adapter_that_the_server_has_lost_is_refused(
    open_manager: ManagerOpener, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server had listed it, and there is no folder of it on this machine."""
    monkeypatch.setattr(engine, "POLL_SECONDS", 600)  # no other poll before the request
    server.adapters = ["theirs"]
    manager = open_manager(server, adapters_dir=folder)
    server.adapters = []
    with pytest.raises(AdapterError, match="does not serve the adapter 'theirs'"):
        ask(manager, ChatRequest(HELLO, adapter="theirs"))


def test_an_adapter_without_its_folder_is_unknown(
    open_manager: ManagerOpener, server: Server, folder: Path
) -> None:
    """Though the server still has it: its files are no longer known."""
    manager = open_manager(server, adapters_dir=folder)
    ask(manager, ChatRequest(HELLO, adapter="mine"))
    (folder / "mine").rename(folder.parent / "gone")
    assert readiness(manager) == {"other": True}
    with pytest.raises(UnknownModelError):
        ask(manager, ChatRequest(HELLO, adapter="mine"))


def test_unload_removes_an_adapter_from_the_server(
    open_manager: ManagerOpener, server: Server, folder: Path
) -> None:
    manager = open_manager(server, adapters_dir=folder)
    manager.load_adapter("mine")
    (name,) = server.adapters
    assert name.startswith("mine@")
    manager.unload_adapter("mine")
    assert server.unloaded == [name]
    assert readiness(manager)["mine"] is False
    manager.load_adapter("mine")
    assert readiness(manager)["mine"] is True
