"""GGUF files: the order of rows that belong to heads, names, and written files read again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.peers.gguf_files import (
    GgufError,
    base_tensor,
    lora_tensor,
    permute_rope,
    token_list,
    write_adapter,
    write_base,
)
from bench.random_model import Geometry, write_model
from tests.tiny_model import make_adapter, make_folder

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
LAYER = "model.layers.7"
PEFT = f"base_model.model.{LAYER}"


def rows(count: int, width: int = 3) -> Any:
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


@pytest.mark.parametrize(("heads", "size"), [(1, 4), (3, 8), (9, 64)])
def test_permutation_puts_the_rows_of_a_pair_side_by_side(heads: int, size: int) -> None:
    weight = rows(heads * size)
    permuted = permute_rope(weight, heads)
    for head in range(heads):
        for pair in range(size // 2):
            first = head * size + pair
            assert (permuted[head * size + 2 * pair] == weight[first]).all()
            assert (permuted[head * size + 2 * pair + 1] == weight[first + size // 2]).all()


def test_permuted_rows_rotate_as_before() -> None:
    """The reason for the permutation: llama.cpp's rotation of it equals Hugging Face's."""
    size, angle = 8, np.arange(4, dtype=np.float32) / 3
    weight = np.random.default_rng(0).standard_normal((size, 1)).astype(np.float32)
    cos, sin = np.cos(angle), np.sin(angle)
    low, high = weight[: size // 2, 0], weight[size // 2 :, 0]
    halves = np.concatenate([low * cos - high * sin, high * cos + low * sin])
    even, odd = permute_rope(weight, 1)[0::2, 0], permute_rope(weight, 1)[1::2, 0]
    np.testing.assert_allclose(even * cos - odd * sin, halves[: size // 2], rtol=1e-6)
    np.testing.assert_allclose(odd * cos + even * sin, halves[size // 2 :], rtol=1e-6)


@pytest.mark.parametrize(
    ("part", "named", "heads"),
    [
        ("self_attn.q_proj", "attn_q", 4),
        ("self_attn.k_proj", "attn_k", 2),
        ("self_attn.v_proj", "attn_v", 0),
        ("mlp.down_proj", "ffn_down", 0),
    ],
)
def test_only_q_and_k_are_permuted_by_their_numbers_of_heads(
    part: str, named: str, heads: int
) -> None:
    weight = rows(16)
    name, permuted = base_tensor(f"{LAYER}.{part}.weight", weight, HEADS)
    assert name == f"blk.7.{named}.weight"
    assert (permuted == (permute_rope(weight, heads) if heads else weight)).all()


def test_only_b_of_an_adapter_is_permuted() -> None:
    weight = rows(16)
    name, permuted = lora_tensor(f"{PEFT}.self_attn.q_proj.lora_B.weight", weight, HEADS)
    assert name == "blk.7.attn_q.weight.lora_b"
    assert (permuted == permute_rope(weight, 4)).all()
    name, permuted = lora_tensor(f"{PEFT}.self_attn.q_proj.lora_A.weight", weight, HEADS)
    assert name == "blk.7.attn_q.weight.lora_a"
    assert (permuted == weight).all()


def test_tensors_without_a_name_in_gguf_are_refused() -> None:
    with pytest.raises(GgufError, match="rotary_emb"):
        base_tensor(f"{LAYER}.self_attn.rotary_emb.inv_freq", rows(2), HEADS)
    with pytest.raises(GgufError, match="lm_head"):
        lora_tensor("base_model.model.lm_head.lora_A.weight", rows(2), HEADS)


def test_tokens_are_listed_by_id_with_their_types() -> None:
    added = [{"id": 0, "content": "<s>", "special": True}]
    tokenizer = {"model": {"vocab": {"b": 2, "a": 1}}, "added_tokens": added}
    assert token_list(tokenizer, 4) == (["<s>", "a", "b", "[unused3]"], [3, 1, 1, 5])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Widths that are multiples of 32, as Q8_0 wants them."""
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96}
    return make_folder(tmp_path_factory.mktemp("gguf") / "tiny", **sizes)


