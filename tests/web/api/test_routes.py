"""/health and OpenAI's API, with OpenAI's client and plain HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from unittest.mock import Mock

import httpx
import openai
import pytest
from pydantic import ValidationError

from model.errors import ModelFolderError, OutOfMemoryError
from model.translations import verbatim
from model.types import EngineRequest
from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from web.api.request_models import ChatCompletion, TextCompletion

HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine(echo)


def test_models_lists_the_base_and_the_healthy_adapters(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == ["fake-base", "pirate", "linly"]
    assert [getattr(model, "parent", None) for model in models] == [None, "fake-base", "fake-base"]


def test_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="fake-base", messages=HELLO)  # type: ignore[arg-type]
    assert reply.choices[0].message.content == "base heard: hello there "
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage
    assert reply.usage.completion_tokens == 4
    assert reply.usage.prompt_tokens_details
    assert reply.usage.prompt_tokens_details.cached_tokens == 2


def test_the_model_field_selects_the_adapter(client: openai.OpenAI, engine: FakeEngine) -> None:
    reply = client.chat.completions.create(model="pirate", messages=HELLO)  # type: ignore[arg-type]
    assert reply.choices[0].message.content == "pirate heard: hello there "
    assert reply.model == "pirate"
    used = engine.requests[-1].adapter
    assert used
    assert used.digest == "d1" * 32


def test_an_adapters_template_writes_the_prompt(client: openai.OpenAI, engine: FakeEngine) -> None:
    client.chat.completions.create(model="linly", messages=HELLO)  # type: ignore[arg-type]
    prompt = "".join(map(chr, engine.requests[-1].prompt_ids))
    assert prompt == "User: hello there\nBot: "
    assert "User:" in engine.requests[-1].sampling.stop


def test_streaming_with_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(  # type: ignore[call-overload]
            model="pirate", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "pirate heard: hello there "
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == 4
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 2
    assert {chunk.usage for chunk in chunks[:-1]} == {None}


def test_completions_take_text_and_token_ids(client: openai.OpenAI, engine: FakeEngine) -> None:
    reply = client.completions.create(model="fake-base", prompt="one two")
    assert reply.choices[0].text == "base heard: one two "
    client.completions.create(model="fake-base", prompt=[104, 105])
    assert list(engine.requests[-1].prompt_ids) == [104, 105]


def test_sampling_fields_reach_the_engine(client: openai.OpenAI, engine: FakeEngine) -> None:
    client.chat.completions.create(
        model="pirate", messages=HELLO, temperature=0, max_completion_tokens=7, seed=3,  # type: ignore[arg-type]
        stop=["x"], top_p=0.5, logprobs=True, top_logprobs=2, presence_penalty=0.5,
        frequency_penalty=-0.5, logit_bias={"104": -100},
        extra_body={"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "ignore_eos": True,
                    "min_tokens": 2, "adapter_scale": 0.5},
    )  # fmt: skip
    request = engine.requests[-1]
    sampling = request.sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.seed) == (0, 7, 3)
    assert sampling.stop == ("x",)
    assert (sampling.top_p, sampling.top_k, sampling.min_p, sampling.logprobs) == (0.5, 5, 0.1, 2)
    assert (sampling.repetition_penalty, sampling.ignore_eos) == (1.2, True)
    assert sampling.min_tokens == 2
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert sampling.logit_bias == ((104, -100.0),)
    assert request.adapter_scale == 0.5


@pytest.mark.parametrize(
    ("body", "status", "code", "text"),
    [
        ({"model": "pirat", "messages": HELLO}, 404, "model_not_found", "Did you mean pirate"),
        ({"model": "torn", "messages": HELLO}, 422, "adapter_broken", "adapter_model"),
        ({"model": "../x", "messages": HELLO}, 404, "model_not_found", "no model or adapter"),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "invalid_value", "role"),
        ({}, 400, "invalid_value", "messages"),
        ({"messages": HELLO, "temperature": -1}, 400, "invalid_value", "temperature"),
        ({"messages": HELLO, "top_p": -0.1}, 400, "invalid_value", "top_p"),
        ({"messages": HELLO, "max_tokens": 0}, 400, "invalid_value", "max_tokens"),
        ({"messages": HELLO, "adapter_scale": -1}, 400, "invalid_value", "adapter_scale"),
        ({"messages": HELLO, "n": 0}, 400, "invalid_value", "n"),
        ({"messages": HELLO, "n": 129}, 400, "invalid_value", "n"),
        ({"messages": HELLO, "temperature": "warm"}, 400, "invalid_value", "temperature"),
        ({"messages": HELLO, "max_completion_tokens": 0}, 400, "invalid_value", "max_completion"),
        ({"messages": HELLO, "presence_penalty": 3}, 400, "invalid_value", "presence_penalty"),
        ({"messages": HELLO, "logit_bias": {"x": 1}}, 400, "invalid_value", "logit_bias"),
        ({"messages": HELLO, "logit_bias": {"99999999": 1}}, 400, "invalid_value", "token id"),
        ({"messages": HELLO, "top_logprobs": 2}, 400, "invalid_value", "logprobs: true"),
        ({"messages": HELLO, "tools": [{}]}, 400, "invalid_value", "tools"),
        (
            {"messages": HELLO, "response_format": {"type": "json_object"}},
            400, "invalid_value", "response_format",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400, "invalid_value", "image_url",
        ),
        ({"messages": HELLO, "stop": ["x"] * 100}, 400, "invalid_value", "stop"),
        ({"messages": HELLO, "repetition_penalty": 1e-37}, 400, "invalid_value", "penalty"),
        (
            {"messages": [{"role": "user", "content": "long " * 1000}]},
            400, "context_length_exceeded",
            "This model's maximum context length is 2000 tokens. However, you requested 5",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_wrong_requests_get_openais_error_object(
    url: str, body: dict[str, object], status: int, code: str, text: str, stream: bool
) -> None:
    answer = httpx.post(f"{url}/v1/chat/completions", json={**body, "stream": stream})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert text in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "body",
    [
        *({"prompt": prompt} for prompt in ("", [], [-1], [0x110000], ["a", ""], [[1], []], 7)),
        {"prompt": ["a"] * 257},
        {"prompt": ["a"] * 129, "n": 2},
        {"prompt": ["a"] * 2049},
        {"prompt": "a", "suffix": "b"},
        {"prompt": "a", "best_of": 2},
        {"prompt": "a", "echo": True, "logprobs": 1},
    ],
)
def test_wrong_completions_are_refused(url: str, body: dict[str, object]) -> None:
    answer = httpx.post(f"{url}/v1/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (TextCompletion, {"prompt": [None] * 50_000}),
        (TextCompletion, {"prompt": [[]] * 50_000}),
        (TextCompletion, {"prompt": [["x"] * 50_000]}),
        (ChatCompletion, {"messages": [{"role": "user", "content": [1] * 50_000}]}),
        (ChatCompletion, {"messages": [None] * 50_000}),
        (ChatCompletion, {"messages": HELLO, "stop": [1] * 50_000}),
        (ChatCompletion, {"messages": HELLO, "logit_bias": {f"a{i}": 1 for i in range(50_000)}}),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value.__name__,
)
def test_validation_ends_at_the_first_of_many_faults(
    kind: type[ChatCompletion | TextCompletion], body: dict[str, object]
) -> None:
    """Formatting all of them would block the event loop: a minute for one request."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    assert caught.value.error_count() < 10


