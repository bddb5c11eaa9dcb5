"""Log-probabilities of a real engine's tokens, many of which are parts of characters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.config.settings import Settings
from model.serving.manager import ModelManager
from tests.tiny_model import CONTROL
from tests.web.app_server import serving

Json = dict[str, Any]
END = 2  # the id of <|im_end|>


@pytest.fixture(scope="module")
def url(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("logprobs")
    settings = Settings(base_model=str(tiny_folder), quantization="none", adapters_dir=folder)
    manager = ModelManager(settings)
    manager.start()
    assert manager.wait().ready
    with serving(manager) as address:
        yield address


def complete(url: str, **fields: Any) -> Json:
    body = {"prompt": "x", "temperature": 0, "logprobs": 5, "max_tokens": 12, **fields}
    choice: Json = httpx.post(f"{url}/v1/completions", json=body).json()["choices"][0]
    return choice


def chat(url: str, **fields: Any) -> Json:
    messages = [{"role": "user", "content": "x"}]
    body = {"messages": messages, "temperature": 0, "logprobs": True, "max_tokens": 12, **fields}
    choice: Json = httpx.post(f"{url}/v1/chat/completions", json=body).json()["choices"][0]
    return choice


def chunks(url: str, path: str, **fields: Any) -> list[Json]:
    body = {"temperature": 0, "stream": True, "max_tokens": 12, **fields}
    lines = httpx.post(f"{url}/v1/{path}", json=body).text.split("\n\n")
    return [json.loads(line[6:])["choices"][0] for line in lines if line.startswith("data: {")]


def forced(*ids: int) -> Json:
    """Fields with which the reply has only these tokens."""
    return {"logit_bias": {str(token): 100 for token in ids}}


@pytest.mark.parametrize("count", [0, 1, 5, 20])
def test_a_reply_of_nothing_but_the_end_token_has_logprobs(url: str, count: int) -> None:
    """They were null."""
    text = complete(url, logprobs=count, **forced(END))
    assert (text["text"], text["finish_reason"]) == ("", "stop")
    assert text["logprobs"]["tokens"] == ["<|im_end|>"]
    assert text["logprobs"]["text_offset"] == [0]
    assert "<|im_end|>" in text["logprobs"]["top_logprobs"][0]
    assert len(text["logprobs"]["top_logprobs"][0]) in (count, count + 1)
    content = chat(url, top_logprobs=count, **forced(END))["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["<|im_end|>"]
    assert len(content[0]["top_logprobs"]) == count


def test_parts_of_characters_are_told_apart(url: str) -> None:
    """All of them were one replacement character, and a dictionary kept one of them."""
    high, low = 0.0, 0
    for seed in range(3):
        text = complete(url, temperature=2, seed=seed, max_tokens=40, ignore_eos=True)
        logprobs = text["logprobs"]
        for token, top in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True):
            assert "\ufffd" not in token + "".join(top)
            assert token
            assert len(top) in (5, 6)
            assert token in top
            low += token.startswith("bytes:")
        high = max(high, *logprobs["token_logprobs"])
    assert low > 5
    assert high <= 0


def test_bytes_join_to_the_text(url: str) -> None:
    for seed in range(3):
        choice = chat(url, temperature=2, seed=seed, max_tokens=60, top_logprobs=20)
        entries = choice["logprobs"]["content"]
        for entry in entries:
            names = [other["token"] for other in entry["top_logprobs"]]
            assert len(set(names)) == 20
            assert all(other["bytes"] for other in entry["top_logprobs"])
        joined = b"".join(bytes(entry["bytes"]) for entry in entries)
        for control in CONTROL:
            joined = joined.replace(control.encode(), b"")
        text = joined.decode(errors="replace")
        assert text.rstrip("\ufffd") == choice["message"]["content"].rstrip("\ufffd")


def test_offsets_are_those_of_the_text(url: str) -> None:
    for seed in range(3):
        choice = complete(url, temperature=1.5, seed=seed, max_tokens=40)
        text, logprobs = choice["text"], choice["logprobs"]
        offsets = logprobs["text_offset"]
        assert offsets[0] == 0
        assert all(a <= b for a, b in pairwise(offsets))
        for token, offset in zip(logprobs["tokens"], offsets, strict=True):
            if not token.startswith("bytes:") and token not in CONTROL:
                assert text[offset : offset + len(token)] == token


@pytest.mark.parametrize("ids", [(END,), (ord("a") - 33 + 3,)])
def test_no_chunk_of_a_stream_has_null(url: str, ids: tuple[int, ...]) -> None:
    chat_fields: Json = {"messages": [{"role": "user", "content": "x"}], "logprobs": True}
    text_fields: Json = {"prompt": "x", "logprobs": 2}
    for path, fields in (("chat/completions", chat_fields), ("completions", text_fields)):
        for more in ({}, forced(*ids), {"stop": ["a", "e", " "]}):
            found = chunks(url, path, **fields, **more)
            assert found
            assert None not in [chunk["logprobs"] for chunk in found]
            plain = {key: value for key, value in fields.items() if key != "logprobs"}
            assert {str(c["logprobs"]) for c in chunks(url, path, **plain, **more)} == {"None"}


def test_a_stop_string_keeps_the_logprobs_of_its_tokens(url: str) -> None:
    text = complete(url, max_tokens=30, temperature=2, seed=3)["text"]
    stop = next(letter for letter in text if letter.isascii())
    choice = complete(url, max_tokens=30, temperature=2, seed=3, stop=[stop])
    assert choice["finish_reason"] == "stop"
    assert stop not in choice["text"]
    assert stop in choice["logprobs"]["tokens"][-1]
    assert choice["logprobs"]["text_offset"][-1] <= len(choice["text"])


def test_fingerprint_and_context_length(url: str) -> None:
    body = {"prompt": "x", "max_tokens": 1}
    found = [httpx.post(f"{url}/v1/completions", json=body).json() for _ in range(2)]
    assert found[0]["system_fingerprint"] == found[1]["system_fingerprint"]
    assert found[0]["system_fingerprint"].startswith("fp_")
    lines = httpx.post(f"{url}/v1/completions", json={**body, "stream": True}).text.split("\n\n")
    streamed = {json.loads(line[6:])["system_fingerprint"] for line in lines if "{" in line}
    assert streamed == {found[0]["system_fingerprint"]}
    models = httpx.get(f"{url}/v1/models").json()["data"]
    assert [model["max_model_len"] for model in models] == [512]
    assert httpx.get(f"{url}/v1/models/{models[0]['id']}").json()["max_model_len"] == 512
