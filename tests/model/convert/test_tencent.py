"""Linly's checkpoints to model folders: same logits, same tokens, and never half a folder."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from torch import Tensor
from torch.nn import functional

from model.__main__ import main
from model.engine.kv_cache import SequenceCache
from model.folder import load_tokenizer, read_model_folder
from model.layers.llama import Span
from model.loading import load_model
from model.tokenizer import Run

HIDDEN, WIDE, LAYERS, HEADS = 32, 56, 2, 4
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
        weights[f"{prefix}feed_forward.linear_gate.weight"] = random(WIDE, HIDDEN)
        weights[f"{prefix}feed_forward.linear_1.weight"] = random(WIDE, HIDDEN)
        weights[f"{prefix}feed_forward.linear_2.weight"] = random(HIDDEN, WIDE)
        weights[f"{prefix}layer_norm_1.weight"] = 1 + random(HIDDEN)
        weights[f"{prefix}layer_norm_2.weight"] = 1 + random(HIDDEN)
    return weights


def source_logits(w: dict[str, Tensor], ids: list[int]) -> Tensor:
    """The source's own forward, with its rotary embedding over neighbouring pairs as complex
    numbers; written apart from the project's."""
    size = HIDDEN // HEADS
    frequencies = 1e4 ** (-torch.arange(0, size, 2) / size)
    turns = torch.polar(torch.ones(()), torch.outer(torch.arange(len(ids)), frequencies))

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * w[name]

    def turned(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(len(ids), HEADS, -1, 2))
        return torch.view_as_real(pairs * turns[:, None]).flatten(2).transpose(0, 1)

    x = w["embedding.word.embedding.weight"][ids]
    for n in range(LAYERS):
        p = f"encoder.transformer.{n}."
        y = norm(x, f"{p}layer_norm_1.weight")
        q, k, v = (y @ w[f"{p}self_attn.linear_layers.{i}.weight"].T for i in range(3))
        scores = turned(q) @ turned(k).transpose(1, 2) / size**0.5
        scores = scores + torch.full((len(ids), len(ids)), -torch.inf).triu(1)
        mixed = scores.softmax(-1) @ v.reshape(len(ids), HEADS, size).transpose(0, 1)
        x = x + mixed.transpose(0, 1).flatten(1) @ w[f"{p}self_attn.final_linear.weight"].T
        y = norm(x, f"{p}layer_norm_2.weight")
        gate = functional.silu(y @ w[f"{p}feed_forward.linear_gate.weight"].T)
        up = y @ w[f"{p}feed_forward.linear_1.weight"].T
        x = x + (gate * up) @ w[f"{p}feed_forward.linear_2.weight"].T
    return norm(x, "encoder.layer_norm.weight") @ w["target.lm.output_layer.weight"].T


def run(tmp_path: Path, weights: dict[str, Tensor], spm: Path, *more: str) -> tuple[int, Path]:
    source, folder = tmp_path / "source.bin", tmp_path / "Open-Linly-tiny"
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"heads_num": HEADS}), encoding="utf-8")
    torch.save(weights, source)
    flags = ["--tokenizer", str(spm), "--config", str(config), *more]
    return main(["convert", str(source), str(folder), *flags]), folder


def pieces(spm: Path) -> int:
    return int(SentencePieceProcessor(model_file=str(spm)).get_piece_size())


def test_the_logits_and_the_tokens_are_the_sources(tmp_path: Path, spm: Path) -> None:
    weights = checkpoint(pieces(spm))
    status, path = run(tmp_path, weights, spm)
    assert status == 0
    folder = read_model_folder(path)
    tokenizer = load_tokenizer(folder)
    for text in TEXT:
        expected = SentencePieceProcessor(model_file=str(spm)).encode(text)
        assert tokenizer.encode([Run(text)]) == expected
    model = load_model(
        folder, quantization="none", device="cpu", context_length=None, progress=lambda share: None
    )
    ids = tokenizer.encode([Run(TEXT[0])])
    logits = model.forward([Span(ids, SequenceCache(model.cache_format))])
    assert torch.allclose(logits[0], source_logits(weights, ids)[-1], atol=1e-4)


def test_several_shards(tmp_path: Path, spm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.weight_writer.SHARD_BYTES", 20_000)
    status, path = run(tmp_path, checkpoint(pieces(spm)), spm)
    assert status == 0
    assert len(list(path.glob("model-*.safetensors"))) > 2
    load_model(
        read_model_folder(path), quantization="8bit", device="cpu", context_length=None,
        progress=lambda share: None,
    )  # fmt: skip


def test_a_tokenizer_that_does_not_fit_leaves_nothing(
    tmp_path: Path, spm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ "piece id is out of range": Meta's 32000 pieces with Linly's rows."""
    status, path = run(tmp_path, checkpoint(pieces(spm) + 18_000), spm)
    assert status == 1
    said = capsys.readouterr().err
    assert f"{pieces(spm)} pieces" in said
    assert f"{pieces(spm) + 18_000} rows" in said
    assert [p.name for p in tmp_path.iterdir() if "Linly" in p.name] == []
    assert not path.exists()


def test_wrong_sources_are_one_sentence(
    tmp_path: Path, spm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.bin").write_text("no pickle")
    torch.save({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "other.bin")
    for source, says in (
        ("absent.bin", "There is no file or folder"),
        ("text.bin", "it is no PyTorch file, or torn"),
        ("other.bin", "is no TencentPretrain LLaMA checkpoint"),
    ):
        flags = ["--tokenizer", str(spm)]
        assert main(["convert", str(tmp_path / source), str(tmp_path / "out"), *flags]) == 1
        said = capsys.readouterr().err
        assert says in said
        assert "Traceback" not in said
        assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path: Path, spm: Path) -> None:
    (tmp_path / "Open-Linly-tiny").mkdir()
    (tmp_path / "Open-Linly-tiny" / "mine.txt").touch()
    status, path = run(tmp_path, checkpoint(pieces(spm)), spm)
    assert status == 1
    assert [p.name for p in path.iterdir()] == ["mine.txt"]


def test_a_pickle_that_runs_code_is_refused(
    tmp_path: Path, spm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evil.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    flags = ["--tokenizer", str(spm)]
    assert main(["convert", str(tmp_path / "evil.bin"), str(tmp_path / "out"), *flags]) == 1
    assert not Path("pwned").exists()
    assert "Traceback" not in capsys.readouterr().err
