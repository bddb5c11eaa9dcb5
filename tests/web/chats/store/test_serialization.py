"""Settings and runs as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from model.types import FinishReason, RequestError, Sampling
from web.chats.store import serialization
from web.chats.store.models import ChatSettings, GenerationRun

SAMPLING = Sampling(
    max_tokens=7, min_tokens=2, temperature=0.25, top_k=3, top_p=0.5, min_p=0.1,
    repetition_penalty=1.2, seed=2**62, stop=("。", "\n"), ignore_eos=True, logprobs=3,
)  # fmt: skip
SETTINGS = ChatSettings("古文", 0.5, "alpaca", "你是诗人。", SAMPLING)
RUN = GenerationRun(
    SETTINGS, "base", "int4", "abc", FinishReason.LENGTH, 1, 2, 3, 4.5, 0.25, 5, 6, 7
)


def test_everything_comes_back() -> None:
    assert serialization.settings_from(serialization.settings_text(SETTINGS)) == SETTINGS
    assert serialization.sampling_from(serialization.sampling_text(SAMPLING)) == SAMPLING
    interrupted = GenerationRun(ChatSettings(), "base", "none")
    assert serialization.runs_from(serialization.runs_text([RUN, interrupted])) == (
        RUN,
        interrupted,
    )


@pytest.mark.parametrize("strict", [False, True])
def test_values_are_read_in_either_way(strict: bool) -> None:
    value = json.loads(json.dumps(serialization.run_value(RUN)))
    assert serialization.read_run(value, strict) == RUN
    assert value["reason"] == "length"


def test_what_is_unknown_or_missing_does_not_matter() -> None:
    read = serialization.read_settings({"adapter": "a", "of_the_future": 1}, strict=True)
    assert read == ChatSettings(adapter="a")
    assert serialization.read_settings({}, strict=True) == ChatSettings()


WRONG: list[dict[str, Any]] = [
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


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_one_wrong_value_spoils_itself_alone(wrong: dict[str, Any]) -> None:
    assert serialization.read_sampling({**wrong, "min_tokens": 3}) == Sampling(min_tokens=3)
    settings = serialization.read_settings({"system": "s", "sampling": {**wrong, "min_tokens": 3}})
    assert settings == ChatSettings(system="s", sampling=Sampling(min_tokens=3))


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_strict_refuses_what_is_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        serialization.read_sampling(wrong, strict=True)
    with pytest.raises(RequestError):
        serialization.read_run({"settings": {"sampling": wrong}}, strict=True)


@pytest.mark.parametrize("value", [None, [], "text", 1])
def test_no_object_at_all(value: object) -> None:
    assert serialization.read_settings(value) == ChatSettings()
    with pytest.raises(RequestError):
        serialization.read_settings(value, strict=True)


def test_a_reason_of_the_future_is_none() -> None:
    assert serialization.read_run({"reason": "bored"}).reason is None
    with pytest.raises(RequestError):
        serialization.read_run({"reason": "bored"}, strict=True)


@pytest.mark.parametrize("text", ["", "{", "null", "[" * 100_000, "NaN"])
def test_damaged_text_is_as_by_default(text: str) -> None:
    assert serialization.settings_from(text) == ChatSettings()
    assert serialization.sampling_from(text) == Sampling()
    assert serialization.runs_from(text) == ()


def test_halves_of_characters() -> None:
    assert serialization.sanitize_text("a\ud83d\ude00b") == "a😀b"
    assert serialization.sanitize_text("a\ud83db") == "a�b"
    assert serialization.read_settings({"system": "\ud83d"}).system == "�"


def test_large_texts_are_not_kept_in_memory() -> None:
    """Thousands of them were, each of an import's making, and each as long as a file may be."""
    for cached in (serialization._cached_runs, serialization._cached_settings):
        cached.cache_clear()
    large = ChatSettings(system="x" * serialization.MAX_CACHED)
    assert serialization.settings_from(serialization.settings_text(large)) == large
    assert (
        serialization.runs_from(serialization.runs_text([GenerationRun(large, "base", "none")]))[
            0
        ].settings
        == large
    )
    assert serialization._cached_runs.cache_info().currsize == 0
    assert serialization._cached_settings.cache_info().currsize == 0
    assert serialization.runs_from(serialization.runs_text([RUN])) == (RUN,)
    assert serialization._cached_runs.cache_info().currsize == 1


def test_values_like_the_defaults_are_still_of_the_right_kind() -> None:
    """True equals 1, and 0 equals 0.0."""
    with pytest.raises(RequestError, match="temperature"):
        serialization.read_sampling({"temperature": True}, strict=True)
    with pytest.raises(RequestError, match="min_tokens"):
        serialization.read_sampling({"min_tokens": 0.0}, strict=True)
    assert type(serialization.read_sampling({"top_p": 1}).top_p) is float
    assert type(serialization.read_settings({"scale": 1}).scale) is float


def test_nul_is_replaced() -> None:
    assert serialization.sanitize_text("a\0b") == "a�b"
    assert serialization.sanitize_text("字\0\ud83d") == "字��"
