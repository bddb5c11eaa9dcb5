"""Messages of a chat request: what is refused, and what a prompt template gets."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr, ValidationError

from model.types import Message
from tests.fake_engine import FakeEngine
from web.api.request_fields import FieldError
from web.api.request_models import ChatCompletion

USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def messages(*given: object) -> tuple[Message, ...]:
    return ChatCompletion.model_validate({"messages": list(given)}).to_messages()


def user(content: object) -> dict[str, Any]:
    return {"role": "user", "content": content}


WITHOUT_CONTENT: list[tuple[list[Any], str]] = [
    ([user(None)], "messages.0.content"),
    ([{"role": "user"}], "messages.0.content"),
    ([{"role": "system"}, USER], "messages.0.content"),
    ([{"role": "developer", "content": None}, USER], "messages.0.content"),
    ([USER, {"role": "assistant"}, USER], "messages.1.content"),
    ([USER, {"role": "assistant", "content": None, "tool_calls": []}], "messages.1.content"),
    ([USER, {"role": "assistant", "content": None, "refusal": ""}], "messages.1.content"),
    ([USER, {"role": "tool", "tool_call_id": "c1"}], "messages.1.content"),
    ([USER, {"role": "function", "name": "f", "content": None}], "messages.1.content"),
    ([user([{"type": "text"}])], "messages.0.content.0.text"),
    ([user([{"type": "text", "text": "a"}, {"type": "text", "text": None}])],
     "messages.0.content.1.text"),
    ([user([{"type": "refusal", "text": "a"}])], "messages.0.content.0.refusal"),
]  # fmt: skip
REFUSED: list[tuple[list[Any], str]] = [
    ([user([{"type": "image_url", "image_url": {"url": "x"}}])], "messages.0.content.0.type"),
    ([user([{"type": "input_audio", "input_audio": {}}])], "messages.0.content.0.type"),
    ([user([{"type": "text", "text": "a"}, {"type": "file", "file": {}}])],
     "messages.0.content.1.type"),
    ([user([{"type": "video_url", "video_url": {}}])], "messages.0.content.0.type"),
    ([user([{"type": "text", "text": "a", "image_url": {}}])], "messages.0.content.0.image_url"),
    ([{**USER, "tool_calls": [CALL]}], "messages.0.tool_calls"),
    ([{**USER, "function_call": CALL["function"]}], "messages.0.function_call"),
    ([{**USER, "refusal": "no"}], "messages.0.refusal"),
    ([USER, {"role": "assistant", "content": "a", "prefix": True}], "messages.1.prefix"),
    ([USER, {"role": "assistant", "content": "a", "partial": True}], "messages.1.partial"),
    ([USER, {"role": "assistant", "content": "a", "audio": {"id": "x"}}], "messages.1.audio"),
    ([{**USER, "images": ["x"]}], "messages.0.images"),
    ([{**USER, "type": "image"}], "messages.0.type"),
    ([USER, {**USER, "of_the_future": 1}], "messages.1.of_the_future"),
]  # fmt: skip
INVALID: list[list[Any]] = [
    [], [None], ["hi"], [[]], [{}], [{"content": "hi"}], [{"role": "robot", "content": "hi"}],
    [{"role": "", "content": "hi"}], [{"role": None, "content": "hi"}],
    [{"role": "User", "content": "hi"}],
    [user([])], [user(7)], [user({})], [user({"type": "text", "text": "hi"})], [user(["hi"])],
    [user([{"text": "hi"}])], [user([{"type": None, "text": "hi"}])],
    [user([{"type": "text", "text": 7}])],
    [user([{"type": "text", "text": "hi"}] * 101)], [user("x" * 1_000_001)],
    [{"role": "assistant", "tool_calls": "f"}], [{"role": "assistant", "tool_calls": [{}]}],
    [{"role": "assistant", "tool_calls": [{"function": {}}]}],
    [{"role": "assistant", "tool_calls": [{"function": {"name": 7}}]}],
    [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}],
    [{"role": "assistant", "tool_calls": [{"type": "custom", "custom": {"name": "f"}}]}],
    [{"role": "assistant", "tool_calls": [CALL] * 129}],
    [{"role": "assistant", "function_call": "f"}],
    [{"role": "tool", "content": "a", "tool_call_id": 7}],
]  # fmt: skip


@pytest.mark.parametrize(("given", "field"), WITHOUT_CONTENT)
def test_message_without_content_is_refused_by_name(given: list[Any], field: str) -> None:
    with pytest.raises(FieldError, match="is missing") as caught:
        messages(*given)
    assert caught.value.param == field
    assert field in caught.value.message


@pytest.mark.parametrize(("given", "field"), REFUSED)
def test_what_a_template_cannot_get_is_refused_by_name(given: list[Any], field: str) -> None:
    with pytest.raises(FieldError) as caught:
        messages(*given)
    assert caught.value.param == field
    assert caught.value.remedy


@pytest.mark.parametrize("given", INVALID, ids=lambda given: repr(given)[:60])
def test_message_of_a_wrong_type_is_refused(given: list[Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        messages(*given)
    assert caught.value.errors()[0]["loc"][0] == "messages"


@pytest.mark.parametrize("given", [given for given, _ in (*WITHOUT_CONTENT, *REFUSED)] + INVALID)
def test_every_refusal_is_an_error_of_openai(given: list[Any], url: str) -> None:
    answer = httpx.post(f"{url}/v1/chat/completions", json={"messages": given})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["param"].split(".")[0] == "messages"


def test_roles_and_texts() -> None:
    assert messages(
        {"role": "system", "content": "s"}, {"role": "developer", "content": "d"},
        user([{"type": "text", "text": text} for text in ("a", "", "b")]),
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "content": None, "refusal": "never"},
    ) == (
        Message("system", "s"), Message("system", "d"), Message("user", "ab"),
        Message("assistant", ""), Message("assistant", "no"), Message("assistant", "never"),
    )  # fmt: skip


def test_fields_of_clients_without_effect() -> None:
    """Names of AutoGen, `type` of lm-eval, `cache_control` of LiteLLM, and what models returned."""
    part = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    reply = {
        "role": "assistant", "content": "a", "refusal": None, "annotations": [], "audio": None,
        "function_call": None, "tool_calls": None, "reasoning_content": "hm", "name": "bot",
    }  # fmt: skip
    assert messages({**USER, "name": "Ann", "type": "text"}, reply, user([part])) == (
        Message("user", "hi"), Message("assistant", "a"), Message("user", "hi"),
    )  # fmt: skip


# Tools in a history


def test_calls_of_tools_and_their_results_are_text() -> None:
    second = {"id": "c2", "function": {"name": 'g"', "arguments": None}}
    assert messages(
        USER,
        {"role": "assistant", "content": "I look.", "tool_calls": [CALL, second]},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "2"}]},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{"}},
        {"role": "function", "name": "f", "content": "3"},
        USER,
    ) == (
        Message("user", "hi"),
        Message(
            "assistant",
            'I look.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'
            '<tool_call>\n{"name": "g\\"", "arguments": {}}\n</tool_call>',
        ),
        Message(
            "user",
            "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>",
        ),
        Message("assistant", '<tool_call>\n{"name": "f", "arguments": {}\n</tool_call>'),
        Message("user", "<tool_response>\n3\n</tool_response>"),
        Message("user", "hi"),
    )


@pytest.mark.parametrize("model", ["fake-base", "linly"])
def test_every_template_renders_tools(url: str, engine: FakeEngine, model: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    history: list[Any] = [
        USER, {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]  # fmt: skip
    client.chat.completions.create(
        model=model, messages=history, tool_choice="none",
        tools=[{"type": "function", "function": {"name": "f"}}],
    )  # fmt: skip
    prompt = "".join(map(chr, engine.requests[-1].prompt_ids))
    assert prompt.index('{"name": "f", "arguments": {"a": 1}}') < prompt.index("sunny")


def test_langchain_with_a_history_of_tools(url: str, engine: FakeEngine) -> None:
    llm = ChatOpenAI(model="pirate", base_url=f"{url}/v1", api_key=SecretStr("none"))
    call = {"name": "f", "args": {"a": 1}, "id": "c1", "type": "tool_call"}
    reply = llm.invoke(
        [
            HumanMessage("hi", name="Ann"),
            AIMessage("", tool_calls=[call]),  # type: ignore[list-item]
            ToolMessage("sunny", tool_call_id="c1"),
        ]
    )
    assert reply.content == "an answer"
    prompt = "".join(map(chr, engine.requests[-1].prompt_ids))
    assert '"arguments": {"a": 1}' in prompt
    assert "sunny" in prompt


def test_many_results_are_joined_in_linear_time() -> None:
    """Copying all earlier ones for each of 2,000 results would be 2 GB."""
    results = [{"role": "tool", "content": "x" * 900}] * 2000
    (turn,) = messages(*results)
    assert turn.content.count("<tool_response>") == 2000


def test_text_of_tools_counts_for_the_limit() -> None:
    long = {"name": "f", "arguments": "x" * 900_000}
    call = {"role": "assistant", "tool_calls": [{"function": long}]}
    with pytest.raises(Exception, match="longer than"):
        messages(call, call, call)
