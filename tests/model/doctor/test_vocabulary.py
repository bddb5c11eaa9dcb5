"""Chats with an adapter that has its own vocabulary, in a batch with others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as Backend

from model.config.settings import CHECKOUT, Settings
from model.doctor.vocabulary import adapter_tokenizer
from model.errors import RequestError
from model.folders.base_info import read_base_info
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.sampling import Sampling
from model.serving.adapter_folders import read_adapter
from model.serving.manager import ModelManager
from model.text.tokenizer import TextSpan, Tokenizer
from model.types import ChatRequest, CompletionRequest, Delta, Message
from tests.model.serving.adapters import write_adapter

GREEDY = Sampling(temperature=0, max_tokens=12, ignore_eos=True)
HIDDEN = 48  # of the tiny base
TEXT = "The quick 你好"


@pytest.fixture(scope="module")
def manager(
    tiny_folder: Path, tiny_adapters: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelManager]:
    manager = ModelManager(
        Settings(
            base_model=str(tiny_folder), adapters_dir=tiny_adapters, quantization="none",
            prompts_dir=CHECKOUT / "prompts", cache_dir=tmp_path_factory.mktemp("cache"),
        )
    )  # fmt: skip
    manager.start()
    assert manager.wait(120).ready
    yield manager
    manager.close()


@pytest.fixture(scope="module")
def tokenizer(tiny_adapters: Path) -> Tokenizer:
    tokenizer = adapter_tokenizer(tiny_adapters / "extended")
    assert tokenizer
    return tokenizer


def replies(manager: ModelManager, *requests: ChatRequest | CompletionRequest) -> list[str]:
    """The replies to concurrent requests."""

    async def reply(request: ChatRequest | CompletionRequest) -> str:
        if isinstance(request, ChatRequest):
            batches = manager.chat(request)
        else:
            batches = manager.complete(request)
        deltas: list[Delta] = [delta async for batch in batches for delta in batch]
        return "".join(delta.text for delta in deltas)

    async def all_replies() -> list[str]:
        return list(await asyncio.gather(*map(reply, requests)))

    return asyncio.run(all_replies())


def completion(
    text: str | tuple[int, ...], adapter: str | None, adapter_scale: float = 1.0
) -> CompletionRequest:
    return CompletionRequest(text, adapter, adapter_scale, GREEDY)


def test_text_is_encoded_and_decoded_with_the_adapters_tokenizer(
    manager: ModelManager, tokenizer: Tokenizer
) -> None:
    ids = (*tokenizer.prefix_ids, *tokenizer.encode([TextSpan(TEXT)]))
    by_text, by_ids = replies(manager, completion(TEXT, "extended"), completion(ids, "extended"))
    assert by_text == by_ids
    assert by_text


def test_concurrent_replies_are_those_of_single_requests(manager: ModelManager) -> None:
    requests = [completion(TEXT, adapter) for adapter in (None, "extended", "whole", "qv") * 2]
    single = [replies(manager, request)[0] for request in requests[:4]]
    assert replies(manager, *requests) == single * 2
    assert len(set(single)) == 4


def test_ids_are_checked_against_the_requested_vocabulary(
    manager: ModelManager, tiny_folder: Path
) -> None:
    vocab_size = load_tokenizer(read_model_folder(tiny_folder)).vocab_size
    assert replies(manager, completion((vocab_size + 5,), "extended"))
    for adapter, adapter_scale in ((None, 1.0), ("qv", 1.0), ("extended", 0.0)):
        with pytest.raises(RequestError, match=f"between 0 and {vocab_size - 1}"):
            replies(manager, completion((vocab_size + 5,), adapter, adapter_scale))


def test_adapter_scale_0_is_the_base(manager: ModelManager) -> None:
    base, off = replies(manager, completion(TEXT, None), completion(TEXT, "extended", 0.0))
    assert base == off


def test_chat_uses_a_template_that_fits_the_vocabulary(
    manager: ModelManager, tokenizer: Tokenizer
) -> None:
    """The base's template has control tokens that this vocabulary lacks."""
    (adapter,) = [adapter for adapter in manager.adapters() if adapter.name == "extended"]
    assert adapter.ready
    assert adapter.template == "chinese-alpaca"
    assert [warning.code for warning in adapter.warnings] == ["template_guessed"]
    request = ChatRequest((Message("user", "你好"),), "extended", sampling=GREEDY)
    assert replies(manager, request)


def resized_adapter(base: Path, folder: Path, rows: int, *added: str) -> Path:
    """An adapter with the base's tokenizer, maybe with tokens `added`, and resized layers."""
    adapter = write_adapter(
        folder,
        tensors={
            "base_model.model.model.embed_tokens.weight": torch.ones(rows, HIDDEN),
            "base_model.model.lm_head.weight": torch.ones(rows, HIDDEN),
        },
        config={"modules_to_save": ["embed_tokens", "lm_head"]},
    )
    backend = Backend.from_file(str(base / "tokenizer.json"))
    backend.add_special_tokens(list(added))
    backend.save(str(adapter / "tokenizer.json"))
    return adapter


@pytest.mark.parametrize(
    ("rows", "added"), [(384, ()), (384, ("<|a|>",)), (322, ("<|a|>", "<|b|>"))]
)
def test_vocabulary_that_extends_the_bases_keeps_its_template_and_ends(
    rows: int, added: tuple[str, ...], tiny_folder: Path, tmp_path: Path
) -> None:
    """Its chats got Chinese-Alpaca's template, as if the base's control tokens were gone."""
    folder = read_model_folder(tiny_folder)
    base = read_base_info(folder, "tiny", load_tokenizer(folder))
    path = resized_adapter(tiny_folder, tmp_path / "resized", rows, *added)
    adapter = read_adapter(path, base, {"chinese-alpaca", "linly"})
    assert adapter.problem is None
    assert adapter.template is None
    assert not adapter.replaces_vocabulary
    assert adapter.tokenizer
    assert adapter.tokenizer.vocab_size == base.rows + len(added)


@pytest.mark.parametrize(
    ("rows", "added", "code"),
    [
        (384, ("<|a|>",), None),
        (384 + 1, ("<|a|>",), "adapter_tokenizer_size"),  # no padding has such a size
        (320 + 640, (), "adapter_tokenizer_size"),
        (312, (), "adapter_tokenizer_size"),
        (321, ("<|a|>", "<|b|>"), "adapter_tokenizer_size"),
    ],
)
def test_rows_have_to_fit_the_tokenizer(
    rows: int, added: tuple[str, ...], code: str | None, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = read_model_folder(tiny_folder)
    base = read_base_info(folder, "tiny", load_tokenizer(folder))
    path = resized_adapter(tiny_folder, tmp_path / "resized", rows, *added)
    problem = read_adapter(path, base, {"linly"}).problem
    assert (problem.code if problem else None) == code
