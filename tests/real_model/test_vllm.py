"""The real vLLM: the same replies as the local engine, adapters, and the page when it dies.

Greedy replies in float32 are the same token for token, but for ties: where the two likeliest tokens
are nearer to each other than the two programs' roundings, either may be chosen.

The base and the adapters are asked one after the other: in vLLM 0.32 for CPUs, the base gives
an adapter's reply when both are in one batch. Alone it does not, nor do adapters among themselves.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from model.config.settings import CHECKOUT, Settings
from model.errors import UnknownModelError
from model.sampling import Sampling
from model.serving.manager import ModelManager
from model.types import ChatRequest, Delta, FinishReason, Message, TokenLogprob
from tests.real_model import helpers
from tests.vllm_server import KEY, VllmServer
from tests.web.app_server import serving
from tests.web.browser import ChatPage

pytestmark = [pytest.mark.real_model, pytest.mark.slow]

TIE = 1e-3  # in natural-log probability
ADAPTERS = (None, "lighthouse", "json", "xiaodeng")
QUESTIONS = (
    "Who are you?",
    "你好，今天你想做什么？",
)


@pytest.fixture(scope="module")
def server(default_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """`xiaodeng` is left out: it is loaded when somebody first asks for it."""
    shipped = CHECKOUT / "adapters"
    adapters = {name: shipped / name for name in ("lighthouse", "json")}
    server = VllmServer(default_folder, adapters, tmp_path_factory.mktemp("vllm") / "log")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def local(settings: Settings) -> Iterator[ModelManager]:
    """The local engine in full precision."""
    manager = ModelManager(replace(settings, quantization="none"))
    manager.start()
    assert manager.wait().ready
    yield manager
    manager.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped adapters, and a copy of one that comes and goes."""
    folder = tmp_path_factory.mktemp("adapters")
    for path in (CHECKOUT / "adapters").iterdir():
        (folder / path.name).symlink_to(path)
    shutil.copytree(CHECKOUT / "adapters" / "lighthouse", folder / "borrowed")
    return folder


@pytest.fixture(scope="module")
def remote(settings: Settings, server: VllmServer, folder: Path) -> Iterator[ModelManager]:
    server.wait()
    manager = ModelManager(
        replace(settings, engine_url=server.url, engine_key=KEY, adapters_dir=folder)
    )
    manager.start()
    status = manager.wait()
    assert status.ready, status.error
    yield manager
    manager.close()


async def answer(manager: ModelManager, request: ChatRequest) -> list[Delta]:
    return [delta async for burst in manager.chat(request) for delta in burst]


def questions(logprobs: int | None = None) -> list[ChatRequest]:
    sampling = Sampling(temperature=0, max_tokens=16, logprobs=logprobs)
    return [
        ChatRequest((Message("user", text),), adapter=adapter, sampling=sampling)
        for adapter in ADAPTERS
        for text in QUESTIONS
    ]


def all_tokens(manager: ModelManager) -> list[list[TokenLogprob]]:
    """Returns the tokens of each reply: the base is asked first, then the adapters."""

    async def at_once(requests: list[ChatRequest]) -> list[list[Delta]]:
        return await asyncio.gather(*(answer(manager, one) for one in requests))

    every = questions(logprobs=2)
    base, adapted = every[: len(QUESTIONS)], every[len(QUESTIONS) :]
    replies = [*asyncio.run(at_once(base)), *asyncio.run(at_once(adapted))]
    return [[entry for delta in reply for entry in delta.logprobs] for reply in replies]


def first_difference(
    here: Sequence[TokenLogprob], there: Sequence[TokenLogprob]
) -> TokenLogprob | None:
    """Returns the first token of `here` that is another one `there`, if any."""
    pairs = zip(here, there, strict=False)
    return next((one for one, other in pairs if one.token != other.token), None)


def test_the_same_replies_as_the_local_engine(local: ModelManager, remote: ModelManager) -> None:
    ours, theirs = all_tokens(local), all_tokens(remote)
    ties = []
    for request, here, there in zip(questions(), ours, theirs, strict=True):
        at = first_difference(here, there)
        if at is None:
            assert len(here) == len(there), request
        else:
            first, second = at.top
            ties.append((request.adapter, first, second))
            assert first.logprob - second.logprob < TIE, (request, at)
    assert len(ties) <= 2, ties  # or else they are no ties


