"""Conversion of Linly's checkpoints: same logits, same tokens, and no incomplete folders."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from torch import Tensor
from torch.nn import functional

from model.__main__ import main
from model.engine.kv_cache import SequenceCache
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.layers.llama import SequenceSlice
from model.text.tokenizer import TextSpan
from model.weight_loader import load_model

HIDDEN, INTERMEDIATE, LAYERS, HEADS = 32, 56, 2, 4
TEXT = ["The tide comes in at noon.", "你好，世界", "a b c d e f g"]

pytestmark = pytest.mark.filterwarnings(
    "ignore:builtin type .* has no __module__ attribute:DeprecationWarning"
)


@pytest.fixture
def spm(tmp_path: Path) -> Path:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 10), model_writer=model, vocab_size=300, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    path = tmp_path / "source.model"
    path.write_bytes(model.getvalue())
    return path


def checkpoint(rows: int) -> dict[str, Tensor]:
    """A random checkpoint in TencentPretrain's names."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    weights = {
        "embedding.word.embedding.weight": random(rows, HIDDEN),
        "encoder.layer_norm.weight": 1 + random(HIDDEN),
        "target.lm.output_layer.weight": random(rows, HIDDEN),
    }
    for n in range(LAYERS):
        prefix = f"encoder.transformer.{n}."
        for i in range(3):
            weights[f"{prefix}self_attn.linear_layers.{i}.weight"] = random(HIDDEN, HIDDEN)
        weights[f"{prefix}self_attn.final_linear.weight"] = random(HIDDEN, HIDDEN)
        weights[f"{prefix}feed_forward.linear_gate.weight"] = random(INTERMEDIATE, HIDDEN)
        weights[f"{prefix}feed_forward.linear_1.weight"] = random(INTERMEDIATE, HIDDEN)
        weights[f"{prefix}feed_forward.linear_2.weight"] = random(HIDDEN, INTERMEDIATE)
        weights[f"{prefix}layer_norm_1.weight"] = 1 + random(HIDDEN)
        weights[f"{prefix}layer_norm_2.weight"] = 1 + random(HIDDEN)
    return weights


def source_logits(w: dict[str, Tensor], ids: list[int]) -> Tensor:
    """An independent forward of TencentPretrain's model, with its rotary embedding over
    neighbouring pairs as complex numbers."""
    size = HIDDEN // HEADS
    frequencies = 1e4 ** (-torch.arange(0, size, 2) / size)
    rotations = torch.polar(torch.ones(()), torch.outer(torch.arange(len(ids)), frequencies))

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * w[name]

    def rotated(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(len(ids), HEADS, -1, 2))
        return torch.view_as_real(pairs * rotations[:, None]).flatten(2).transpose(0, 1)

    x = w["embedding.word.embedding.weight"][ids]
    for n in range(LAYERS):
        p = f"encoder.transformer.{n}."
        y = norm(x, f"{p}layer_norm_1.weight")
        q, k, v = (y @ w[f"{p}self_attn.linear_layers.{i}.weight"].T for i in range(3))
        scores = rotated(q) @ rotated(k).transpose(1, 2) / size**0.5
        scores = scores + torch.full((len(ids), len(ids)), -torch.inf).triu(1)
        mixed = scores.softmax(-1) @ v.reshape(len(ids), HEADS, size).transpose(0, 1)
        x = x + mixed.transpose(0, 1).flatten(1) @ w[f"{p}self_attn.final_linear.weight"].T
        y = norm(x, f"{p}layer_norm_2.weight")
        gate = functional.silu(y @ w[f"{p}feed_forward.linear_gate.weight"].T)
        up = y @ w[f"{p}feed_forward.linear_1.weight"].T
        x = x + (gate * up) @ w[f"{p}feed_forward.linear_2.weight"].T
    return norm(x, "encoder.layer_norm.weight") @ w["target.lm.output_layer.weight"].T


def run(tmp_path: Path, weights: dict[str, Tensor], spm: Path, *flags: str) -> tuple[int, Path]:
    source, folder = tmp_path / "source.bin", tmp_path / "Open-Linly-tiny"
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"heads_num": HEADS}), encoding="utf-8")
    torch.save(weights, source)
    options = ["--tokenizer", str(spm), "--config", str(config), *flags]
    return main(["convert", str(source), str(folder), *options]), folder


