"""Model folders: a sound one is read, and each fault is named before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from model.errors import ModelFolderError
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.text.fast_tokenizer import FastTokenizer
from model.text.spm_tokenizer import SpmTokenizer
from model.text.tokenizer_files import MAX_PADDING, is_padded
from tests.model.tokenizers import END, LIKE_LLAMA, START, make_fast, write_spm

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 48,
    "eos_token_id": 2,
}
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def write(path: Path, content: Any) -> None:
    """Writes a value as JSON, or a text unchanged."""
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with sound small files; the weights are a stub."""
    path = tmp_path / "tiny-llama"
    path.mkdir()
    make_fast(path)
    (path / "model.safetensors").write_bytes(b"stub")
    write(path / "config.json", CONFIG)
    return path


def shard(folder: Path, weight_map: Any) -> None:
    """Replaces the weight file by shards with an index."""
    (folder / "model.safetensors").unlink()
    for name in SHARDS:
        (folder / name).write_bytes(b"stub")
    write(folder / "model.safetensors.index.json", {"weight_map": weight_map})


def error_text(path: Path) -> str:
    """Returns the error message for `path`, with its remedy."""
    with pytest.raises(ModelFolderError) as caught:
        load_tokenizer(read_model_folder(path))
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Sound folders


def test_sound_folder_is_read(folder: Path) -> None:
    found = read_model_folder(folder)
    assert (found.name, found.path) == ("tiny-llama", folder)
    assert found.weight_files == (folder / "model.safetensors",)
    assert found.nbytes == 4
    assert found.config["vocab_size"] == 320
    assert found.eos_ids == {2}


@pytest.mark.parametrize(
    "names",
    [
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
        {"architectures": ["LLaMAForCausalLM"], "model_type": "llama"},
        {"architectures": ["LlamaForCausalLM"], "model_type": None},
        {"architectures": None, "model_type": "llama"},
        {"architectures": [], "model_type": "llama"},
    ],
)
def test_config_of_a_llama_is_accepted(names: dict[str, Any], folder: Path) -> None:
    write(folder / "config.json", {**CONFIG, **names})
    assert read_model_folder(folder).config["hidden_size"] == 48


def test_config_of_transformers_is_accepted(folder: Path) -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(vocab_size=320, hidden_size=48, num_attention_heads=6)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    assert read_model_folder(folder).config["num_attention_heads"] == 6


def test_weight_files_are_those_of_the_index(folder: Path) -> None:
    shard(folder, {"a": SHARDS[1], "b": SHARDS[0], "c": SHARDS[1]})
    found = read_model_folder(folder)
    assert [path.name for path in found.weight_files] == SHARDS
    assert found.nbytes == 8


def test_pytorch_weights_are_accepted(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert [p.name for p in read_model_folder(folder).weight_files] == ["pytorch_model.bin"]


def test_safetensors_are_preferred(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"other")
    assert [p.name for p in read_model_folder(folder).weight_files] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (2, None, {2}),
        (2, [5, 6], {2, 5, 6}),
        ([2, 3], 3, {2, 3}),
        (None, None, set()),
        (-1, None, set()),
    ],
)
def test_eos_ids_come_from_both_configurations(
    config: Any, generation: Any, expected: set[int], folder: Path
) -> None:
    write(folder / "config.json", {**CONFIG, "eos_token_id": config})
    write(folder / "generation_config.json", {"eos_token_id": generation})
    assert read_model_folder(folder).eos_ids == expected


# The chat template


def test_chat_template_of_the_tokenizer_configuration(folder: Path) -> None:
    write(folder / "tokenizer_config.json", {"chat_template": "{{ one }}"})
    assert read_model_folder(folder).chat_template == "{{ one }}"


def test_chat_template_file_wins(folder: Path) -> None:
    write(folder / "tokenizer_config.json", {"chat_template": "{{ one }}"})
    write(folder / "chat_template.jinja", "{{ 世界 }}\n")
    assert read_model_folder(folder).chat_template == "{{ 世界 }}\n"


def test_default_of_several_chat_templates(folder: Path) -> None:
    several = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    write(folder / "tokenizer_config.json", {"chat_template": several})
    assert read_model_folder(folder).chat_template == "d"


@pytest.mark.parametrize(
    "template", [None, [], [{"name": "tools", "template": "t"}], [{"template": "t"}], ["t"], 5]
)
def test_no_usable_chat_template_is_none(template: Any, folder: Path) -> None:
    write(folder / "tokenizer_config.json", {"chat_template": template})
    assert read_model_folder(folder).chat_template is None


