"""`bench/random_model.py`: its files are correct, and this program loads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench import random_model
from bench.common import BenchError
from bench.random_model import Geometry, write_model
from model.engine.kv_cache import SequenceCache
from model.errors import ModelFolderError
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.layers.llama import SequenceSlice
from model.text.tokenizer import TextSpan
from model.weight_loader import load_model
from tests.bench.conftest import Refuse, Start

TINY = Geometry(layers=2, hidden=64, intermediate=96, heads=4, kv_heads=2, vocab=320)
MAX_SHARD = 60_000  # bytes of weights in a file
INDEX = "model.safetensors.index.json"
FLAGS = ["--hidden", "64", "--heads", "4", "--intermediate", "96", "--layers", "1"]


def make(folder: Path, shard: int = MAX_SHARD, seed: int = 0) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.folders.weight_writer.SHARD_BYTES", shard)
        write_model(folder, TINY, seed)
    return folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in several shards."""
    return make(tmp_path_factory.mktemp("random") / "tiny")


def test_shards_have_a_maximal_size(model_folder: Path) -> None:
    sizes = [file.stat().st_size for file in model_folder.glob("*.safetensors")]
    assert len(sizes) > 2
    assert max(sizes) <= MAX_SHARD + 2000  # with its header


def test_index_names_the_file_of_every_tensor(model_folder: Path) -> None:
    index = json.loads((model_folder / INDEX).read_text(encoding="utf-8"))
    files = {file.name: load_file(file) for file in model_folder.glob("*.safetensors")}
    assert index["weight_map"] == {name: file for file, found in files.items() for name in found}
    shapes = {name: tuple(t.shape) for found in files.values() for name, t in found.items()}
    assert shapes == TINY.tensors()
    total = sum(t.nbytes for found in files.values() for t in found.values())
    assert index["metadata"]["total_size"] == total == TINY.nbytes


def test_single_file_has_no_index(tmp_path: Path) -> None:
    folder = make(tmp_path / "one", shard=1_000_000)
    assert not (folder / INDEX).exists()
    assert load_file(folder / "model.safetensors").keys() == TINY.tensors().keys()


def test_weights_have_the_documented_spread_and_norms_are_one(model_folder: Path) -> None:
    weights = {
        n: t.float() for f in model_folder.glob("*.safetensors") for n, t in load_file(f).items()
    }
    for name, weight in weights.items():
        if "norm" in name:
            assert (weight == 1).all()
        else:
            assert weight.std() == pytest.approx(0.02, rel=0.1)
            assert len(weight.unique(dim=0)) == len(weight)
    assert not torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])


def test_matrices_larger_than_the_block_have_no_equal_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_model, "BLOCK_VALUES", 997)  # a prime too
    weights = load_file(make(tmp_path / "small", shard=1_000_000) / "model.safetensors")
    head = weights["lm_head.weight"]
    assert head.numel() > 20 * 997
    assert len(head.unique(dim=0)) == len(head)


def test_weights_depend_on_the_seed_alone(model_folder: Path, tmp_path: Path) -> None:
    def contents(folder: Path) -> list[bytes]:
        return [file.read_bytes() for file in sorted(folder.glob("*.safetensors"))]

    assert contents(make(tmp_path / "same")) == contents(model_folder)
    assert contents(make(tmp_path / "other", seed=1)) != contents(model_folder)


@pytest.mark.parametrize("quantization", ["8bit", "none"])
def test_model_loads_and_computes_finite_logits(model_folder: Path, quantization: str) -> None:
    model = load_model(
        read_model_folder(model_folder), quantization=quantization, device="cpu",
        context_length=None, progress=lambda _: None,
    )  # fmt: skip
    cache = SequenceCache(model.cache_format)
    logits = model.forward([SequenceSlice([1, 5, 300], cache)])
    assert logits.shape == (1, TINY.vocab)
    assert logits.isfinite().all()
    assert logits.std() > 0
    assert (model.shape.num_kv_heads, model.shape.head_dim) == (2, 16)


def test_tokenizer_has_a_token_for_every_row(model_folder: Path) -> None:
    folder = read_model_folder(model_folder)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == TINY.vocab
    assert (tokenizer.eos_id, folder.eos_ids) == (2, frozenset({2}))
    text = "User: hello, 你好\nBot: "
    assert tokenizer.decode(tokenizer.encode([TextSpan(text)])) == text
    assert tokenizer.decode([TINY.vocab - 1]).isalpha()
    assert tokenizer.encode([TextSpan("</s>")]) == [2]


def test_default_geometry_has_the_size_of_the_13b_file() -> None:
    geometry = Geometry()
    assert geometry.nbytes == pytest.approx(26.4e9, rel=0.002)
    assert geometry.tensors()["model.layers.39.mlp.down_proj.weight"] == (5120, 13824)
    assert len(geometry.tensors()) == 40 * 9 + 3


def test_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ModelFolderError, match="already exists and is not empty"):
        make(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert read_model_folder(make(tmp_path / "empty")).nbytes > TINY.nbytes


def test_script_makes_the_model_of_its_flags(start: Start, tmp_path: Path) -> None:
    assert start(random_model, str(tmp_path / "made"), *FLAGS, "--vocab", "300") == 0
    config = read_model_folder(tmp_path / "made").config
    assert (config["hidden_size"], config["num_hidden_layers"]) == (64, 1)
    assert config["num_key_value_heads"] == config["num_attention_heads"] == 4
    assert config["vocab_size"] == 300


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--heads", "7"], "--heads 7 does not divide --hidden 64"),
        (["--kv_heads", "3"], "--kv_heads 3 does not divide --heads 4"),
        (["--heads", "64"], "--hidden 64 gives 64 heads an odd size"),
        (["--vocab", "100"], "--vocab 100 is not from 264 to"),
    ],
)
def test_sizes_that_do_not_belong_together_are_refused(
    refuse: Refuse, words: list[str], message: str, tmp_path: Path
) -> None:
    assert message in refuse(random_model, str(tmp_path / "made"), *FLAGS, *words)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["made", "--layers", "0"], "'0' is not a whole number of at least 1"),
        (["made", "--seed", "-1"], "at least 0"),
        ([], "arguments are required: FOLDER"),
    ],
)
def test_wrong_flags_are_one_sentence(refuse: Refuse, words: list[str], message: str) -> None:
    assert message in refuse(random_model, *words)


def test_geometry_without_layers_is_refused() -> None:
    with pytest.raises(BenchError, match="--layers 0 is less than 1"):
        Geometry(layers=0)
