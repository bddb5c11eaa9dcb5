"""Checks of an adapter's folder, without and against its base: each fault has its code."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.diagnostics import Finding
from model.doctor.adapter_effect import measure_effect
from model.doctor.check_adapter import check_adapter
from model.doctor.check_base import collect_findings
from model.folders.base_info import BaseInfo, read_base_info
from model.folders.fingerprint import RELATED, SAME, distance, fingerprint
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.text.prompt_template import PromptTemplate
from tests.model.doctor.adapter_faults import FAULTS, NO_FAULTS, weights
from tests.model.doctor.changes import edit_json
from tests.model.tokenizers import LIKE_LLAMA, write_spm
from tests.tiny_model import TEMPLATE, make_adapter, make_folder, write_tokenizer

NOTES = {"adapter_targets"}


@pytest.fixture(scope="module")
def facts(tiny_folder: Path) -> BaseInfo:
    folder = read_model_folder(tiny_folder)
    return read_base_info(folder, "tiny", load_tokenizer(folder))


@pytest.fixture
def adapter(tiny_adapters: Path, tmp_path: Path) -> Path:
    """A sound adapter whose card has its template and its base, to be damaged."""
    path = Path(shutil.copytree(tiny_adapters / "all", tmp_path / "适配器 a"))
    edit_json(path / "linly_adapter.json", template="linly", base_model="org/tiny")
    return path


def check(adapter: Path, base: BaseInfo | None) -> list[Finding]:
    return list(collect_findings(lambda: check_adapter(adapter, base, {"linly"})))


def codes(adapter: Path, base: BaseInfo | None) -> set[str]:
    return {finding.code for finding in check(adapter, base)} - NOTES


def test_a_sound_adapter_has_no_problems(adapter: Path, facts: BaseInfo) -> None:
    assert codes(adapter, facts) == set()
    assert codes(adapter, None) == set()


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_has_its_code(name: str, adapter: Path, facts: BaseInfo) -> None:
    fault = FAULTS[name]
    fault.change(adapter)
    assert codes(adapter, facts) == {fault.code}
    (result,) = [finding for finding in check(adapter, facts) if finding.code == fault.code]
    assert [part for part in fault.named if part not in result.message()] == []
    for language in ("en", "zh"):
        assert result.message(language)
        assert result.remedy(language)
        assert "\n" not in result.message(language) + result.remedy(language)
        assert str(adapter) not in result.message(language)  # a visitor reads it
    assert not (adapter / "sprung").exists()  # no code of the folder has run


@pytest.mark.parametrize("name", NO_FAULTS)
def test_change_that_is_no_fault(name: str, adapter: Path, facts: BaseInfo) -> None:
    NO_FAULTS[name](adapter)
    assert codes(adapter, facts) == set()


def test_note_lists_the_changed_layers(adapter: Path, facts: BaseInfo) -> None:
    (note,) = [finding for finding in check(adapter, facts) if finding.level == "note"]
    assert "14 linear layers in 2 decoder layers" in note.message()
    assert "rank 8" in note.message()


@pytest.mark.parametrize("sizes", [{"hidden_size": 24}, {"num_hidden_layers": 1}])
def test_another_base_is_found_by_its_shapes(
    sizes: dict[str, int], adapter: Path, tmp_path: Path
) -> None:
    folder = read_model_folder(make_folder(tmp_path / "base", **sizes))
    other = read_base_info(folder, "tiny", load_tokenizer(folder))
    assert codes(adapter, other) <= {"adapter_shape", "adapter_no_layer"}
    assert codes(adapter, other)


def test_tokenizer_with_other_ids_is_a_finding(adapter: Path, facts: BaseInfo) -> None:
    write_tokenizer(adapter)
    assert codes(adapter, facts) == set()
    (adapter / "tokenizer.json").unlink()
    write_spm(adapter / "tokenizer.model", **LIKE_LLAMA)
    assert codes(adapter, facts) == {"adapter_tokenizer_differs"}


# Fingerprints


@pytest.fixture(scope="module")
def sample(tiny_folder: Path) -> list[float]:
    return fingerprint(read_model_folder(tiny_folder))


def test_fingerprint_of_another_dtype_is_the_same(
    sample: list[float], tiny_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "half"))
    tensors = load_file(folder / "model.safetensors")
    for dtype in (torch.float16, torch.bfloat16):
        save_file({n: t.to(dtype) for n, t in tensors.items()}, folder / "model.safetensors")
        assert distance(sample, fingerprint(read_model_folder(folder))) < SAME


def test_fingerprint_of_four_bits_is_related(sample: list[float]) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    values = torch.tensor(sample).numpy()
    four = dequantize(quantize(values, GGMLQuantizationType.Q4_0), GGMLQuantizationType.Q4_0)
    assert SAME < distance(sample, four.tolist()) < RELATED


def test_fingerprint_of_other_weights_is_not_related(sample: list[float], tmp_path: Path) -> None:
    other = fingerprint(read_model_folder(make_folder(tmp_path / "other", seed=5)))
    assert distance(sample, other) > RELATED
    assert distance(sample, []) > RELATED


def test_fingerprint_has_precedence_over_the_name(
    adapter: Path, facts: BaseInfo, sample: list[float]
) -> None:
    edit_json(adapter / "linly_adapter.json", base_model="renamed", fingerprint=sample)
    assert codes(adapter, facts) == set()
    tuned = dataclasses.replace(facts, fingerprint=[1.1 * number for number in sample])
    (result,) = [finding for finding in check(adapter, tuned) if finding.code not in NOTES]
    assert result.code == "adapter_base_changed"
    assert "9%" in result.message()


# The measured effect


def effect(adapter: Path, base: Path) -> Finding:
    template = PromptTemplate("model", TEMPLATE, "")
    (result,) = measure_effect(adapter, read_model_folder(base), template)
    return result


def test_measured_effect_equals_that_of_transformers(adapter: Path, tiny_folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from model.doctor.adapter_effect import QUESTION
    from model.text.prompt import encode_chat
    from model.types import Message

    result = effect(adapter, tiny_folder)
    folder = read_model_folder(tiny_folder)
    template = PromptTemplate("model", TEMPLATE, "")
    prompt = encode_chat([Message("user", QUESTION)], template, load_tokenizer(folder), 500)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    ids = torch.tensor([prompt.ids])
    with torch.inference_mode():
        without = model(ids).logits[0, -1].double().log_softmax(-1)
        adapted = PeftModel.from_pretrained(model, adapter)(ids).logits[0, -1].double()
    expected = (without.exp() * (without - adapted.log_softmax(-1))).sum()
    assert result.code == "adapter_effect"
    assert result.facts["kl"] == pytest.approx(float(expected), rel=1e-3)


def test_adapter_with_tiny_weights_has_no_effect(tiny_folder: Path, tmp_path: Path) -> None:
    path = make_adapter(tiny_folder, tmp_path / "weak", seed=1, r=2, target_modules=["q_proj"])
    weights(lambda tensors: [t.mul_(1e-4) for n, t in tensors.items() if "lora_B" in n])(path)
    assert effect(path, tiny_folder).code == "adapter_no_effect"


def test_adapter_with_a_flat_distribution_is_reported(tmp_path: Path) -> None:
    base = make_folder(tmp_path / "certain", initializer_range=1.0)
    path = make_adapter(
        base, tmp_path / "flat", seed=1, r=2, target_modules=["q_proj"],
        modules_to_save=["lm_head"],
    )  # fmt: skip
    weights(lambda tensors: [t.mul_(1e-3) for n, t in tensors.items() if "lm_head" in n])(path)
    assert effect(path, base).code == "adapter_wild"