def test_folder_without_tokenizer_configuration_has_no_chat_template(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    assert read_model_folder(folder).chat_template is None


# Faults


def test_missing_folder_error_suggests_a_folder(folder: Path) -> None:
    sentence = error_text(folder.parent / "tiny-lama")
    assert f"no model folder {folder.parent / 'tiny-lama'}" in sentence
    assert f"Did you mean {folder}?" in sentence


def test_missing_folder_error_without_a_suggestion(tmp_path: Path) -> None:
    sentence = error_text(tmp_path / "no" / "such")
    assert "--base_model" in sentence
    assert "Did you mean" not in sentence


def test_file_instead_of_a_folder_is_refused(folder: Path) -> None:
    assert "no model folder" in error_text(folder / "config.json")


def test_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert f"{folder} has no config.json" in error_text(folder)


@pytest.mark.parametrize("content", ["", "{", '{"vocab_size": 320,}', "[]", "null", '"llama"'])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_broken_json_is_named(name: str, content: str, folder: Path) -> None:
    write(folder / name, content)
    assert str(folder / name) in error_text(folder)


def test_file_that_is_no_text_is_named(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    assert str(folder / "config.json") in error_text(folder)


def test_chat_template_that_is_no_text_is_named(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe\x00")
    assert "chat_template.jinja" in error_text(folder)


@pytest.mark.parametrize(
    ("names", "named"),
    [
        ({"architectures": ["MistralForCausalLM"], "model_type": "mistral"}, "MistralForCausalLM"),
        ({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}, "Qwen2ForCausalLM"),
        ({"architectures": None, "model_type": "gpt2"}, "gpt2"),
        ({"architectures": None, "model_type": None}, "unknown family"),
    ],
)
def test_other_architecture_is_refused_by_name(
    names: dict[str, Any], named: str, folder: Path
) -> None:
    write(folder / "config.json", {**CONFIG, **names})
    sentence = error_text(folder)
    assert named in sentence
    assert "LlamaForCausalLM" in sentence  # what to look for


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size"])
def test_config_without_a_size_is_refused(key: str, folder: Path) -> None:
    write(folder / "config.json", {k: v for k, v in CONFIG.items() if k != key})
    assert key in error_text(folder)


@pytest.mark.parametrize("size", [None, "many", [320]])
def test_vocabulary_size_that_is_no_number_is_refused(size: Any, folder: Path) -> None:
    write(folder / "config.json", {**CONFIG, "vocab_size": size})
    assert "vocab_size" in error_text(folder)


def test_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert f"{folder} has no weights" in error_text(folder)


@pytest.mark.parametrize("names", [["model.gguf"], ["openllama_13b.bin", "open_llama.model"]])
def test_other_format_error_has_the_command(names: list[str], folder: Path) -> None:
    (folder / "config.json").unlink()
    for name in names:
        (folder / name).write_bytes(b"stub")
    assert "python -m model convert" in error_text(folder)


def test_format_of_meta_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "consolidated.00.pth").write_bytes(b"stub")
    assert "Meta's own format" in error_text(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_git_lfs_pointer_is_named(name: str, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0")
    assert "git lfs pull" in error_text(folder)


def test_missing_shard_is_named(folder: Path) -> None:
    shard(folder, {"a": SHARDS[0], "b": SHARDS[1]})
    (folder / SHARDS[1]).unlink()
    assert f"lacks 1 of 2 weight files; the first is {SHARDS[1]}" in error_text(folder)


def test_index_that_names_a_file_outside_of_the_folder_is_refused(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "other.safetensors")
    shard(folder, {"a": SHARDS[0], "b": "../other.safetensors"})
    assert "outside its folder" in error_text(folder)


def test_index_that_names_an_absolute_path_is_refused(folder: Path) -> None:
    outside = folder.parent / "other.safetensors"
    outside.write_bytes(b"stub")
    shard(folder, {"a": str(outside)})
    assert "outside its folder" in error_text(folder)


@pytest.mark.parametrize("weight_map", [{}, [], None, {"a": 1}, {"a": SHARDS[0], "b": None}, "x"])
def test_invalid_index_is_refused(weight_map: Any, folder: Path) -> None:
    shard(folder, weight_map)
    assert "model.safetensors.index.json" in error_text(folder)


def test_broken_index_is_named(folder: Path) -> None:
    shard(folder, {})
    write(folder / "model.safetensors.index.json", "{")
    assert "model.safetensors.index.json" in error_text(folder)


# The tokenizer


def test_fast_tokenizer_is_preferred(folder: Path) -> None:
    write_spm(folder / "tokenizer.model", **LIKE_LLAMA)
    tokenizer = load_tokenizer(read_model_folder(folder))
    assert isinstance(tokenizer, FastTokenizer)
    assert (tokenizer.bos, tokenizer.eos) == (START, END)


def test_sentencepiece_tokenizer_is_loaded(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    write_spm(folder / "tokenizer.model", **LIKE_LLAMA)
    write(folder / "config.json", {**CONFIG, "vocab_size": LIKE_LLAMA["vocab_size"]})
    assert isinstance(load_tokenizer(read_model_folder(folder)), SpmTokenizer)


def test_folder_without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "neither tokenizer.json nor tokenizer.model" in error_text(folder)


@pytest.mark.parametrize("content", ["", "{", "{}", "[1, 2]", '{"version": "1.0", "model": {}}'])
def test_broken_fast_tokenizer_is_named(content: str, folder: Path) -> None:
    write(folder / "tokenizer.json", content)
    assert str(folder / "tokenizer.json") in error_text(folder)


def test_broken_sentencepiece_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert "tokenizer.model" in error_text(folder)


def with_rows(folder: Path, rows: int) -> Path:
    write(folder / "config.json", {**CONFIG, "vocab_size": rows})
    return folder


@pytest.mark.parametrize(
    ("rows", "pieces", "padded"),
    [
        (102_400, 100_015, True),  # DeepSeek LLM
        (32_256, 32_022, True),  # DeepSeek Coder
        (152_064, 151_665, True),  # Qwen 2.5
        (32_064, 32_011, True),  # Phi 3
        (32_001, 32_000, False),  # a pad token that the tokenizer lacks
        (32_768, 32_000, False),  # Mistral 0.3 with the tokenizer of 0.1: all ids differ
        (131_072, 128_256, False),  # Mistral Nemo with the tokenizer of Llama 3
        (32_000, 32_016, False),
    ],
)
def test_padding_is_told_from_another_tokenizer(rows: int, pieces: int, padded: bool) -> None:
    assert is_padded(rows, pieces) is padded


@pytest.mark.parametrize("rows", [320, 328, 312 + MAX_PADDING])
def test_vocabulary_may_be_padded(rows: int, folder: Path) -> None:
    assert load_tokenizer(read_model_folder(with_rows(folder, rows))).vocab_size == 320


def test_tokenizer_with_more_tokens_than_embeddings_is_refused(folder: Path) -> None:
    sentence = error_text(with_rows(folder, 319))
    assert "320 pieces" in sentence
    assert "319 rows" in sentence


def test_tokenizer_with_far_fewer_tokens_than_embeddings_is_refused(folder: Path) -> None:
    """A common mistake with Open-Linly: LLaMA's tokenizer.model with an extended vocabulary."""
    sentence = error_text(with_rows(folder, 320 + MAX_PADDING))
    assert f"{320 + MAX_PADDING} rows" in sentence
    assert "320 pieces" in sentence
    assert "piece id is out of range" in sentence


@pytest.mark.parametrize("rows", [321, 322, 511])
def test_vocabulary_that_lacks_few_tokens_is_refused(rows: int, folder: Path) -> None:
    """Chinese-LLaMA has 49953 pieces and Chinese-Alpaca 49954: they must not be confused."""
    assert f"{rows} rows" in error_text(with_rows(folder, rows))


def test_tokenizer_error_names_the_likely_tokenizer(folder: Path) -> None:
    assert "likely Chinese-Alpaca's" in error_text(with_rows(folder, 49954))


def test_sentencepiece_size_is_checked_too(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    write_spm(folder / "tokenizer.model", **LIKE_LLAMA)
    assert f"{LIKE_LLAMA['vocab_size']} pieces" in error_text(with_rows(folder, 320))


@pytest.mark.slow
def test_folder_that_transformers_wrote_is_sound(tiny_folder: Path) -> None:
    found = read_model_folder(tiny_folder)
    assert found.chat_template
    assert load_tokenizer(found).vocab_size == found.config["vocab_size"]
