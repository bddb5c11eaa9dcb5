"""Conversion of GGUF files: logits as transformers computes them, ids as in the vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentencepiece import SentencePieceProcessor

from model.__main__ import main
from model.engine.kv_cache import SequenceCache
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.layers.llama import SequenceSlice
from model.text.tokenizer import TextSpan
from model.weight_loader import load_model
from tests.model.convert.gguf_files import HEADS, HIDDEN, write
from tests.model.tokenizers import LIKE_LLAMA, write_spm

TEXTS = ["The fox", "  two  spaces ", "你好，世界！", "x = 1\n\n\ty", "👋 emoji"]

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


@pytest.fixture
def spm(tmp_path: Path) -> Path:
    return write_spm(tmp_path / "source.model", **LIKE_LLAMA)


def logits(folder: Path, ids: list[int]) -> torch.Tensor:
    model = load_model(
        read_model_folder(folder), quantization="none", device="cpu", context_length=None,
        progress=lambda share: None,
    )  # fmt: skip
    return model.forward([SequenceSlice(ids, SequenceCache(model.cache_format))])[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
def test_logits_equal_those_of_transformers(kind: str, tmp_path: Path, spm: Path) -> None:
    from transformers import AutoModelForCausalLM, GgufConfig

    source = write(tmp_path / "m.gguf", spm, kind)
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    their_model = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )  # fmt: skip
    ids = [1, 5, 77, 300, 8]
    expected = their_model(torch.tensor([ids])).logits[0, -1]
    exact = kind in ("F32", "F16", "BF16")  # quantised tensors are rounded to bfloat16
    close = torch.allclose(logits(tmp_path / "out", ids), expected, atol=1e-4 if exact else 0.15)
    assert close, (logits(tmp_path / "out", ids) - expected).abs().max()


def test_unquantised_tensors_keep_their_dtype(tmp_path: Path, spm: Path) -> None:
    from model.folders.weights import list_tensors

    for kind, expected in (("F16", "F16"), ("BF16", "BF16"), ("Q8_0", "BF16")):
        out = tmp_path / f"out-{kind}"
        assert main(["convert", str(write(tmp_path / f"{kind}.gguf", spm, kind)), str(out)]) == 0
        found = {t.name: t.dtype for t in list_tensors(out / "model.safetensors")}
        assert found["lm_head.weight"] == expected
        assert found["model.norm.weight"] == "F32"


@pytest.mark.parametrize("prefix", [True, False])
def test_text_gets_the_ids_of_the_source(prefix: bool, tmp_path: Path) -> None:
    """With transformers' own conversion, several spaces get other ids."""
    spm = write_spm(tmp_path / "s.model", **LIKE_LLAMA, add_dummy_prefix=prefix)
    assert main(["convert", str(write(tmp_path / "m.gguf", spm)), str(tmp_path / "out")]) == 0
    folder = read_model_folder(tmp_path / "out")
    tokenizer, source = load_tokenizer(folder), SentencePieceProcessor(model_file=str(spm))
    for text in TEXTS:
        ids = tokenizer.encode([TextSpan(text, control=False)])
        assert ids == source.encode(text)
        assert tokenizer.decode(ids) == source.decode(ids)
    assert (tokenizer.prefix_ids, tokenizer.eos_id, folder.eos_ids) == ((1,), 2, {2})
    assert folder.chat_template == "{{ messages }}"


