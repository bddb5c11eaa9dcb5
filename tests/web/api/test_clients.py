"""Common clients: OpenAI's, LangChain, the requests of Open WebUI, and curl."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from model.errors import BusyError
from model.translations import verbatim
from model.types import Delta, Emit, EngineRequest, TokenLogprob
from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from web.access import AccessPolicy

KEY = "sk-of-a-friend"
HELLO = [{"role": "user", "content": "你好 there"}]


class LogprobsEngine(FakeEngine):
    """Emits logprobs if the request has them, and is busy for the adapter linly."""

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        if request.adapter and request.adapter.name == "linly":
            raise BusyError(
                verbatim("The queue is full: 9 replies are waiting", "Try again."), retry_after=2.2
            )
        if request.sampling.logprobs is not None:
            top = (TokenLogprob("好".encode(), -1.5), TokenLogprob(b"\xe5\xa5", -2.5))
            emit(Delta("你", logprobs=(TokenLogprob("你".encode(), -0.5, top),)))
            emit(Delta("", logprobs=(TokenLogprob(b" \xe5\xa5", -0.25, offset=1),)))
        super().submit(request, emit)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    manager = fake_manager(LogprobsEngine(echo))
    manager.wait()
    with serving(manager, AccessPolicy(api_keys=(KEY,))) as address:
        yield address


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)


def test_openai_chat_logprobs(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="pirate", messages=HELLO, logprobs=True, top_logprobs=1  # type: ignore[arg-type]
    )  # fmt: skip
    assert reply.choices[0].logprobs
    first, second = reply.choices[0].logprobs.content or []
    assert (first.token, first.logprob, first.bytes) == ("你", -0.5, list("你".encode()))
    assert [(one.token, one.logprob) for one in first.top_logprobs] == [
        ("好", -1.5), ("\\xe5\\xa5", -2.5),
    ]  # fmt: skip
    assert (second.token, second.bytes) == (" \\xe5\\xa5", [0x20, 0xE5, 0xA5])
    assert reply.choices[0].message.content == "你pirate heard: 你好 there "


def test_openai_chat_logprobs_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="pirate", messages=HELLO, logprobs=True, stream=True  # type: ignore[arg-type]
    )  # fmt: skip
    logprobs = [chunk.choices[0].logprobs for chunk in stream]
    assert None not in logprobs
    assert [one.content[0].token for one in logprobs if one and one.content] == [
        "你",
        " \\xe5\\xa5",
    ]


def test_openai_text_logprobs(client: openai.OpenAI) -> None:
    logprobs = client.completions.create(model="pirate", prompt="x", logprobs=1).choices[0].logprobs
    assert logprobs
    assert logprobs.tokens == ["你", "bytes: \\xe5\\xa5"]
    assert logprobs.token_logprobs == [-0.5, -0.25]
    assert logprobs.top_logprobs == [
        {"好": -1.5, "bytes:\\xe5\\xa5": -2.5, "你": -0.5}, {"bytes: \\xe5\\xa5": -0.25},
    ]  # fmt: skip
    assert logprobs.text_offset == [0, 1]


def test_text_offsets_continue_in_a_stream(client: openai.OpenAI) -> None:
    stream = client.completions.create(model="pirate", prompt="x", logprobs=1, n=2, stream=True)
    offsets: dict[int, list[int]] = {0: [], 1: []}
    for chunk in stream:
        for choice in chunk.choices:
            offsets[choice.index] += (choice.logprobs and choice.logprobs.text_offset) or []
    assert offsets == {0: [0, 1], 1: [0, 1]}


def test_openai_client_raises_the_matching_errors(client: openai.OpenAI, url: str) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=HELLO)  # type: ignore[arg-type]
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="pirate", messages=HELLO, top_p=7)  # type: ignore[arg-type]
    assert wrong.value.param == "top_p"
    with pytest.raises(openai.RateLimitError) as busy:
        client.chat.completions.create(model="linly", messages=HELLO, stream=True)  # type: ignore[arg-type]
    assert busy.value.response.headers["retry-after"] == "3"
    stranger = openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_requests_have_an_id(client: openai.OpenAI) -> None:
    raw = client.with_raw_response.chat.completions.create
    own = raw(model="pirate", messages=HELLO, extra_headers={"X-Request-Id": "mine-1"})  # type: ignore[arg-type]
    assert own.request_id == "mine-1"
    made_up = raw(model="pirate", messages=HELLO, extra_headers={"X-Request-Id": "no good\tid"})  # type: ignore[arg-type]
    assert len(made_up.request_id or "") == 32
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("nobody")
    assert missing.value.request_id


def test_openai_asynchronously(url: str) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
            questions = [[{"role": "user", "content": f"number {i}"}] for i in range(8)]
            create = client.chat.completions.create
            asked = [create(model="pirate", messages=q) for q in questions]  # type: ignore[call-overload]
            return [reply.choices[0].message.content for reply in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [f"pirate heard: number {i} " for i in range(8)]


def test_langchain(url: str) -> None:
    llm = ChatOpenAI(model="pirate", base_url=f"{url}/v1", api_key=SecretStr(KEY), temperature=0)
    assert llm.invoke("hello").content == "pirate heard: hello "
    assert "".join(str(chunk.content) for chunk in llm.stream("hello")) == "pirate heard: hello "
    batch = llm.batch(["one", [("system", "Be brief."), ("human", "two")]])
    assert [reply.content for reply in batch] == ["pirate heard: one ", "pirate heard: two "]
    usage = llm.invoke("hello").usage_metadata
    assert usage
    assert usage["output_tokens"] == 3


def test_open_webui(url: str) -> None:
    """It lists the models, then streams a chat with fields that are not OpenAI's."""
    headers = {"Authorization": f"Bearer {KEY}"}
    models = httpx.get(f"{url}/v1/models", headers=headers).json()["data"]
    body = {
        "model": models[1]["id"], "messages": HELLO, "stream": True,
        "stream_options": {"include_usage": True}, "max_tokens": None, "user": {"name": "Ann"},
        "chat_id": "c-1", "session_id": "s-1", "features": {"web_search": False},
        "metadata": {}, "tool_ids": None, "tools": [], "background_tasks": {"title": True},
    }  # fmt: skip
    body["user"] = "Ann"
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers)
    events = [line[6:] for line in answer.text.split("\n\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
    assert text == "pirate heard: 你好 there "
    assert chunks[-1]["usage"]["completion_tokens"] == 4


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(url: str) -> None:
    done = subprocess.run(
        ["curl", "-sSN", f"{url}/v1/chat/completions", "-H", "Content-Type: application/json",
         "-H", f"Authorization: Bearer {KEY}", "-d",
         json.dumps({"model": "pirate", "messages": HELLO, "stream": True})],
        capture_output=True, check=True,
    )  # fmt: skip
    assert "你好" in done.stdout.decode()
    assert done.stdout.endswith(b"data: [DONE]\n\n")
