"""Several choices and prompts in one request, `echo`, and keep-alives of a stream."""

from __future__ import annotations

import threading
from collections import defaultdict

import httpx
import openai
import pytest

from model.types import Delta, Emit, EngineRequest, Queued
from tests.fake_engine import FakeEngine, fake_manager
from tests.web.app_server import serving

HELLO = [{"role": "user", "content": "hello"}]


def seeded(prompt: str, request: EngineRequest) -> list[str]:
    """Returns a reply with the seed and the end of the prompt."""
    return [f"{request.sampling.seed} ", "to ", prompt[-5:]]


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine(seeded)


def test_each_choice_has_its_seed(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="pirate", prompt="ahoy!", n=3, seed=7)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert [choice.text for choice in reply.choices] == ["7 to ahoy!", "8 to ahoy!", "9 to ahoy!"]
    assert reply.usage
    assert reply.usage.prompt_tokens == 5  # the prompt counts once
    assert reply.usage.completion_tokens == 9


def test_the_seed_after_the_largest_is_0(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="pirate", prompt="ahoy!", n=2, seed=2**63 - 1)
    assert [choice.text.split()[0] for choice in reply.choices] == [str(2**63 - 1), "0"]


def test_choices_without_a_seed_are_separate_requests(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    client.completions.create(model="pirate", prompt="ahoy!", n=2)
    first, second = engine.requests[-2:]
    assert first.id != second.id
    assert first.sampling.seed is second.sampling.seed is None  # the engine draws one for each


def test_several_prompts(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="pirate", prompt=["first", "other"], n=2, seed=1)
    texts = [choice.text for choice in reply.choices]
    assert texts == ["1 to first", "2 to first", "1 to other", "2 to other"]
    assert reply.usage
    assert reply.usage.prompt_tokens == 10
    ids = [[ord(letter) for letter in word] for word in ("first", "other")]
    reply = client.completions.create(model="pirate", prompt=ids, seed=1)
    assert [choice.text for choice in reply.choices] == ["1 to first", "1 to other"]


@pytest.mark.parametrize("prompt", ["ahoy!", [97, 104, 111, 121, 33]])
@pytest.mark.parametrize("stream", [False, True])
def test_echo(client: openai.OpenAI, prompt: str, stream: bool) -> None:
    reply = client.completions.create(
        model="pirate", prompt=prompt, echo=True, seed=1, stream=stream
    )
    chunks = reply if stream else [reply]
    text = "".join(chunk.choices[0].text for chunk in chunks)  # type: ignore[union-attr]
    assert text == "ahoy!1 to ahoy!"


@pytest.mark.parametrize("n", [1, 3])
def test_choices_stream_side_by_side(client: openai.OpenAI, n: int) -> None:
    stream = client.chat.completions.create(
        model="pirate", messages=HELLO, n=n, seed=4, stream=True,  # type: ignore[arg-type]
        stream_options={"include_usage": True},
    )  # fmt: skip
    texts: dict[int, str] = defaultdict(str)
    roles, ends, usage = [], [], None
    for chunk in stream:
        usage = chunk.usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles += [choice.index] if choice.delta.role else []
            ends += [choice.index] if choice.finish_reason == "stop" else []
    assert [texts[i].split()[0] for i in range(n)] == [str(4 + i) for i in range(n)]
    assert sorted(roles) == sorted(ends) == list(range(n))
    assert usage
    assert usage.completion_tokens == 3 * n


@pytest.mark.parametrize("seed", [str(2**63), str(-(2**63) - 1), "1e300", "9" * 9000])
def test_a_seed_of_more_than_64_bits_is_refused(url: str, engine: FakeEngine, seed: str) -> None:
    before = len(engine.requests)
    body = '{"prompt": "ahoy!", "seed": ' + seed + "}"
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{url}/v1/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert len(engine.requests) == before


@pytest.mark.parametrize("seed", [-1, None])
def test_a_seed_of_minus_one_is_none(url: str, engine: FakeEngine, seed: int | None) -> None:
    httpx.post(f"{url}/v1/completions", json={"prompt": "ahoy!", "seed": seed})
    assert engine.requests[-1].sampling.seed is None
    httpx.post(f"{url}/v1/completions", json={"prompt": "ahoy!", "seed": -2})
    assert engine.requests[-1].sampling.seed == 2**63 - 2  # OpenAI's go below 0


class WaitingEngine(FakeEngine):
    """Emits a queue position for each request first."""

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        emit(Delta(queued=Queued(2, "slots", 7.4)))
        super().submit(request, emit)


def test_a_silent_stream_sends_keep_alives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies close silent connections; the prefill of a long prompt can take minutes."""
    monkeypatch.setattr("web.api.streaming.KEEP_ALIVE_SECONDS", 0.01)
    may_reply = threading.Event()

    def late(prompt: str, request: EngineRequest) -> list[str]:
        may_reply.wait()
        return ["at last"]

    manager = fake_manager(WaitingEngine(late))
    manager.wait()
    with serving(manager) as url:
        body = {"messages": HELLO, "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            while not next(lines).startswith(": "):
                pass
            may_reply.set()
            remaining = "\n".join(lines)
    assert "at last" in remaining
    assert "data: [DONE]" in remaining
