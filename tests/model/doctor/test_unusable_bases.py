"""Bases that are quantized already, or not complete: each is named for what it is, once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.__main__ import main
from model.errors import ModelFolderError
from model.folders.model_folder import ModelFolder, read_model_folder
from tests.model.doctor.changes import change_tensors, edit_json
from tests.model.doctor.test_check_base import check
from tests.tiny_model import make_folder

WEIGHTS = "model.safetensors"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "base"))


def pack(folder: Path, suffix: str, dtype: torch.dtype = torch.int32) -> None:
    """Replaces the linear layers by what packed ones leave."""

    def change(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if "_proj" in name]:
            tensors[name.removesuffix(".weight") + suffix] = torch.zeros(8, 6, dtype=dtype)
            del tensors[name]

    change_tensors(WEIGHTS, change)(folder)


def errors(folder: Path) -> list[tuple[str, str]]:
    """(code, message and remedy) of each error."""
    return [(f.code, f.full()) for f in check(folder) if f.level == "error"]


@pytest.mark.parametrize(
    ("config", "kind", "remedy"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq", "vLLM"),
        ({"quant_method": "awq", "bits": 4}, "awq", "vLLM"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", "-bnb-4bit"),
        ({"load_in_8bit": True}, "bitsandbytes", "dequantize()"),
        ({"quant_method": "fp8"}, "fp8", "vLLM"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors", "vLLM"),
        ({"quant_method": "mxfp4"}, "mxfp4", "vLLM"),
        *(({"quant_method": kind}, kind, "16-bit model") for kind in (
            "hqq", "aqlm", "quanto", "torchao", "exl2", "vptq", "eetq", "auto-round", "bitnet",
        )),
        ({"group_size": 64, "bits": 4}, "MLX", "--dequantize"),
        ({"bits": 3}, "unknown", "16-bit model"),
        ("odd", "unknown", "16-bit model"),
        ({"quant_method": ["gptq"]}, "unknown", "16-bit model"),
    ],
)  # fmt: skip
def test_quantized_base_is_named_with_a_remedy_for_its_kind(
    config: Any, kind: str, remedy: str, folder: Path
) -> None:
    pack(folder, ".qweight")
    edit_json(folder / "config.json", quantization_config=config)
    ((code, text),) = errors(folder)
    assert code.startswith("quantized")
    assert f"({kind})" in text
    assert remedy in text
    with pytest.raises(ModelFolderError, match="already quantized"):
        read_model_folder(folder)


@pytest.mark.parametrize("key", ["compression_config", "quantization"])
def test_older_settings_tell_it_too(key: str, folder: Path) -> None:
    pack(folder, ".weight_packed")
    edit_json(folder / "config.json", **{key: {"group_size": 64, "bits": 4}})
    assert errors(folder)[0][0].startswith("quantized")


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("quantize_config.json", "{}", "gptq"),
        ("quant_config.json", '{"quant_method": "AWQ"}', "awq"),
        ("hf_quant_config.json", "[", "modelopt"),
    ],
)
def test_file_beside_the_weights_tells_it_too(
    name: str, content: str, kind: str, folder: Path
) -> None:
    (folder / name).write_text(content)
    ((code, text),) = errors(folder)
    assert code == "quantized"
    assert f"({kind})" in text


@pytest.mark.parametrize("suffix", [".qweight", ".weight_packed", ".W_q", ".SCB", ".weight_scale"])
def test_packed_tensors_without_a_setting_are_one_error(suffix: str, folder: Path) -> None:
    pack(folder, suffix)
    ((code, text),) = errors(folder)
    assert (code, "(unknown)" in text) == ("quantized", True)


def test_plain_weights_with_the_setting_are_named_and_the_remedy_works(folder: Path) -> None:
    edit_json(folder / "config.json", quantization_config={"load_in_4bit": True})
    ((code, text),) = errors(folder)
    assert code == "quantized_in_name_only"
    assert "Remove quantization_config" in text
    edit_json(folder / "config.json", quantization_config=None)
    assert errors(folder) == []


def test_model_server_may_have_a_quantized_base(folder: Path) -> None:
    edit_json(folder / "config.json", quantization_config={"quant_method": "gptq"})
    (folder / WEIGHTS).unlink()
    assert ModelFolder(folder, needs_weights=False).config["vocab_size"] == 320


@pytest.mark.slow
def test_dequantized_bitsandbytes_is_served(tmp_path: Path) -> None:
    """The remedy that the error names."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    base = make_folder(tmp_path / "base", hidden_size=64, intermediate_size=128,
                       num_attention_heads=4)  # fmt: skip
    config = BitsAndBytesConfig(load_in_4bit=True)
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config)
    model.save_pretrained(tmp_path / "packed")
    shutil.copy(base / "tokenizer.json", tmp_path / "packed")
    assert errors(tmp_path / "packed")[0][0] == "quantized_bitsandbytes"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "packed").dequantize()
    again.save_pretrained(tmp_path / "plain", save_original_format=False)
    shutil.copy(base / "tokenizer.json", tmp_path / "plain")
    assert errors(tmp_path / "plain") == []


