"""The tables of fields: each field is served, without effect, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI
from openai.types import completion_create_params as text_params
from openai.types.chat import completion_create_params as chat_params
from pydantic import SecretStr, ValidationError

from model.config.settings import CHECKOUT
from model.errors import RequestError
from tests.fake_engine import FakeEngine
from web.api.request_fields import MAX_PATH, NO_EFFECT, OTHER_NAMES, UNSUPPORTED, FieldError
from web.api.request_models import ChatCompletion, TextCompletion

Body = Mapping[str, Any]
HELLO = [{"role": "user", "content": "hello"}]
BODIES: dict[str, Body] = {"chat/completions": {"messages": HELLO}, "completions": {"prompt": "hi"}}
KINDS = {"chat/completions": ChatCompletion, "completions": TextCompletion}
REFUSED = sorted({name for group in UNSUPPORTED.values() for name in group} | set(OTHER_NAMES))
# Values that mean something in no field, or are equal to a number's or a switch's neutral value
# only in Python.
ATTACKS = ("constrains", 7, 0.5, {"a": {"b": 1}}, ["x"], [["x", 1]])


def words(text: str) -> list[str]:
    return text.split()


# Fields of the requests of vLLM 0.11 and of llama.cpp's server, as of autumn 2026, and of vLLM
# before 0.12.
VLLM = words("""
messages model frequency_penalty logit_bias logprobs top_logprobs max_tokens max_completion_tokens n
presence_penalty response_format seed stop stream stream_options temperature top_p tools tool_choice
reasoning_effort thinking_token_budget include_reasoning parallel_tool_calls user use_beam_search
top_k min_p repetition_penalty watermarking length_penalty stop_token_ids include_stop_str_in_output
ignore_eos min_tokens skip_special_tokens spaces_between_special_tokens truncate_prompt_tokens
truncation_side prompt_logprobs logprob_token_ids allowed_token_ids bad_words echo
add_generation_prompt continue_final_message add_special_tokens documents chat_template
chat_template_kwargs media_io_kwargs mm_processor_kwargs structured_outputs priority request_id
session_id return_tokens_as_token_ids return_token_ids routed_experts_prompt_start
return_token_offsets return_prompt_text return_mm_kwargs cache_salt kv_transfer_params
ec_transfer_params vllm_xargs repetition_detection stream_interval prompt suffix best_of
prompt_embeds guided_json guided_regex guided_choice guided_grammar structural_tag
guided_decoding_backend guided_whitespace_pattern logits_processors
""")
LLAMA_CPP = words("""
verbose timings_per_token stream stream_options cache_prompt return_tokens return_progress
sse_ping_interval n_predict max_completion_tokens max_tokens n_indent n_keep n_discard n_cmpl n
n_cache_reuse t_max_predict_ms response_fields top_k top_p min_p top_n_sigma xtc_probability
xtc_threshold typical_p temperature dynatemp_range dynatemp_exponent repeat_last_n repeat_penalty
frequency_penalty presence_penalty dry_multiplier dry_base dry_allowed_length dry_penalty_last_n
dry_sequence_breakers mirostat mirostat_tau mirostat_eta adaptive_target adaptive_decay seed n_probs
logprobs min_keep backend_sampling post_sampling_probs lora json_schema grammar grammar_lazy
grammar_triggers preserved_tokens reasoning_format generation_prompt parse_tool_calls
continue_final_message echo reasoning_budget_tokens logit_bias ignore_eos stop samplers id_slot
tfs_z penalize_nl
""")


def check(path: str, **fields: object) -> None:
    KINDS[path].model_validate({**BODIES[path], **fields}).check()


def is_known(path: str, name: str) -> bool:
    kind = KINDS[path]
    rules = kind.rules
    assert rules
    is_unsupported = rules.neutral_values(name) is not None
    return name in kind.model_fields or name in rules.no_effect or is_unsupported


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("chat/completions", chat_params.CompletionCreateParamsBase.__annotations__),
        ("completions", text_params.CompletionCreateParamsBase.__annotations__),
        ("chat/completions", set(VLLM) - {"prompt"}), ("completions", set(VLLM) - {"messages"}),
        ("chat/completions", LLAMA_CPP), ("completions", LLAMA_CPP),
    ],
    ids=["openai-chat", "openai-text", "vllm-chat", "vllm-text", "llama-chat", "llama-text"],
)  # fmt: skip
def test_every_field_of_other_servers_is_in_a_table(path: str, names: Any) -> None:
    assert [name for name in names if not is_known(path, name)] == []


def test_tables_have_each_field_once() -> None:
    groups = [*UNSUPPORTED.values(), OTHER_NAMES]
    names = [name for group in groups for name in group]
    assert len(names) == len(set(names))
    assert not NO_EFFECT.intersection(names)
    assert {name for name, _ in OTHER_NAMES.values()} <= ChatCompletion.model_fields.keys()


@pytest.mark.parametrize(
    ("path", "name"),
    [(path, name) for path in BODIES for name in REFUSED if name not in KINDS[path].model_fields],
)
def test_field_that_would_change_the_reply_is_refused_by_name(path: str, name: str) -> None:
    rules = KINDS[path].rules
    assert rules
    neutral = rules.neutral_values(name) or ()
    check(path, **{name: None})
    for value in neutral:
        check(path, **{name: value})
    numbers = [1, 0] if any(isinstance(value, bool) for value in neutral) else [True, False]
    for value in (*ATTACKS, *numbers):
        with pytest.raises(FieldError) as caught:
            check(path, **{name: value})
        assert caught.value.param == name
        assert caught.value.message == f"{name} is not supported"
        assert caught.value.remedy


def test_every_refusal_is_an_error_of_openai(url: str) -> None:
    with httpx.Client(base_url=f"{url}/v1/") as http:
        for path, body in BODIES.items():
            for name in set(REFUSED) - KINDS[path].model_fields.keys():
                answer = http.post(path, json={**body, name: "constrains"})
                error = answer.json()["error"]
                assert (answer.status_code, error["param"]) == (400, name)
                assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", BODIES)
def test_fields_without_effect_are_accepted(path: str, url: str, engine: FakeEngine) -> None:
    for value in (*ATTACKS, True, None):
        body = {**BODIES[path], **dict.fromkeys(NO_EFFECT, value), "seed": 1}
        assert httpx.post(f"{url}/v1/{path}", json=body).status_code == 200
        changed = engine.requests[-1]
        httpx.post(f"{url}/v1/{path}", json={**BODIES[path], "seed": 1})
        plain = engine.requests[-1]
        assert (changed.sampling, changed.prompt_ids) == (plain.sampling, plain.prompt_ids)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("of_the_future", "Leave it out."), ("max_token", "Did you mean max_tokens?"),
        ("temprature", "Did you mean temperature?"), ("", "Leave it out."), ("__class__", ""),
        ("check", ""), ("model_extra", ""), ("rules", ""), ("<b>\u202ehtml", ""),
        ("x" * 10_000, ""),
    ],
)  # fmt: skip
def test_unknown_field_is_refused_by_name(path: str, name: str, remedy: str) -> None:
    check(path, **{name: None})
    with pytest.raises(FieldError, match="There is no field") as caught:
        check(path, **{name: 1})
    assert remedy in caught.value.remedy
    assert caught.value.param == name[:MAX_PATH].replace("\u202e", "")


def test_fields_of_the_other_route_are_unknown() -> None:
    with pytest.raises(FieldError, match="prompt"):
        check("chat/completions", prompt="hi")
    with pytest.raises(FieldError, match="messages"):
        check("completions", messages=HELLO)


def test_many_unknown_fields_are_one_error() -> None:
    with pytest.raises(FieldError, match="no field f0"):
        check("completions", **{f"f{i}": 1 for i in range(100_000)})


# Combinations


def test_tools_are_accepted_where_they_cannot_be_called() -> None:
    for names in (("tools", "tool_choice"), ("functions", "function_call")):
        tools, choice = names
        check("chat/completions", **{tools: [{"name": "f"}], choice: "none"})
        check("chat/completions", **{tools: [], choice: "auto"})
        for chosen in ({}, {choice: "auto"}, {choice: None}):
            with pytest.raises(FieldError, match=tools) as caught:
                check("chat/completions", **{tools: [{"name": "f"}], **chosen})
            assert '"none"' in caught.value.remedy
        for chosen_one in ("required", {"type": "function", "function": {"name": "f"}}, {}):
            with pytest.raises(FieldError, match=choice):
                check("chat/completions", **{tools: [{"name": "f"}], choice: chosen_one})
        with pytest.raises(ValidationError):
            check("chat/completions", **{tools: "f", choice: "none"})


@pytest.mark.parametrize("path", BODIES)
def test_stream_options_need_a_stream(path: str) -> None:
    for options in ({}, {"include_usage": True}):
        with pytest.raises(FieldError, match="stream_options needs stream"):
            check(path, stream_options=options)
        check(path, stream_options=options, stream=True)
    check(path, stream_options=None)
    check(path, stream=True, stream_options={"continuous_usage_stats": True})
    check(path, stream=True, stream_options={"include_obfuscation": False})
    with pytest.raises(FieldError) as caught:
        check(path, stream=True, stream_options={"of_the_future": True})
    assert caught.value.param == "stream_options.of_the_future"


@pytest.mark.parametrize("path", BODIES)
def test_max_tokens_have_one_value(path: str) -> None:
    check(path, max_tokens=7, max_completion_tokens=7)  # guidellm sends both
    with pytest.raises(FieldError, match="not the same number"):
        check(path, max_tokens=7, max_completion_tokens=8)
    with pytest.raises(FieldError, match="min_tokens is more than max_tokens, which is 7"):
        check(path, max_completion_tokens=7, min_tokens=8)
    check(path, max_tokens=7, min_tokens=7)
    check(path, max_tokens=-1, min_tokens=1000)


def test_min_tokens_are_compared_with_the_default_of_completions() -> None:
    check("chat/completions", min_tokens=17)
    with pytest.raises(FieldError, match="which is 16"):
        check("completions", min_tokens=17)


def test_best_of_is_n() -> None:
    check("completions", best_of=3, n=3)
    for fields in ({"best_of": 3}, {"best_of": 1, "n": 2}, {"best_of": 0}, {"best_of": -1}):
        with pytest.raises(FieldError, match="best_of"):
            check("completions", **fields)


# Clients


def test_openai_client_gets_the_name_of_the_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="pirate", messages=HELLO, response_format={"type": "json_object"}  # type: ignore[arg-type]
        )  # fmt: skip
    assert caught.value.param == "response_format"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="pirate", prompt="x", extra_body={"guided_choice": ["a"]})
    assert caught.value.param == "guided_choice"


def test_openai_client_with_every_field_without_effect(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="pirate", messages=HELLO, metadata={"a": "b"}, store=True, service_tier="auto",  # type: ignore[arg-type]
        safety_identifier="x", prompt_cache_key="y", user="z", parallel_tool_calls=False,
        prediction={"type": "content", "content": "an"}, modalities=["text"], tool_choice="none",
        response_format={"type": "text"}, reasoning_effort="medium", verbosity="medium",
    )  # fmt: skip
    assert reply.choices[0].message.content == "an answer"


def test_langchain_with_tools_is_refused(url: str) -> None:
    llm = ChatOpenAI(model="pirate", base_url=f"{url}/v1", api_key=SecretStr("none"))
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    with pytest.raises(openai.BadRequestError, match="tools"):
        llm.bind_tools([tool]).invoke("hello")
    assert llm.bind_tools([tool], tool_choice="none").invoke("hello").content == "an answer"


GUIDELLM = {
    "model": "pirate", "stream": True, "max_tokens": 9, "max_completion_tokens": 9, "stop": None,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True}, "ignore_eos": True,
}  # fmt: skip
SILLYTAVERN = {  # "vLLM", after "Neutralize Samplers"
    "model": "pirate", "max_tokens": 9, "temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0,
    "n": 1, "repetition_penalty": 1, "frequency_penalty": 0, "presence_penalty": 0, "seed": -1,
    "stop": ["\n"],
    "ignore_eos": False, "spaces_between_special_tokens": True, "skip_special_tokens": True,
    "length_penalty": 1, "early_stopping": False, "use_beam_search": False, "min_tokens": 0,
    "include_stop_str_in_output": False, "stream": True,
}  # fmt: skip
LLAMA_CLIENT = {  # written for llama.cpp's server
    "cache_prompt": True, "id_slot": -1, "n_predict": -1, "mirostat": 0, "mirostat_tau": 5.0,
    "mirostat_eta": 0.1, "typical_p": 1.0, "tfs_z": 1.0, "xtc_probability": 0, "xtc_threshold": 0.1,
    "dry_multiplier": 0.0, "dry_base": 1.75, "repeat_penalty": 1.0, "repeat_last_n": 64,
    "grammar": "", "dynatemp_range": 0, "dynatemp_exponent": 1, "n_probs": 0, "min_keep": 0,
    "n_keep": 0, "timings_per_token": True, "stop": [], "max_tokens": -1,
}  # fmt: skip


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("body", [GUIDELLM, SILLYTAVERN, LLAMA_CLIENT])
def test_usual_bodies_of_clients_are_served(path: str, body: Body, url: str) -> None:
    answer = httpx.post(f"{url}/v1/{path}", json={**BODIES[path], **body})
    assert answer.status_code == 200, answer.text
    assert "an answer" in answer.text


@pytest.mark.parametrize("penalty", ["repetition", "presence", "frequency"])
@pytest.mark.parametrize(
    ("option", "value", "is_refused"),
    [
        ("repeat_last_n", 64, True), ("repeat_last_n", 0, True), ("repeat_last_n", -1, False),
        ("repeat_last_n", None, False), ("penalize_nl", False, True), ("penalize_nl", True, False),
    ],
)  # fmt: skip
def test_a_penalty_spares_no_token_before(
    penalty: str, option: str, value: object, is_refused: bool, url: str
) -> None:
    """A window of llama.cpp had no effect, which only matters with a penalty."""
    for path, body in BODIES.items():
        extra = {option: value, f"{penalty}_penalty": 1.5}
        answer = httpx.post(f"{url}/v1/{path}", json={**body, **extra})
        assert answer.status_code == (400 if is_refused else 200), answer.text
        assert answer.json().get("error", {}).get("param") == (option if is_refused else None)


@pytest.mark.parametrize("language", ["", ".zh"])
def test_every_field_is_in_the_documentation(language: str) -> None:
    page = (CHECKOUT / "docs" / f"api{language}.md").read_text(encoding="utf-8")
    names = {*REFUSED, *NO_EFFECT, *ChatCompletion.model_fields, *TextCompletion.model_fields}
    assert sorted(name for name in names if f"`{name}`" not in page) == []


def test_refusal_is_an_error_of_the_request() -> None:
    assert issubclass(FieldError, RequestError)