def test_the_error_is_for_the_type_that_the_client_sent(url: str) -> None:
    body = {"messages": HELLO, "stop": ["x"] * 21}
    error = httpx.post(f"{url}/v1/chat/completions", json=body).json()["error"]
    assert "at most 20 items" in error["message"]


def test_too_much_text_for_all_choices_is_refused(url: str) -> None:
    body = {"messages": [{"role": "user", "content": "x" * 100_000}], "n": 32}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert "all choices" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/models", "/v1/models/pirate"])
def test_get_routes_accept_head(url: str, path: str) -> None:
    answer = httpx.head(f"{url}{path}")
    assert (answer.status_code, answer.content) == (200, b"")


def test_null_fields_count_as_missing(url: str) -> None:
    """Clients in some languages send all fields."""
    names = ("stream", "stream_options", "n", "min_p", "repetition_penalty", "stop", "model")
    body = {"messages": HELLO, **dict.fromkeys(names)}
    assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 200


def test_one_model_is_retrieved(client: openai.OpenAI) -> None:
    assert client.models.retrieve("pirate").id == "pirate"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("torn")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/pirate", "GET, HEAD"),
        ("PUT", "/v1/adapters/pirate/load", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("POST", "/v1/nowhere", None),
        ("GET", "/v1/", None),
    ],
)
def test_other_paths_get_the_error_object(
    url: str, method: str, path: str, allowed: str | None
) -> None:
    answer = httpx.request(method, f"{url}{path}")
    code = "method_not_allowed" if allowed else "not_found"
    assert (answer.status_code, answer.json()["error"]["code"]) == (405 if allowed else 404, code)
    assert answer.headers.get("allow") == allowed


