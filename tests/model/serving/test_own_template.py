"""Adapters with a chat template and a tokenizer of their own, as training tools save them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from model.config.settings import CHECKOUT, Settings
from model.folders.base_info import BaseInfo, read_base_info
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.serving.adapter_folders import Adapter, file_stamp, read_adapter
from model.serving.manager import ModelManager
from model.serving.request_builder import PreparedRequest, prepare_chat
from model.types import ChatRequest, Message
from tests.model.doctor.changes import edit_json
from tests.tiny_model import CONTROL, TEMPLATE, write_tokenizer

START, END = CONTROL[1:]
OWN = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: {{ m['content'] }} {% else %}"
    "ASSISTANT: {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
CHAT = (Message("user", "Who are you?"), Message("assistant", "A fox."), Message("user", "Why?"))


@pytest.fixture(scope="module")
def facts(tiny_folder: Path) -> BaseInfo:
    folder = read_model_folder(tiny_folder)
    return read_base_info(folder, "tiny", load_tokenizer(folder))


def make(tiny_adapters: Path, path: Path, template: str | None, **config: Any) -> Path:
    """An adapter whose card names no template, with a tokenizer and perhaps a template."""
    shutil.copytree(tiny_adapters / "all", path)
    edit_json(path / "linly_adapter.json", template=None)
    write_tokenizer(path)
    edit_json(path / "tokenizer_config.json", chat_template=template, **config)
    return path


@pytest.fixture(scope="module")
def manager(
    tiny_folder: Path, tiny_adapters: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelManager]:
    adapters = tmp_path_factory.mktemp("adapters")
    make(tiny_adapters, adapters / "own", OWN)
    make(tiny_adapters, adapters / "file", None)
    (adapters / "file" / "chat_template.jinja").write_text(OWN, encoding="utf-8")
    make(tiny_adapters, adapters / "eos", OWN, eos_token=CONTROL[0])
    make(tiny_adapters, adapters / "plain", None)
    edit_json(make(tiny_adapters, adapters / "card", OWN) / "linly_adapter.json", template="linly")
    settings = Settings(
        base_model=str(tiny_folder), adapters_dir=adapters, quantization="none",
        prompts_dir=CHECKOUT / "prompts", cache_dir=tmp_path_factory.mktemp("cache"),
    )  # fmt: skip
    manager = ModelManager(settings)
    manager.start()
    assert manager.wait(120).ready
    yield manager
    manager.close()


def prepared(manager: ModelManager, adapter: str, template: str | None = None) -> PreparedRequest:
    assert manager.backend
    return prepare_chat(manager.backend, ChatRequest(CHAT, adapter, template=template))


def reference(folder: Path, template: str, **tokens: str) -> list[int]:
    """The ids of transformers for the chat."""
    library = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token=START,
        eos_token=tokens.get("eos_token", END),
    )  # fmt: skip
    ids: list[int] = library.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in CHAT], chat_template=template,
        add_generation_prompt=True, tokenize=True, return_dict=False,
    )  # fmt: skip
    return ids


@pytest.mark.parametrize("name", ["own", "file"])
def test_prompts_are_written_with_the_adapters_own_template(
    name: str, manager: ModelManager, tiny_folder: Path
) -> None:
    assert list(prepared(manager, name).prompt.ids) == reference(tiny_folder, OWN)


def test_adapters_own_eos_is_written_and_ends_replies_as_the_bases_does(
    manager: ModelManager, tiny_folder: Path
) -> None:
    request = prepared(manager, "eos")
    assert list(request.prompt.ids) == reference(tiny_folder, OWN, eos_token=CONTROL[0])
    assert manager.backend
    own = {request.tokenizer.eos_id}
    assert request.eos_ids == manager.backend.eos_ids | own
    assert not own <= manager.backend.eos_ids


def test_the_cards_template_comes_first(manager: ModelManager) -> None:
    by_name = prepared(manager, "own", "linly").prompt
    assert prepared(manager, "card").prompt == by_name


def test_adapter_without_a_template_gets_the_bases(
    manager: ModelManager, tiny_folder: Path
) -> None:
    assert list(prepared(manager, "plain").prompt.ids) == reference(tiny_folder, TEMPLATE)


def test_another_template_can_be_requested(manager: ModelManager, tiny_folder: Path) -> None:
    assert list(prepared(manager, "own", "model").prompt.ids) == reference(tiny_folder, TEMPLATE)


def read(path: Path, facts: BaseInfo) -> Adapter:
    return read_adapter(path, facts, {"linly", "model"})


def test_own_template_needs_no_warning(
    tiny_adapters: Path, tmp_path: Path, facts: BaseInfo
) -> None:
    adapter = read(make(tiny_adapters, tmp_path / "a", OWN), facts)
    assert (adapter.ready, adapter.template, adapter.warnings) == (True, "own", ())


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ x | unknown_filter }}", "{% for m in messages %}", "{{" * 60_000]
)
def test_broken_template_is_an_error_with_a_remedy_that_works(
    source: str, tiny_adapters: Path, tmp_path: Path, facts: BaseInfo
) -> None:
    path = make(tiny_adapters, tmp_path / "a", None)
    (path / "chat_template.jinja").write_text(source, encoding="utf-8")
    problem = read(path, facts).problem
    assert problem
    assert problem.code == "adapter_template_broken"
    assert "delete it" in problem.remedy()
    (path / "chat_template.jinja").unlink()
    assert read(path, facts).ready


def test_template_that_is_a_link_out_of_the_folder_is_refused(
    tiny_adapters: Path, tmp_path: Path, facts: BaseInfo
) -> None:
    path = make(tiny_adapters, tmp_path / "a", None)
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    (path / "chat_template.jinja").symlink_to(tmp_path / "secret")
    adapter = read(path, facts)
    assert not adapter.ready
    assert "secret" not in json.dumps(adapter.problem.message() if adapter.problem else "")


def test_changed_template_is_read_again(tiny_adapters: Path, tmp_path: Path) -> None:
    path = make(tiny_adapters, tmp_path / "a", None)
    before = file_stamp(path)
    (path / "chat_template.jinja").write_text(OWN, encoding="utf-8")
    assert file_stamp(path) != before
