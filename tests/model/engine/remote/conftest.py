"""Fixtures: a manager over a fake model server."""

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


class ManagerOpener:
    """Starts managers over model servers; `settings` override the defaults."""

    def __init__(self, base: Path, adapters: Path, stack: ExitStack) -> None:
        self._settings = Settings(
            base_model=str(base), adapters_dir=adapters, prompts_dir=CHECKOUT / "prompts"
        )
        self._stack = stack

    def __call__(self, server: Server, **settings: Any) -> ModelManager:
        """A manager over `server`, which is started."""
        return self.at(self._stack.enter_context(running(server)), **settings)

    def at(self, url: str, **settings: Any) -> ModelManager:
        """A manager over the server at `url`, which may not respond."""
        manager = ModelManager(replace(self._settings, engine_url=url, **settings))
        self._stack.callback(manager.close)
        manager.start()
        manager.wait(60)
        return manager


@pytest.fixture(autouse=True)
def fast_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls and retries without delay."""
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
    """Replies with the requested model (without its digest) and the length of the prompt."""

    def script(body: Json) -> list[int]:
        return encode(f"{body['model'].partition('@')[0]} read {len(body['prompt'])}")

    return Server(script, encode)


@pytest.fixture
def open_manager(tiny_folder: Path, tiny_adapters: Path) -> Iterator[ManagerOpener]:
    with ExitStack() as stack:
        yield ManagerOpener(tiny_folder, tiny_adapters, stack)


def ask(manager: ModelManager, request: ChatRequest | CompletionRequest) -> list[Delta]:
    """All deltas of the reply to a request."""

    async def collect() -> list[Delta]:
        stream = (
            manager.chat(request) if isinstance(request, ChatRequest) else manager.complete(request)
        )
        async with aclosing(stream) as batches:
            return [delta async for batch in batches for delta in batch]

    return asyncio.run(collect())


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)