def test_written_base_can_be_read_again(base: Path, tmp_path: Path) -> None:
    from gguf import GGMLQuantizationType, GGUFReader
    from gguf.quants import dequantize
    from safetensors.numpy import load_file

    write_base(base, tmp_path / "base.gguf")
    reader = GGUFReader(tmp_path / "base.gguf")
    assert reader.fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == 320
    assert reader.fields["llama.attention.head_count_kv"].contents() == 2
    found = {tensor.name: tensor for tensor in reader.tensors}
    weights = load_file(base / "model.safetensors")
    assert len(found) == len(weights)
    assert found["blk.0.attn_norm.weight"].tensor_type == GGMLQuantizationType.F32
    query = found["blk.1.attn_q.weight"]
    assert query.tensor_type == GGMLQuantizationType.Q8_0
    expected = permute_rope(weights["model.layers.1.self_attn.q_proj.weight"], 4)
    read = dequantize(query.data, query.tensor_type)
    np.testing.assert_allclose(read, expected, atol=np.abs(expected).max() / 127)


def test_base_in_several_files_is_written_completely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gguf import GGUFReader

    geometry = Geometry(layers=2, hidden=64, intermediate=96, heads=4, kv_heads=2, vocab=320)
    found = []
    for name, shard in (("one", 1_000_000), ("several", 60_000)):
        monkeypatch.setattr("model.folders.weight_writer.SHARD_BYTES", shard)
        write_model(tmp_path / name, geometry, seed=0)
        write_base(tmp_path / name, tmp_path / f"{name}.gguf")
        tensors = GGUFReader(tmp_path / f"{name}.gguf").tensors
        found.append({tensor.name: tensor.data.tobytes() for tensor in tensors})
    assert len(list((tmp_path / "several").glob("*.safetensors"))) > 2
    assert len(found[0]) == 2 * 9 + 3
    assert found[1] == found[0]


def test_config_of_an_older_library_is_understood(base: Path, tmp_path: Path) -> None:
    """As the embedded default's: without `rope_parameters` and fields that have a default."""
    from gguf import GGUFReader

    older = tmp_path / "older"
    shutil.copytree(base, older)
    config = json.loads((older / "config.json").read_text())
    theta = config.pop("rope_parameters")["rope_theta"]
    config.pop("head_dim")
    (older / "config.json").write_text(json.dumps({**config, "rope_theta": theta}))
    sizes = []
    for folder in (base, older):
        write_base(folder, tmp_path / f"{folder.name}.gguf")
        fields = GGUFReader(tmp_path / f"{folder.name}.gguf").fields
        sizes.append({n: f.contents() for n, f in fields.items() if n.startswith("llama.")})
    assert sizes[0]["llama.rope.freq_base"] == theta
    assert sizes[0] == sizes[1]


def test_written_adapter_can_be_read_again(base: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader
    from safetensors.numpy import load_file

    adapter = make_adapter(
        base, tmp_path / "some", seed=1, r=4, target_modules=["q_proj", "v_proj"]
    )
    write_adapter(adapter, tmp_path / "some.gguf", base)
    reader = GGUFReader(tmp_path / "some.gguf")
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["adapter.lora.alpha"].contents() == 16
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    weights = load_file(adapter / "adapter_model.safetensors")
    assert len(found) == len(weights) == 8
    start = "base_model.model.model.layers.0.self_attn.q_proj.lora"
    assert (found["blk.0.attn_q.weight.lora_a"] == weights[f"{start}_A.weight"]).all()
    assert (
        found["blk.0.attn_q.weight.lora_b"] == permute_rope(weights[f"{start}_B.weight"], 4)
    ).all()


def test_adapters_with_more_than_one_rank_are_refused(base: Path, tmp_path: Path) -> None:
    config = {"use_rslora": False, "alpha_pattern": {}, "rank_pattern": {"q_proj": 2}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(GgufError, match="one rank"):
        write_adapter(tmp_path, tmp_path / "some.gguf", base)