def pieces(spm: Path) -> int:
    return int(SentencePieceProcessor(model_file=str(spm)).get_piece_size())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_converted_model_has_the_same_logits_and_tokens(
    dtype: torch.dtype, tmp_path: Path, spm: Path
) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in checkpoint(pieces(spm)).items()}
    status, path = run(tmp_path, weights, spm)
    assert status == 0
    folder = read_model_folder(path)
    tokenizer = load_tokenizer(folder)
    for text in TEXT:
        expected = SentencePieceProcessor(model_file=str(spm)).encode(text)
        assert tokenizer.encode([TextSpan(text)]) == expected
    model = load_model(
        folder, quantization="none", device="cpu", context_length=None, progress=lambda share: None
    )
    ids = tokenizer.encode([TextSpan(TEXT[0])])
    logits = model.forward([SequenceSlice(ids, SequenceCache(model.cache_format))])
    floats = {name: tensor.float() for name, tensor in weights.items()}
    assert torch.allclose(logits[0], source_logits(floats, ids)[-1], atol=1e-4)
    assert folder.config["dtype"] == str(dtype).removeprefix("torch.")


def test_transformers_computes_the_same_logits(tmp_path: Path, spm: Path) -> None:
    from transformers import AutoModelForCausalLM

    weights = checkpoint(pieces(spm))
    _, path = run(tmp_path, weights, spm)
    ids = [1, 5, 77, 200]
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(path)(torch.tensor([ids])).logits[0]
    assert torch.allclose(logits, source_logits(weights, ids), atol=1e-4)


def test_missing_head_means_tied_embeddings(tmp_path: Path, spm: Path) -> None:
    weights = checkpoint(pieces(spm))
    del weights["target.lm.output_layer.weight"]
    status, path = run(tmp_path, weights, spm)
    assert status == 0
    assert read_model_folder(path).config["tie_word_embeddings"] is True