def test_tied_model_has_no_head(tmp_path: Path, spm: Path) -> None:
    source = write(tmp_path / "m.gguf", spm, tied=True)
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    assert read_model_folder(tmp_path / "out").config["tie_word_embeddings"] is True
    assert logits(tmp_path / "out", [1, 2]).isfinite().all()


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_rope_scaling_of_llama_3_1_is_restored(factor: float, tmp_path: Path, spm: Path) -> None:
    """GGUF has the factors only, not the settings from which they were computed."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    scaling = {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": factor, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(
        hidden_size=HIDDEN, num_attention_heads=HEADS, rope_parameters=scaling,
        max_position_embeddings=131072,
    )  # fmt: skip
    expected = LlamaRotaryEmbedding(config).inv_freq
    unscaled = 10000.0 ** (-torch.arange(0, 16, 2) / 16)

    def add(writer: Any) -> None:
        writer.add_tensor("rope_freqs.weight", (unscaled / expected).numpy())

    source = write(tmp_path / "m.gguf", spm, extra=add)
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    found = LlamaConfig.from_pretrained(tmp_path / "out")
    assert LlamaRotaryEmbedding(found).inv_freq.allclose(expected, rtol=1e-4)


def test_other_rope_factors_are_refused(
    tmp_path: Path, spm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def add(writer: Any) -> None:
        writer.add_tensor("rope_freqs.weight", np.linspace(1, 3, 8, dtype=np.float32))

    source = write(tmp_path / "m.gguf", spm, extra=add)
    assert main(["convert", str(source), str(tmp_path / "out")]) == 1
    assert "rope scaling that is not supported" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_linear_rope_scaling_is_kept(tmp_path: Path, spm: Path) -> None:
    def add(writer: Any) -> None:
        writer.add_string("llama.rope.scaling.type", "linear")
        writer.add_float32("llama.rope.scaling.factor", 4.0)

    source = write(tmp_path / "m.gguf", spm, extra=add)
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    ("architecture", "add", "expected_text"),
    [
        ("qwen2", None, "qwen2"),
        ("llama", lambda w: w.add_expert_count(8), "mixture of experts"),
        (
            "llama",
            lambda w: w.add_tensor("blk.0.unknown.weight", np.zeros(4, np.float32)),
            "unknown",
        ),
    ],
)
def test_other_models_are_refused_by_name(
    architecture: str, add: Any, expected_text: str, tmp_path: Path, spm: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source = write(tmp_path / "m.gguf", spm, extra=add, architecture=architecture)
    assert main(["convert", str(source), str(tmp_path / "out")]) == 1
    error_text = capsys.readouterr().err
    assert expected_text in error_text
    assert "Traceback" not in error_text


@pytest.mark.parametrize(
    "add",
    [
        lambda w: w.add_pad_token_id(4_294_967_295),
        lambda w: w.add_pad_token_id(360),
        lambda w: w.add_key_length(HIDDEN // HEADS),
    ],
)
def test_odd_fields_of_published_files_are_accepted(add: Any, tmp_path: Path, spm: Path) -> None:
    source = write(tmp_path / "m.gguf", spm, extra=add)
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0


def test_old_field_of_linear_rope_scaling_is_supported(tmp_path: Path, spm: Path) -> None:
    def add(writer: Any) -> None:
        writer.add_float32("llama.rope.scale_linear", 4.0)

    source = write(tmp_path / "m.gguf", spm, extra=add)
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    assert read_model_folder(tmp_path / "out").config["rope_scaling"]["factor"] == 4.0


@pytest.mark.parametrize(
    "add",
    [
        lambda w: w.add_tensor("rope_freqs.weight", np.ones(5, np.float32)),
        lambda w: w.add_int32("tokenizer.chat_template.odd", 5),
    ],
)
def test_invalid_metadata_give_no_stack_trace(
    add: Any, tmp_path: Path, spm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "m.gguf", spm, extra=add)
    main(["convert", str(source), str(tmp_path / "out")])
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("keep", [0, 3, 100, 5000, -100])
def test_torn_file_is_reported_in_one_sentence(
    keep: int, tmp_path: Path, spm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "m.gguf", spm)
    source.write_bytes(source.read_bytes()[:keep])
    assert main(["convert", str(source), str(tmp_path / "out")]) == 1
    error_text = capsys.readouterr().err
    assert "m.gguf" in error_text
    assert "Traceback" not in error_text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "source.model"]


def test_option_replaces_the_tokenizer(tmp_path: Path, spm: Path) -> None:
    source = write(tmp_path / "m.gguf", spm)
    assert main(["convert", str(source), str(tmp_path / "out"), "--tokenizer", str(spm)]) == 0
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == spm.read_bytes()
