"""Chats with an adapter that brings a vocabulary of its own, beside others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.config.settings import CHECKOUT, Settings
from model.doctor.vocabulary import own_tokenizer
from model.errors import RequestError
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.serving.manager import ModelManager
from model.text.tokenizer import TextSpan, Tokenizer
from model.types import ChatRequest, CompletionRequest, Delta, Message, Sampling

GREEDY = Sampling(temperature=0, max_tokens=12, ignore_eos=True)
TEXT = "The quick 你好"


@pytest.fixture(scope="module")
def manager(
    tiny_folder: Path, tiny_adapters: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelManager]:
    made = ModelManager(
        Settings(
            base_model=str(tiny_folder), adapters_dir=tiny_adapters, quantization="none",
            prompts_dir=CHECKOUT / "prompts", cache_dir=tmp_path_factory.mktemp("cache"),
        )
    )  # fmt: skip
    made.start()
    assert made.wait(120).ready
    yield made
    made.close()


@pytest.fixture(scope="module")
def own(tiny_adapters: Path) -> Tokenizer:
    tokenizer = own_tokenizer(tiny_adapters / "extended")
    assert tokenizer
    return tokenizer


def said(manager: ModelManager, *requests: ChatRequest | CompletionRequest) -> list[str]:
    """The replies to requests that come at the same time."""

    async def one(request: ChatRequest | CompletionRequest) -> str:
        if isinstance(request, ChatRequest):
            batches = manager.chat(request)
        else:
            batches = manager.complete(request)
        deltas: list[Delta] = [delta async for batch in batches for delta in batch]
        return "".join(delta.text for delta in deltas)

    async def everybody() -> list[str]:
        return list(await asyncio.gather(*map(one, requests)))

    return asyncio.run(everybody())


def completion(
    text: str | tuple[int, ...], adapter: str | None, scale: float = 1.0
) -> CompletionRequest:
    return CompletionRequest(text, adapter, scale, GREEDY)


def test_text_goes_in_and_comes_out_by_its_own_tokenizer(
    manager: ModelManager, own: Tokenizer
) -> None:
    ids = (*own.prefix_ids, *own.encode([TextSpan(TEXT)]))
    by_text, by_ids = said(manager, completion(TEXT, "extended"), completion(ids, "extended"))
    assert by_text == by_ids
    assert by_text


def test_everybody_at_once_reads_as_alone(manager: ModelManager) -> None:
    requests = [completion(TEXT, adapter) for adapter in (None, "extended", "whole", "qv") * 2]
    alone = [said(manager, request)[0] for request in requests[:4]]
    assert said(manager, *requests) == alone * 2
    assert len(set(alone)) == 4


def test_ids_are_those_of_whoever_is_asked(manager: ModelManager, tiny_folder: Path) -> None:
    pieces = load_tokenizer(read_model_folder(tiny_folder)).vocab_size
    assert said(manager, completion((pieces + 5,), "extended"))
    for adapter, scale in ((None, 1.0), ("qv", 1.0), ("extended", 0.0)):
        with pytest.raises(RequestError, match=f"0 to {pieces - 1}"):
            said(manager, completion((pieces + 5,), adapter, scale))


def test_at_strength_0_it_is_the_base(manager: ModelManager) -> None:
    base, off = said(manager, completion(TEXT, None), completion(TEXT, "extended", 0.0))
    assert base == off


def test_the_chat_is_written_in_a_template_that_it_knows(
    manager: ModelManager, own: Tokenizer
) -> None:
    """The base's own has control tokens that this vocabulary lacks."""
    (adapter,) = [found for found in manager.adapters() if found.name == "extended"]
    assert adapter.ready
    assert adapter.template == "chinese-alpaca"
    assert [found.code for found in adapter.warnings] == ["template_guessed"]
    request = ChatRequest((Message("user", "你好"),), "extended", sampling=GREEDY)
    assert said(manager, request)
