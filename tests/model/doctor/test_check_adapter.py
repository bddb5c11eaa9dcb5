"""An adapter's folder: each fault has its code, by itself and against its base."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from model.text.prompt import PromptTemplate
from tests.model.tokenizers import LIKE_LLAMA, write_spm
from tests.tiny import TEMPLATE, make_adapter, make_folder, write_tokenizer

Change = Callable[[Path], None]
WEIGHTS = "adapter_model.safetensors"
NOTES = {"adapter_targets"}


@pytest.fixture(scope="module")
def facts(tiny_folder: Path) -> BaseInfo:
    folder = read_model_folder(tiny_folder)
    return read_base_info(folder, "tiny", load_tokenizer(folder))


@pytest.fixture
def adapter(tiny_adapters: Path, tmp_path: Path) -> Path:
    """A sound adapter that tells its template and its base, to be spoilt."""
    path = Path(shutil.copytree(tiny_adapters / "all", tmp_path / "适配器 a"))
    edit(path / "linly_adapter.json", template="linly", base_model="org/tiny")
    return path


def edit(file: Path, **changes: Any) -> None:
    """Change entries of a JSON file; None takes them out."""
    data = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    data = {key: value for key, value in {**data, **changes}.items() if value is not None}
    file.write_text(json.dumps(data), encoding="utf-8")


def check(adapter: Path, base: BaseInfo | None) -> list[Finding]:
    return list(collect_findings(lambda: check_adapter(adapter, base, {"linly"})))


def codes(adapter: Path, base: BaseInfo | None) -> set[str]:
    return {found.code for found in check(adapter, base)} - NOTES


def config(**changes: Any) -> Change:
    return lambda path: edit(path / "adapter_config.json", **changes)


def card(**changes: Any) -> Change:
    return lambda path: edit(path / "linly_adapter.json", **changes)


def weights(change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(path: Path) -> None:
        held = load_file(path / WEIGHTS)
        change(held)
        save_file(held, path / WEIGHTS)

    return apply


def zero(held: dict[str, Any]) -> None:
    for name, tensor in held.items():
        if "lora_B" in name:
            tensor.zero_()


def lost(path: Path) -> None:
    """What old recipes for training write."""
    (path / WEIGHTS).unlink()
    torch.save({}, path / "adapter_model.bin")


def own(rows: int, *names: str) -> Change:
    """Layers of its own, with so many rows."""

    def apply(path: Path) -> None:
        weights(lambda held: held.update(
            {f"base_model.model.model.{name}.weight": torch.ones(rows, 48) for name in names}
        ))(path)  # fmt: skip

    return apply


B = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
FAULTS: list[tuple[str, Change, set[str]]] = [
    ("no config", lambda p: (p / "adapter_config.json").unlink(), {"adapter_file_missing"}),
    ("torn config", lambda p: (p / "adapter_config.json").write_text("{"), {"adapter_unreadable"}),
    ("torn card", lambda p: (p / "linly_adapter.json").write_text("{"), {"adapter_unreadable"}),
    ("no weights", lambda p: (p / WEIGHTS).unlink(), {"adapter_file_missing"}),
    ("torn weights", lambda p: (p / WEIGHTS).write_bytes(b"torn"), {"adapter_unreadable"}),
    ("a pointer of git-lfs", lambda p: (p / WEIGHTS).write_text("version https://git-lfs.github.com"),
     {"lfs_pointer"}),
    ("443 bytes", lost, {"adapter_empty"}),
    ("never trained", weights(zero), {"adapter_zero"}),
    ("half a pair", weights(lambda held: held.pop(B)), {"adapter_half_pair"}),
    ("a vector", weights(lambda held: held.update({B: torch.ones(3)})), {"adapter_no_matrices"}),
    ("diverged", weights(lambda held: held[B].fill_(torch.nan)), {"adapter_not_finite"}),
    ("another weight", weights(lambda held: held.update(odd=torch.ones(3))),
     {"adapter_weight_unknown"}),
    ("another kind", config(peft_type="PREFIX_TUNING"), {"adapter_not_lora"}),
    ("DoRA", config(use_dora=True), {"adapter_kind"}),
    ("biases", config(bias="all"), {"adapter_kind"}),
    ("PiSSA", config(init_lora_weights="pissa"), {"adapter_changes_base"}),
    ("another whole layer", config(modules_to_save=["norm"]), {"adapter_other_layer"}),
    ("a whole layer lost", config(modules_to_save=["lm_head"]), {"adapter_own_missing"}),
    ("no alpha", config(lora_alpha=None), {"alpha_missing"}),
    ("alpha 0", config(lora_alpha=0), {"alpha_unsound"}),
    ("alpha in words", config(lora_alpha="much"), {"alpha_unsound"}),
    ("rank 0", config(r=0), {"rank_unsound"}),
    ("another rank", config(r=4), {"rank_differs"}),
    ("huge alpha", config(lora_alpha=8000), {"scaling_large"}),
    ("another module named", config(target_modules=["q_proj", "query_key_value"]),
     {"target_without_weights"}),
    ("no template", card(template=None), {"template_untold"}),
    ("another template", card(template="odd"), {"template_unknown"}),
    ("another base's name", card(base_model="Llama-2-13b"), {"adapter_base_name"}),
    ("another base", card(fingerprint=[0.1] * 64), {"adapter_other_base"}),
    ("half a vocabulary", own(322, "lm_head"), {"adapter_half_vocabulary"}),
    ("two vocabularies", lambda p: [own(322, "lm_head")(p), own(323, "embed_tokens")(p)],
     {"adapter_half_vocabulary"}),
    ("no tokenizer", own(322, "lm_head", "embed_tokens"), {"adapter_no_tokenizer"}),
    ("another tokenizer", lambda p: [own(322, "lm_head", "embed_tokens")(p), write_tokenizer(p)],
     {"adapter_tokenizer_size"}),
    ("a narrow head", weights(lambda held: held.update(
        {"base_model.model.lm_head.weight": torch.ones(320, 8)})), {"adapter_own_shape"}),
]  # fmt: skip


def test_a_sound_adapter_has_no_problems(adapter: Path, facts: BaseInfo) -> None:
    assert codes(adapter, facts) == set()
    assert codes(adapter, None) == set()


@pytest.mark.parametrize(
    ("change", "expected"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS]
)
def test_every_fault_has_its_code(
    change: Change, expected: set[str], adapter: Path, facts: BaseInfo
) -> None:
    change(adapter)
    assert codes(adapter, facts) == expected
    for one in check(adapter, facts):
        for language in ("en", "zh"):
            assert one.message(language)
            assert one.remedy(language) or one.level == "note"


def test_what_it_changes_is_told(adapter: Path, facts: BaseInfo) -> None:
    (note,) = [found for found in check(adapter, facts) if found.level == "note"]
    assert "14 linear layers in 2 decoder layers" in note.message()
    assert "rank 8" in note.message()


@pytest.mark.parametrize("sizes", [{"hidden_size": 24}, {"num_hidden_layers": 1}])
def test_another_base_is_told_by_its_shapes(
    sizes: dict[str, int], adapter: Path, tmp_path: Path
) -> None:
    folder = read_model_folder(make_folder(tmp_path / "base", **sizes))
    other = read_base_info(folder, "tiny", load_tokenizer(folder))
    assert codes(adapter, other) <= {"adapter_shape", "adapter_no_layer"}
    assert codes(adapter, other)


def test_a_tokenizer_that_cuts_otherwise(adapter: Path, facts: BaseInfo) -> None:
    write_tokenizer(adapter)
    assert codes(adapter, facts) == set()
    (adapter / "tokenizer.json").unlink()
    write_spm(adapter / "tokenizer.model", **LIKE_LLAMA)
    assert codes(adapter, facts) == {"adapter_tokenizer_differs"}


# Where it comes from


@pytest.fixture(scope="module")
def sample(tiny_folder: Path) -> list[float]:
    return fingerprint(read_model_folder(tiny_folder))


def test_the_same_weights_in_another_type_are_the_same(
    sample: list[float], tiny_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "half"))
    held = load_file(folder / "model.safetensors")
    for dtype in (torch.float16, torch.bfloat16):
        save_file({n: t.to(dtype) for n, t in held.items()}, folder / "model.safetensors")
        assert distance(sample, fingerprint(read_model_folder(folder))) < SAME


def test_the_same_weights_in_four_bits_are_related(sample: list[float]) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    values = torch.tensor(sample).numpy()
    four = dequantize(quantize(values, GGMLQuantizationType.Q4_0), GGMLQuantizationType.Q4_0)
    assert SAME < distance(sample, four.tolist()) < RELATED


def test_weights_that_were_trained_apart_are_not(sample: list[float], tmp_path: Path) -> None:
    other = fingerprint(read_model_folder(make_folder(tmp_path / "other", seed=5)))
    assert distance(sample, other) > RELATED
    assert distance(sample, []) > RELATED


def test_a_fingerprint_tells_more_than_a_name(
    adapter: Path, facts: BaseInfo, sample: list[float]
) -> None:
    edit(adapter / "linly_adapter.json", base_model="renamed", fingerprint=sample)
    assert codes(adapter, facts) == set()
    tuned = dataclasses.replace(facts, fingerprint=[1.1 * number for number in sample])
    (found,) = [one for one in check(adapter, tuned) if one.code not in NOTES]
    assert found.code == "adapter_base_changed"
    assert "9%" in found.message()


# What it does


def effect(adapter: Path, base: Path) -> Finding:
    template = PromptTemplate("model", TEMPLATE, "")
    (found,) = measure_effect(adapter, read_model_folder(base), template)
    return found


def test_the_effect_on_a_probe_is_that_of_transformers(adapter: Path, tiny_folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from model.doctor.adapter_effect import QUESTION
    from model.text.prompt import encode_chat
    from model.types import Message

    found = effect(adapter, tiny_folder)
    folder = read_model_folder(tiny_folder)
    template = PromptTemplate("model", TEMPLATE, "")
    prompt = encode_chat([Message("user", QUESTION)], template, load_tokenizer(folder), 500)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    ids = torch.tensor([prompt.ids])
    with torch.inference_mode():
        alone = model(ids).logits[0, -1].double().log_softmax(-1)
        adapted = PeftModel.from_pretrained(model, adapter)(ids).logits[0, -1].double()
    expected = (alone.exp() * (alone - adapted.log_softmax(-1))).sum()
    assert found.code == "adapter_effect"
    assert found.facts["kl"] == pytest.approx(float(expected), rel=1e-3)


def test_an_adapter_that_was_hardly_trained(tiny_folder: Path, tmp_path: Path) -> None:
    path = make_adapter(tiny_folder, tmp_path / "weak", seed=1, r=2, target_modules=["q_proj"])
    weights(lambda held: [t.mul_(1e-4) for n, t in held.items() if "lora_B" in n])(path)
    assert effect(path, tiny_folder).code == "adapter_no_effect"


def test_an_adapter_that_leaves_the_model_undecided(tmp_path: Path) -> None:
    base = make_folder(tmp_path / "sure", initializer_range=1.0)
    path = make_adapter(
        base, tmp_path / "blank", seed=1, r=2, target_modules=["q_proj"],
        modules_to_save=["lm_head"],
    )  # fmt: skip
    weights(lambda held: [t.mul_(1e-3) for n, t in held.items() if "lm_head" in n])(path)
    assert effect(path, base).code == "adapter_wild"
