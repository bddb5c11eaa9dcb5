"""The API over a fake engine, with OpenAI's client. A module that needs other replies has its own
fixture `engine`."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from model.serving.manager import ModelManager
from model.types import EngineRequest
from tests.fake_engine import FakeEngine, fake_manager
from tests.web.app_server import serving


def answers(prompt: str, request: EngineRequest) -> list[str]:
    return ["an answer"]


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine(answers)


@pytest.fixture(scope="module")
def manager(engine: FakeEngine) -> ModelManager:
    return fake_manager(engine)


@pytest.fixture(scope="module")
def url(manager: ModelManager) -> Iterator[str]:
    manager.wait()
    with serving(manager) as address:
        yield address


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
