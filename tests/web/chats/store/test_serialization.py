"""Serialization: settings and runs as JSON, read strictly and leniently."""

from __future__ import annotations

import json
from typing import Any

import pytest

from model.errors import RequestError
from model.sampling import Sampling
from model.types import FinishReason
from web.chats.store import serialization
from web.chats.store.models import ChatSettings, GenerationRun, sanitize_text

SAMPLING = Sampling(
    max_tokens=7, min_tokens=2, temperature=0.25, top_k=3, top_p=0.5, min_p=0.1,
    repetition_penalty=1.2, seed=2**62, stop=("。", "\n"), ignore_eos=True, logprobs=3,
    logit_bias=((5, -1.5),), stop_token_ids=(2, 7),
)  # fmt: skip
SETTINGS = ChatSettings("古文", 0.5, "alpaca", "你是诗人。", SAMPLING)
RUN = GenerationRun(
    SETTINGS, "base", "int4", "abc", FinishReason.LENGTH, 1, 2, 3, 4.5, 0.25, 5, 6, 7
)


def test_values_are_read_as_they_were_written() -> None:
    assert serialization.settings_from(serialization.settings_text(SETTINGS)) == SETTINGS
    assert serialization.sampling_from(serialization.sampling_text(SAMPLING)) == SAMPLING
    interrupted = GenerationRun(ChatSettings(), "base", "none")
    assert serialization.runs_from(serialization.runs_text([RUN, interrupted])) == (
        RUN,
        interrupted,
    )


@pytest.mark.parametrize("strict", [False, True])
def test_run_is_read_strictly_and_leniently(strict: bool) -> None:
    value = json.loads(json.dumps(serialization.run_value(RUN)))
    assert serialization.read_run(value, strict) == RUN
    assert value["reason"] == "length"


def test_json_has_the_keys_of_every_version() -> None:
    """`scale` is the adapter's scale, and "" the base and its own template."""
    value = serialization.settings_value(ChatSettings())
    assert {name: value[name] for name in ("adapter", "scale", "template", "system")} == {
        "adapter": "", "scale": 1.0, "template": "", "system": "",
    }  # fmt: skip
    assert serialization.read_settings(value, strict=True) == ChatSettings()
    assert ChatSettings().adapter is None


def test_unknown_and_missing_fields_are_ignored() -> None:
    read = serialization.read_settings(
        {"adapter": "a", "of_the_future": 1, "\ud83d": 2}, strict=True
    )
    assert read == ChatSettings(adapter="a")
    assert serialization.read_settings({}, strict=True) == ChatSettings()


INVALID: list[dict[str, Any]] = [
    {"temperature": "warm"},
    {"temperature": -1},
    {"temperature": float("nan")},
    {"temperature": 10**400},
    {"temperature": True},
    {"temperature": None},
    {"top_k": 1.5},
    {"top_k": -1},
    {"top_p": 0},
    {"seed": 2**63},
    {"seed": "1"},
    {"stop": "text"},
    {"stop": [1]},
    {"stop": [""]},
    {"stop": ["x"] * 1000},
    {"ignore_eos": 1},
    {"logprobs": 21},
]


@pytest.mark.parametrize("invalid", INVALID, ids=str)
def test_lenient_reading_drops_only_the_invalid_field(invalid: dict[str, Any]) -> None:
    assert serialization.read_sampling({**invalid, "min_tokens": 3}) == Sampling(min_tokens=3)
    settings = {"system": "s", "sampling": {**invalid, "min_tokens": 3}}
    expected = ChatSettings(system="s", sampling=Sampling(min_tokens=3))
    assert serialization.read_settings(settings) == expected
    run = {"settings": settings, "base": "b", "prompt_tokens": "many"}
    assert serialization.read_run(run) == GenerationRun(expected, "b", "")


@pytest.mark.parametrize("invalid", INVALID, ids=str)
def test_strict_reading_refuses_an_invalid_field(invalid: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        serialization.read_sampling(invalid, strict=True)
    with pytest.raises(RequestError):
        serialization.read_run({"settings": {"sampling": invalid}}, strict=True)


@pytest.mark.parametrize("value", [None, [], "text", 1])
def test_value_that_is_no_object(value: object) -> None:
    assert serialization.read_settings(value) == ChatSettings()
    with pytest.raises(RequestError):
        serialization.read_settings(value, strict=True)
    assert serialization.read_run({"base": "b", "settings": value}).settings == ChatSettings()
    with pytest.raises(RequestError, match="The settings are invalid"):
        serialization.read_run({"settings": value}, strict=True)


def test_reason_of_a_newer_version_is_none() -> None:
    assert serialization.read_run({"reason": "bored"}).reason is None
    with pytest.raises(RequestError):
        serialization.read_run({"reason": "bored"}, strict=True)


@pytest.mark.parametrize("text", ["", "{", "null", "[" * 100_000, "NaN"])
def test_invalid_json_gives_the_defaults(text: str) -> None:
    assert serialization.settings_from(text) == ChatSettings()
    assert serialization.sampling_from(text) == Sampling()
    assert serialization.runs_from(text) == ()


def test_lone_surrogates_are_replaced() -> None:
    assert sanitize_text("a\ud83d\ude00b") == "a😀b"
    assert sanitize_text("a\ud83db") == "a�b"
    assert serialization.read_settings({"system": "\ud83d"}).system == "�"


def test_large_texts_are_not_cached() -> None:
    """The cache had thousands of an import's texts, each as long as a file may be."""
    large = ChatSettings(system="x" * serialization.MAX_CACHED)
    settings = serialization.settings_text(large)
    runs = serialization.runs_text([GenerationRun(large, "base", "none")])
    assert serialization.settings_from(settings) == large
    assert serialization.runs_from(runs)[0].settings == large
    assert serialization.settings_from(settings) is not serialization.settings_from(settings)
    assert serialization.runs_from(runs) is not serialization.runs_from(runs)
    small = serialization.runs_text([RUN])
    assert serialization.runs_from(small) == (RUN,)
    assert serialization.runs_from(small) is serialization.runs_from(small)


def test_value_equal_to_the_default_must_have_its_type() -> None:
    """True equals 1, and 0 equals 0.0."""
    with pytest.raises(RequestError, match="temperature"):
        serialization.read_sampling({"temperature": True}, strict=True)
    with pytest.raises(RequestError, match="min_tokens"):
        serialization.read_sampling({"min_tokens": 0.0}, strict=True)
    assert type(serialization.read_sampling({"top_p": 1}).top_p) is float
    assert type(serialization.read_settings({"scale": 1}).adapter_scale) is float


def test_nul_is_replaced() -> None:
    assert sanitize_text("a\0b") == "a�b"
    assert sanitize_text("字\0\ud83d") == "字��"