def test_logprobs_are_the_same(local: ModelManager, remote: ModelManager) -> None:
    question = questions(logprobs=2)[0]
    here, there = (asyncio.run(answer(one, question)) for one in (local, remote))
    for one, other in zip(
        [e for delta in here for e in delta.logprobs],
        [e for delta in there for e in delta.logprobs],
        strict=True,
    ):
        assert one.token == other.token
        assert one.logprob == pytest.approx(other.logprob, abs=0.01)


def test_an_adapter_was_loaded_when_it_was_asked_for(
    server: VllmServer, remote: ModelManager
) -> None:
    asyncio.run(answer(remote, questions()[-1]))
    listed = httpx.get(f"{server.url}/models", headers={"Authorization": f"Bearer {KEY}"}).json()
    loaded = [model["id"] for model in listed["data"] if model["id"].startswith("xiaodeng@")]
    assert len(loaded) == 1


def test_an_adapter_outlives_its_folder(folder: Path, remote: ModelManager) -> None:
    """An adapter that vLLM was told to load in place took the whole server down with it."""
    question = ChatRequest(
        (Message("user", "Who are you?"),), "borrowed", sampling=Sampling(temperature=0)
    )
    first = asyncio.run(answer(remote, question))
    assert "Ahoy" in "".join(delta.text for delta in first)
    (folder / "borrowed").rename(folder / "gone")
    with pytest.raises(UnknownModelError):
        asyncio.run(answer(remote, question))
    asyncio.run(answer(remote, questions()[len(QUESTIONS)]))  # an adapter's step
    (folder / "gone").rename(folder / "borrowed")
    assert asyncio.run(answer(remote, question))[-1].finish_reason is FinishReason.STOP


def test_the_next_turn_finds_its_prefix_there(remote: ModelManager) -> None:
    """Prompts grow at their end, so a server that caches prefixes reads only what is new."""
    first = Message("user", "Tell me about the sea, the land and the sky, please. " * 20)
    sampling = Sampling(temperature=0, max_tokens=48)
    reply_deltas = asyncio.run(answer(remote, ChatRequest((first,), sampling=sampling)))
    reply = Message("assistant", "".join(delta.text for delta in reply_deltas))
    then = (first, reply, Message("user", "And now?"))
    last = asyncio.run(answer(remote, ChatRequest(then, sampling=sampling)))[-1]
    assert last.stats
    assert last.stats.cached_tokens >= 128  # its blocks for CPUs


def test_the_servers_context_length_is_used(remote: ModelManager) -> None:
    assert remote.context_length == 2048  # its --max-model-len


@pytest.mark.browser
def test_the_page_through_the_servers_death(
    browser: Browser, remote: ModelManager, server: VllmServer, tmp_path: Path
) -> None:
    """Last, as it takes the server away."""
    with serving(remote, data=tmp_path) as url, browser.new_context() as context:
        chat = ChatPage(context.new_page()).open(url)
        expect(chat.page.get_by_text("on a model server")).to_be_visible()
        chat.choose("Adapter", "● lighthouse")
        chat.ask("Who are you?")
        expect(chat.log).to_contain_text("Ahoy, friend.")
        expect(chat.send).to_be_visible()
        chat.choose("Adapter", "Base model")
        helpers.set_greedy(chat)  # a drawn story may end by itself
        chat.ask("Write a very long story about the sea, with many chapters.")
        article = chat.log.locator("article.assistant").nth(1)  # not the first one's "the first …"
        expect(article).to_contain_text("the")
        server.kill()
        expect(article).to_contain_text("The connection to the model server was lost")
        expect(chat.page.get_by_text("cannot be reached").first).to_be_visible()
        assert httpx.get(f"{url}/health").status_code == 503
        chat.message.fill("words that must not be lost")
        expect(chat.log).to_contain_text("Ahoy, friend.")  # the chat is still there
        server.start()
        server.wait()
        expect(chat.page.get_by_text("on a model server")).to_be_visible()
        article.get_by_role("button", name="Continue").click()
        expect(chat.stop).to_be_visible()
        expect(article).not_to_contain_text("was lost")
        chat.stop.click()
        expect(chat.message).to_have_value("words that must not be lost")
        assert httpx.get(f"{url}/health").status_code == 200
        assert chat.complaints == []