def test_number_of_kv_heads_comes_from_the_shapes(tmp_path: Path, spm: Path) -> None:
    """As LLaMA 2 and 3 have them."""
    weights = checkpoint(pieces(spm))
    for name in weights:
        if "linear_layers.1" in name or "linear_layers.2" in name:
            weights[name] = weights[name][: HIDDEN // 2]
    status, path = run(tmp_path, weights, spm)
    assert status == 0
    assert read_model_folder(path).config["num_key_value_heads"] == HEADS // 2


@pytest.mark.parametrize(
    "name", ["encoder.layer_norm.weight", "encoder.transformer.1.feed_forward.linear_2.weight",
             "encoder.transformer.0.self_attn.linear_layers.1.weight"],
)  # fmt: skip
def test_missing_weight_is_named_in_the_error(
    name: str, tmp_path: Path, spm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = checkpoint(pieces(spm))
    del weights[name]
    status, path = run(tmp_path, weights, spm)
    assert status == 1
    assert name in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize("missing", [1, 2, 8])
def test_rows_without_tokens_are_refused(
    missing: int, tmp_path: Path, spm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only a --config file can declare the last rows as padding."""
    rows = pieces(spm) + missing
    status, path = run(tmp_path, checkpoint(rows), spm)
    assert status == 1
    assert f"{rows} rows but the tokenizer {rows - missing} pieces" in capsys.readouterr().err
    assert not path.exists()


def test_config_file_can_declare_padding(tmp_path: Path, spm: Path) -> None:
    rows = -(-pieces(spm) // 8) * 8 + 8
    torch.save(checkpoint(rows), tmp_path / "source.bin")
    config = tmp_path / "extra_config.json"
    config.write_text(json.dumps({"heads_num": HEADS, "vocab_size": rows}), encoding="utf-8")
    arguments = [str(tmp_path / "source.bin"), str(tmp_path / "out"), "--config", str(config)]
    assert main(["convert", *arguments, "--tokenizer", str(spm)]) == 0
    assert read_model_folder(tmp_path / "out").config["vocab_size"] == rows


@pytest.mark.parametrize(
    ("config", "expected_text"),
    [({}, "cannot be divided into heads of 128"), ({"heads_num": 5}, "divided into heads"),
     ([1], "is not a JSON object"), ("{", "cannot be read")],
)  # fmt: skip
def test_config_file_that_does_not_fit_is_refused(
    config: object,
    expected_text: str,
    tmp_path: Path,
    spm: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(checkpoint(pieces(spm)), tmp_path / "source.bin")
    file = tmp_path / "extra_config.json"
    file.write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    arguments = [str(tmp_path / "source.bin"), str(tmp_path / "out"), "--config", str(file)]
    assert main(["convert", *arguments, "--tokenizer", str(spm)]) == 1
    assert expected_text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", ["safetensors", "nothing"])
def test_interrupted_conversion_is_continued(
    keep: str, tmp_path: Path, spm: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """After Ctrl-C the same command continues; finished files are not written again."""
    from model.folders import weight_writer

    monkeypatch.setattr(
        "model.folders.weight_writer.SHARD_BYTES", 20_000 if keep != "nothing" else 10**9
    )
    write, count = weight_writer._write_values, 0

    def interrupted(*args: Any) -> None:
        nonlocal count
        count += 1
        if count == 12:
            raise KeyboardInterrupt
        write(*args)

    weights = checkpoint(pieces(spm))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_writer, "_write_values", interrupted)
        status, path = run(tmp_path, weights, spm)
    assert status == 1
    error_text = capsys.readouterr().err
    assert ("kept in" if keep != "nothing" else "nothing was left behind") in error_text
    assert not path.exists()
    source = (tmp_path / "source.bin").stat()
    done = {p: p.stat().st_mtime_ns for p in tmp_path.glob(".Open*/*.safetensors")}
    assert bool(done) == (keep != "nothing")
    arguments = [str(tmp_path / "source.bin"), str(path), "--config", str(tmp_path / "config.json")]
    assert main(["convert", *arguments, "--tokenizer", str(spm)]) == 0
    assert (tmp_path / "source.bin").stat().st_mtime_ns == source.st_mtime_ns
    assert all((path / p.name).stat().st_mtime_ns == mtime for p, mtime in done.items())
    assert not list(tmp_path.glob(".Open*"))


def test_large_model_has_several_shards(
    tmp_path: Path, spm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.folders.weight_writer.SHARD_BYTES", 20_000)
    status, path = run(tmp_path, checkpoint(pieces(spm)), spm)
    assert status == 0
    assert len(list(path.glob("model-*.safetensors"))) > 2
    load_model(
        read_model_folder(path), quantization="8bit", device="cpu", context_length=None,
        progress=lambda share: None,
    )  # fmt: skip


def test_tokenizer_that_does_not_fit_leaves_no_folder(
    tmp_path: Path, spm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Meta's 32000 tokens with Linly's rows: replies failed with "piece id is out of range"."""
    status, path = run(tmp_path, checkpoint(pieces(spm) + 18_000), spm)
    assert status == 1
    error_text = capsys.readouterr().err
    assert f"{pieces(spm)} pieces" in error_text
    assert f"{pieces(spm) + 18_000} rows" in error_text
    assert [p.name for p in tmp_path.iterdir() if "Linly" in p.name] == []
    assert not path.exists()


def test_wrong_source_is_reported_in_one_sentence(
    tmp_path: Path, spm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.bin").write_text("no pickle")
    torch.save({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "other.bin")
    for source, expected_text in (
        ("absent.bin", "There is no file or folder"),
        ("text.bin", "it is not a PyTorch file, or it is damaged"),
        ("other.bin", "is not a TencentPretrain LLaMA checkpoint"),
    ):
        flags = ["--tokenizer", str(spm)]
        assert main(["convert", str(tmp_path / source), str(tmp_path / "out"), *flags]) == 1
        error_text = capsys.readouterr().err
        assert expected_text in error_text
        assert "Traceback" not in error_text
        assert not (tmp_path / "out").exists()


def test_existing_files_are_not_overwritten(tmp_path: Path, spm: Path) -> None:
    (tmp_path / "Open-Linly-tiny").mkdir()
    (tmp_path / "Open-Linly-tiny" / "mine.txt").touch()
    status, path = run(tmp_path, checkpoint(pieces(spm)), spm)
    assert status == 1
    assert [p.name for p in path.iterdir()] == ["mine.txt"]


def test_pickle_that_runs_code_is_refused(
    tmp_path: Path, spm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evil.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    flags = ["--tokenizer", str(spm)]
    assert main(["convert", str(tmp_path / "evil.bin"), str(tmp_path / "out"), *flags]) == 1
    assert not Path("pwned").exists()
    assert "Traceback" not in capsys.readouterr().err
