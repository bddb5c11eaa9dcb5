"""Conversion of folders with pickles: the same tensors, and the other files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.__main__ import main
from model.folders.model_folder import load_tokenizer, read_model_folder

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 320,
    "hidden_size": 48, "eos_token_id": 2,
}  # fmt: skip


def pickled(folder: Path, tiny: Path, shards: int = 2) -> dict[str, Tensor]:
    """Writes the tiny model with .bin shards; returns its tensors."""
    weights = load_file(tiny / "model.safetensors")
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny / name).read_bytes())
    names = sorted(weights)
    weight_map: dict[str, str] = {}
    for n in range(shards):
        part = {name: weights[name] for name in names[n::shards]}
        file = "pytorch_model.bin" if shards == 1 else f"pytorch_model-{n + 1}-of-{shards}.bin"
        torch.save({**part, f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(3)},
                   folder / file)  # fmt: skip
        weight_map |= dict.fromkeys(part, file)
    if shards > 1:
        index = json.dumps({"weight_map": weight_map})
        (folder / "pytorch_model.bin.index.json").write_text(index, encoding="utf-8")
    return weights


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("name", ["old", "旧 模型"])
def test_converted_folder_has_the_same_tensors(
    shards: int, name: str, tmp_path: Path, tiny_folder: Path
) -> None:
    source, out = tmp_path / name, tmp_path / f"{name} neu"
    weights = pickled(source, tiny_folder, shards)
    (source / "LICENSE").write_text("free", encoding="utf-8")
    (source / "checklist.chk").write_text("0" * 32 + "  pytorch_model.bin\n", encoding="utf-8")
    assert main(["convert", str(source), str(out)]) == 0
    found = load_file(out / "model.safetensors")
    assert found.keys() == weights.keys()
    assert all(found[key].equal(weights[key]) for key in weights)
    assert load_tokenizer(read_model_folder(out)).vocab_size == 320
    files = {path.name for path in out.iterdir()}
    assert "LICENSE" in files
    assert "checklist.chk" not in files
    assert not any("index" in name for name in files)


def test_tied_head_is_not_written(tmp_path: Path, tiny_folder: Path) -> None:
    source = tmp_path / "tied"
    weights = pickled(source, tiny_folder, 1)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    torch.save(weights, source / "pytorch_model.bin")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    new_config = json.dumps({**config, "tie_word_embeddings": True})
    (source / "config.json").write_text(new_config, encoding="utf-8")
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")


def test_folder_with_safetensors_is_refused(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(tiny_folder), str(tmp_path / "out")]) == 1
    assert "nothing to convert" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_shard_is_an_error(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pickled(tmp_path / "old", tiny_folder)
    (tmp_path / "old" / "pytorch_model-2-of-2.bin").unlink()
    assert main(["convert", str(tmp_path / "old"), str(tmp_path / "out")]) == 1
    assert "lacks 1 of 2 weight files" in capsys.readouterr().err


def test_missing_tensor_leaves_no_folder(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All files exist, but one tensor is in none of them."""
    source = tmp_path / "old"
    weights = pickled(source, tiny_folder, 1)
    del weights["model.norm.weight"]
    torch.save(weights, source / "pytorch_model.bin")
    assert main(["convert", str(source), str(tmp_path / "out")]) == 1
    assert "model.norm.weight" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_another_tokenizer_is_refused_with_the_numbers(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.model.tokenizers import LIKE_LLAMA, write_spm

    pickled(tmp_path / "old", tiny_folder, 1)
    other = write_spm(tmp_path / "other.model", **LIKE_LLAMA)
    flags = ["--tokenizer", str(other)]
    assert main(["convert", str(tmp_path / "old"), str(tmp_path / "out"), *flags]) == 1
    error_text = capsys.readouterr().err
    assert "360 pieces" in error_text
    assert "320 rows" in error_text
    assert not (tmp_path / "out").exists()