def in_pieces(total: int) -> Iterator[bytes]:
    """Yields a body of unknown length, which httpx sends chunked."""
    for _ in range(total // 100_000):
        yield b" " * 100_000


@pytest.mark.parametrize("chunked", [False, True])
def test_a_too_large_body_is_refused(url: str, chunked: bool) -> None:
    body = in_pieces(9_000_000) if chunked else b" " * 9_000_000
    try:
        headers = {"Content-Type": "application/json"}
        answer = httpx.post(f"{url}/v1/chat/completions", content=body, headers=headers)
    except httpx.WriteError:
        return  # the server has closed the connection, which is a refusal too
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


def test_visitors_cannot_upload_files(url: str) -> None:
    answer = httpx.post(f"{url}/page/upload", files={"files": ("x.html", b"<b>hello</b>")})
    assert answer.status_code >= 400


@pytest.mark.parametrize("body", [b"{nonsense", b'"\xff"', b"[]", b""])
def test_an_unreadable_body_is_refused(url: str, body: bytes) -> None:
    json = {"Content-Type": "application/json"}
    answer = httpx.post(f"{url}/v1/chat/completions", content=body, headers=json)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_value"


def test_health_when_ready(url: str) -> None:
    answer = httpx.get(f"{url}/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready", "progress": 1.0, "base_model": "fake-base", "engine": "fake",
        "device": "cpu", "quantization": "8bit", "running": 0, "waiting": 0, "error": None,
    }  # fmt: skip


def test_health_and_chat_while_loading_and_after_a_failure() -> None:
    loading = threading.Event()
    failure = ModelFolderError(
        verbatim("The weights of /home/me/model.bin are torn", "Load them again.")
    )
    manager = fake_manager(FakeEngine(echo), loading, failure)
    with serving(manager) as url:
        answer = httpx.get(f"{url}/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "loading")
        assert 0 < answer.json()["progress"] < 1
        reply = httpx.post(f"{url}/v1/chat/completions", json={"messages": HELLO})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "not_ready")
        assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "fake-base"
        loading.set()
        manager.wait()
        answer = httpx.get(f"{url}/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "error")
        assert answer.json()["error"] == "The weights of model.bin are torn. Load them again."


def failing(prompt: str, request: EngineRequest) -> list[str]:
    return ["half ", "<fail>"]


def test_a_reply_that_fails_is_an_error() -> None:
    manager = fake_manager(FakeEngine(failing))
    manager.wait()
    with serving(manager) as url:
        reply = httpx.post(f"{url}/v1/chat/completions", json={"messages": HELLO})
        assert reply.status_code == 500
        assert "memory" in reply.json()["error"]["message"]
        stream = httpx.post(f"{url}/v1/chat/completions", json={"messages": HELLO, "stream": True})
        assert stream.status_code == 200
        assert "half " in stream.text
        assert '"error"' in stream.text


def endless(prompt: str, request: EngineRequest) -> list[str]:
    return ["word "] * 1000


def tokens_after_disconnect(engine: FakeEngine, url: str) -> int:
    """Returns how many tokens the requests got after their connection was closed."""
    ids = {request.id for request in engine.requests}
    while not ids <= engine.aborted:  # until the server has noticed the closed socket
        httpx.get(f"{url}/health")
    before = sum(engine.emitted.values())
    engine.tick(10 * len(ids))
    while engine.status().running:
        httpx.get(f"{url}/health")
    return sum(engine.emitted.values()) - before


@pytest.mark.parametrize(("choices", "first_tokens"), [(1, 0), (1, 3), (3, 6)])
def test_a_dropped_stream_ends_each_choice_within_one_token(
    choices: int, first_tokens: int
) -> None:
    engine = FakeEngine(endless, ticking=True)
    manager = fake_manager(engine)
    manager.wait()
    with serving(manager) as url:
        engine.tick(first_tokens)
        body = {"messages": HELLO, "stream": True, "n": choices}
        request = {"json": body, "timeout": 1.0}
        with (
            pytest.raises(httpx.ReadTimeout),
            httpx.stream("POST", f"{url}/v1/chat/completions", **request) as answer,
        ):
            for _ in answer.iter_lines():
                pass
        assert len(engine.requests) == choices
        assert tokens_after_disconnect(engine, url) <= choices


def test_a_dropped_request_ends_the_reply_within_one_token() -> None:
    engine = FakeEngine(endless, ticking=True)
    manager = fake_manager(engine)
    manager.wait()
    with serving(manager) as url:
        engine.tick(3)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/chat/completions", json={"messages": HELLO}, timeout=1.0)
        assert tokens_after_disconnect(engine, url) <= 1


def test_too_little_memory_for_an_adapter_is_refused_for_now(
    url: str, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a bare 500."""
    request = {"model": "pirate", "messages": HELLO}
    with monkeypatch.context() as patch:
        refusal = OutOfMemoryError("adapter_lacks_memory", name="pirate")
        patch.setattr(engine, "prepare", Mock(side_effect=refusal))
        reply = httpx.post(f"{url}/v1/chat/completions", json=request)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (503, "out_of_memory")
        assert error["message"].startswith(
            "There is not enough memory for the adapter 'pirate'. Ask"
        )
    assert httpx.post(f"{url}/v1/chat/completions", json=request).status_code == 200