# Folders that are not complete


def put(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")

    return apply


INCOMPLETE = [
    ("global_step500/mp_rank_00_model_states.pt", "weights_in_zero", "zero_to_fp32.py"),
    ("mp_rank_00_model_states.pt", "weights_in_zero_step", "zero_to_fp32.py"),
    ("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "weights_in_zero_step", "zero_to_fp32.py"),
    ("pytorch_model_fsdp_0/__0_0.distcp", "weights_in_fsdp", "accelerate merge-weights"),
    ("__0_0.distcp", "weights_in_fsdp", "accelerate merge-weights"),
    ("pytorch_model_fsdp.bin", "weights_fsdp_file", "pytorch_model_fsdp.bin"),
    ("model.safetensors.part", "download_unfinished", "again"),
    (".cache/huggingface/download/abc.incomplete", "download_unfinished", "again"),
]


@pytest.mark.parametrize(("name", "code", "words"), INCOMPLETE)
@pytest.mark.parametrize("with_config", [True, False])
def test_remains_in_place_of_weights_are_named(
    name: str, code: str, words: str, with_config: bool, folder: Path, capsys: Capture
) -> None:
    (folder / WEIGHTS).unlink()
    if not with_config:
        (folder / "config.json").unlink()
    put(name)(folder)
    ((found, text),) = errors(folder)
    assert found == code
    assert words in text
    assert main(["convert", str(folder), str(folder.parent / "out")]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("model-00001-of-00002.safetensors", "model.safetensors.index.json"),
        ("pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"),
    ],
)
def test_missing_index_is_named(name: str, index: str, folder: Path) -> None:
    """The weights were called missing, though only their index is."""
    (folder / WEIGHTS).rename(folder / name)
    ((code, text),) = errors(folder)
    assert code == "weight_index_missing"
    assert f"Download {index}" in text


def test_checkpoint_of_a_training_without_configuration_is_no_other_format(folder: Path) -> None:
    (folder / "config.json").unlink()
    put("training_args.bin")(folder)
    put("tokenizer.model")(folder)
    assert [code for code, _ in errors(folder)] == ["file_missing"]


def test_folder_of_checkpoints_names_the_last(folder: Path, tmp_path: Path) -> None:
    for step in (500, 1000, 90):
        put(f"checkpoint-{step}/trainer_state.json")(tmp_path / "run")
    ((code, text),) = errors(tmp_path / "run")
    assert code == "checkpoints_inside"
    assert "checkpoint-1000" in text


def test_weights_that_were_not_gathered_are_one_error(folder: Path) -> None:
    """ZeRO-3 leaves tensors of size 0."""

    def empty(tensors: dict[str, Any]) -> None:
        tensors |= {name: torch.zeros(0) for name in tensors if "norm" not in name}

    change_tensors(WEIGHTS, empty)(folder)
    ((code, text),) = errors(folder)
    assert code == "weights_not_gathered"
    assert "ZeRO-3" in text


def test_adapter_in_a_checkpoint_is_named(tiny_adapters: Path, tmp_path: Path) -> None:
    from model.doctor.check_adapter import check_adapter
    from model.errors import AdapterError

    adapter = Path(shutil.copytree(tiny_adapters / "qv", tmp_path / "a"))
    (adapter / "adapter_model.safetensors").unlink()
    put("global_step10/zero_pp_rank_0.pt")(adapter)
    with pytest.raises(AdapterError, match="checkpoint global_step10"):
        list(check_adapter(adapter, None, {"linly"}))
