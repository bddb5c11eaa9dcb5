"""Values of served fields: bounds and types, a top_p of 0, many prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import openai
import pytest
from pydantic import ValidationError

from tests.fake_engine import FakeEngine, fake_manager
from tests.web.app_server import serving
from web.api.request_models import ChatCompletion, TextCompletion

Body = Mapping[str, Any]
BODIES: dict[str, Body] = {
    "chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
    "completions": {"prompt": "hi"},
}
KINDS = {"chat/completions": ChatCompletion, "completions": TextCompletion}


def check(path: str, **fields: object) -> None:
    KINDS[path].model_validate({**BODIES[path], **fields}).check()


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", (-0.1, 1e7, "1", [1], {}, True)), ("top_p", (-0.1, 1.1, "1", True)),
        ("top_k", (-2, -5, 1.5, "1", 10**400)), ("min_p", (-0.1, 7)),
        ("repetition_penalty", (0, -1, 11)), ("presence_penalty", (2.1, -2.1)),
        ("frequency_penalty", (2.1, -2.1)), ("n", (0, -1, 129, 1_000_000, 1.5, "1", True)),
        ("max_tokens", (0, -2, 1.5, "1", True)), ("max_completion_tokens", (0, -2)),
        ("min_tokens", (-1, 1.5)), ("seed", (2**63, -(2**63) - 1, 1.5, "1")),
        ("adapter_scale", (-0.1, 8.1)), ("stop", (7, [7], ["x"] * 21, {"a": "b"})),
        ("stop_token_ids", (7, [-1], [2**31], ["a"], [1] * 1001, [1.5])),
        ("logit_bias", ({"a": 1}, {"1": 101}, {"1": -101}, {"1": True}, {"1": "1"}, [[1, 2]],
                        {"-1": 1}, {"9" * 10: 1})),
        ("stream", (1, "true")), ("stream_options", ([], "x")), ("model", ("", 7, "x" * 257)),
        ("user", (7, {"name": "Ann"}, "x" * 1025)), ("logprobs", ("5", -1, 21)),
    ],
)  # fmt: skip
def test_value_of_a_wrong_type_or_out_of_bounds_is_refused(
    path: str, name: str, values: tuple[object, ...]
) -> None:
    for value in values:
        with pytest.raises(ValidationError) as caught:
            check(path, **{name: value})
        assert {error["loc"][0] for error in caught.value.errors()} == {name}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    "name",
    ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "adapter_scale",
     "frequency_penalty", "n", "top_k", "seed", "max_tokens"],
)  # fmt: skip
def test_numbers_are_finite(url: str, name: str, number: str) -> None:
    headers = {"Content-Type": "application/json"}
    for path, body in (("completions", '"prompt": "a"'), ("completions", '"prompt": ["a"]')):
        content = f'{{{body}, "{name}": {number}}}'
        answer = httpx.post(f"{url}/v1/{path}", content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    content = f'{{"prompt": "a", "logit_bias": {{"1": {number}}}}}'
    assert httpx.post(f"{url}/v1/completions", content=content, headers=headers).status_code == 400


@pytest.mark.parametrize("path", BODIES)
def test_a_top_p_of_0_is_greedy(path: str, url: str, engine: FakeEngine) -> None:
    """Some model servers accept only a top_p above 0, so the engine gets no 0."""
    for value in (0, 0.0, -0.0):
        body = {**BODIES[path], "top_p": value, "temperature": 1}
        assert httpx.post(f"{url}/v1/{path}", json=body).status_code == 200
        sampling = engine.requests[-1].sampling
        assert (sampling.temperature, sampling.top_p) == (0, 1)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_of_minus_1_are_as_many_as_fit(
    path: str, name: str, url: str, engine: FakeEngine
) -> None:
    body = {**BODIES[path], name: -1}
    assert httpx.post(f"{url}/v1/{path}", json=body).status_code == 200
    request = engine.requests[-1]
    assert request.sampling.max_tokens == engine.context_length - len(request.prompt_ids)


def test_stop_token_ids_reach_the_engine(client: openai.OpenAI, engine: FakeEngine) -> None:
    client.completions.create(model="pirate", prompt="x", extra_body={"stop_token_ids": [7, 2]})
    assert engine.requests[-1].sampling.stop_token_ids == (7, 2)
    with pytest.raises(openai.BadRequestError, match="token id"):
        client.completions.create(
            model="pirate", prompt="x", extra_body={"stop_token_ids": [2**30]}
        )


# Prompts


@pytest.mark.parametrize("prompts", [64, 256])
def test_many_prompts_are_answered_in_order(
    client: openai.OpenAI, engine: FakeEngine, prompts: int
) -> None:
    """lm-eval sends its batch, of 64 for example, as one request."""
    reply = client.completions.create(
        model="pirate", prompt=[f"number {i}" for i in range(prompts)], echo=True
    )
    texts = [choice.text for choice in reply.choices]
    assert texts == [f"number {i}an answer" for i in range(prompts)]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("completions", {"prompt": ["a"] * 257}), ("completions", {"prompt": ["a"] * 2048}),
        ("completions", {"prompt": ["a"] * 100, "n": 3}), ("completions", {"n": 128}),
        ("chat/completions", {"n": 128}),
    ],
)  # fmt: skip
def test_more_choices_than_the_queue_ever_holds_are_a_lasting_error(
    path: str, fields: Body
) -> None:
    """Not 429, after which clients try again."""
    full = FakeEngine(lambda *_: ["an answer"], max_waiting=100 if "n" in fields else 256)
    manager = fake_manager(full)
    manager.wait()
    with serving(manager) as address:
        answer = httpx.post(f"{address}/v1/{path}", json={**BODIES[path], **fields})
    assert answer.status_code == 400
    assert f"at most {full.max_waiting} choices" in answer.json()["error"]["message"]
    assert not full.requests


@pytest.mark.parametrize(
    "prompt",
    [["a", [1]], [[1], "a"], [1, "a"], ["a", 1], [[1], 2], [1, [2]], [[1], [2, "a"]], ["a", None],
     [[]], [[[1]]], {}, None, True, [True], [-1], [1.5], [2**31], [["a"]]],
)  # fmt: skip
def test_prompts_of_mixed_kinds_are_refused_by_name(prompt: object, url: str) -> None:
    answer = httpx.post(f"{url}/v1/completions", json={"prompt": prompt})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].split(".")[0] == "prompt"
