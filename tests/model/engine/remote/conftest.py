"""A manager over a server elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.config.settings import CHECKOUT, Settings
from model.engine.remote import engine
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.serving.manager import ModelManager
from model.text.tokenizer import TextSpan, Tokenizer
from model.types import ChatRequest, CompletionRequest, Delta
from tests.model.engine.remote.fake_server import Json, Server, running

Open = Callable[..., ModelManager]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks and tries that a test does not have to wait for."""
    monkeypatch.setattr(engine, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(engine, "MIN_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(engine, "MAX_RETRY_SECONDS", 0.05)


@pytest.fixture(scope="session")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return load_tokenizer(read_model_folder(tiny_folder))


@pytest.fixture(scope="session")
def encode(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    return lambda text: tokenizer.encode([TextSpan(text, control=False)])


@pytest.fixture
def server(encode: Callable[[str], list[int]]) -> Server:
    """Says which model was asked (without its digest), and how long the prompt was."""

    def script(body: Json) -> list[int]:
        return encode(f"{body['model'].partition('@')[0]} read {len(body['prompt'])}")

    return Server(script, encode)


@pytest.fixture
def opened(tiny_folder: Path, tiny_adapters: Path) -> Iterator[Open]:
    """Starts a manager over a server that runs already; `settings` change what it is told."""
    with ExitStack() as stack:

        def open_manager(server: Server, **settings: Any) -> ModelManager:
            url = stack.enter_context(running(server))
            return open_at(url, **settings)

        def open_at(url: str, **settings: Any) -> ModelManager:
            told = Settings(
                base_model=str(tiny_folder), adapters_dir=tiny_adapters,
                prompts_dir=CHECKOUT / "prompts", engine_url=url,
            )  # fmt: skip
            manager = ModelManager(replace(told, **settings))
            stack.callback(manager.close)
            manager.start()
            manager.wait(60)
            return manager

        open_manager.at = open_at  # type: ignore[attr-defined]
        yield open_manager


def ask(manager: ModelManager, request: ChatRequest | CompletionRequest) -> list[Delta]:
    """Everything that a request is answered."""

    async def collect() -> list[Delta]:
        stream = (
            manager.chat(request) if isinstance(request, ChatRequest) else manager.complete(request)
        )
        async with aclosing(stream) as bursts:
            return [delta async for burst in bursts for delta in burst]

    return asyncio.run(collect())


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)
