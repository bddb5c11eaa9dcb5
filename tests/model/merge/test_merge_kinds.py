"""Kinds of adapters that are only merged: the merged model computes what peft computes with the
adapter, and every kind whose verdict advises to merge can be merged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.__main__ import main
from model.doctor.check_adapter import check_adapter
from model.doctor.check_base import collect_findings
from model.folders.adapter_kinds import MERGED_ONLY
from model.folders.base_info import read_base_info
from model.folders.model_folder import load_tokenizer, read_model_folder
from tests.model.doctor.changes import Change, change_tensors, edit_json
from tests.tiny_model import make_folder

Capture = pytest.CaptureFixture[str]
IDS = torch.tensor([[1, 5, 77, 300, 8, 12]])
WEIGHTS = "adapter_model.safetensors"
KINDS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True, "rank_pattern": {"up_proj": 2}, "use_rslora": True},
    "tokens": {"trainable_token_indices": [5, 77]},
    "tokens by layer": {"trainable_token_indices": {"embed_tokens": [5], "lm_head": [7, 8]}},
    "velora": {"velora_config": {"num_groups": 4}},
    "parameters": {"target_parameters": ["self_attn.k_proj.weight"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "both": {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "use_rslora": True},
    "tied both": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    "embedding dora": {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True},
    "norm": {"modules_to_save": ["model.norm", "input_layernorm"]},
    "gate": {"modules_to_save": ["gate_proj"]},
    "mlp": {"modules_to_save": ["mlp"]},
    "biases": {"bias": "all"},
    "biases of lora": {"bias": "lora_only"},
}
SERVED: dict[str, dict[str, Any]] = {
    "eva": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
    "layers": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "excluded": {"target_modules": ".*_proj", "exclude_modules": ["layers.0.mlp.up_proj"]},
    "fan in": {"fan_in_fan_out": True},
    "no biases": {"bias": "all"},
    "tied own": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
}

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of peft about what is done on purpose
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("bases")
    return {
        "plain": make_folder(parent / "plain"),
        "tied": make_folder(parent / "tied", tie_word_embeddings=True),
        "biased": make_folder(parent / "biased", attention_bias=True, mlp_bias=True),
    }


def make(base: Path, folder: Path, rows: int | None = None, **lora: Any) -> Tensor:
    """Saves an adapter with random changes of all that it trains; returns peft's logits with it.

    `rows` resizes the vocabulary before the training.
    """
    from peft import LoraConfig, VeloraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    if "velora_config" in lora:
        lora["velora_config"] = VeloraConfig(**lora["velora_config"])
    settings = {"target_modules": ["q_proj", "up_proj"], "r": 4, "lora_alpha": 8, **lora}
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        logits = adapted(IDS).logits
    adapted.save_pretrained(folder)
    return torch.as_tensor(logits)


def merge(base: Path, adapter: Path, out: Path, *flags: str) -> int:
    names = ["--base_model", str(base), "--lora_model", str(adapter), "--output_dir", str(out)]
    return main(["merge", *names, "--dtype", "fp32", *flags])


def logits_of(folder: Path) -> Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return torch.as_tensor(model(IDS).logits)


def problems(adapter: Path, base: Path) -> list[str]:
    """The codes of the errors for which the adapter is not served."""
    folder = read_model_folder(base)
    facts = read_base_info(folder, base.name, load_tokenizer(folder))
    found = collect_findings(lambda: check_adapter(adapter, facts, {"linly"}))
    return [finding.code for finding in found if finding.level == "error"]


@pytest.mark.slow
@pytest.mark.parametrize("base", ["plain", "tied", "biased"])
@pytest.mark.parametrize("kind", KINDS)
def test_merged_kind_computes_what_peft_does(
    kind: str, base: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    if kind.startswith("biases") and base != "biased":
        pytest.skip("trains nothing")
    expected = make(bases[base], tmp_path / "a", **KINDS[kind])
    assert problems(tmp_path / "a", bases[base])[0] in {"adapter_kind", "adapter_other_layer"}
    assert merge(bases[base], tmp_path / "a", tmp_path / "out") == 0
    assert torch.allclose(logits_of(tmp_path / "out"), expected, atol=2e-4)
    assert main(["check", str(tmp_path / "out"), "--deep"]) == 0


def test_every_setting_that_is_only_merged_has_a_test() -> None:
    assert set(MERGED_ONLY) <= {key for kind in KINDS.values() for key in kind}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tokens", "both"])
@pytest.mark.parametrize("base", ["plain", "tied"])
def test_merged_kind_keeps_its_padded_vocabulary(
    kind: str, base: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    expected = make(bases[base], tmp_path / "a", rows=384, **KINDS[kind])
    shutil.copy(bases[base] / "tokenizer.json", tmp_path / "a")
    assert merge(bases[base], tmp_path / "a", tmp_path / "out") == 0
    assert read_model_folder(tmp_path / "out").config["vocab_size"] == 384
    assert torch.allclose(logits_of(tmp_path / "out"), expected, atol=2e-4)


def test_verdict_never_advises_a_merge_that_is_refused(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    """LoRA on the embedding alone, of a vocabulary that was resized: the head was not saved."""
    make(bases["plain"], tmp_path / "a", rows=384, **KINDS["embedding"])
    assert problems(tmp_path / "a", bases["plain"]) == ["adapter_half_vocabulary"]
    assert merge(bases["plain"], tmp_path / "a", tmp_path / "out") == 1


def test_trained_rows_at_half_the_adapter_scale_are_the_average(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    make(bases["plain"], tmp_path / "a", trainable_token_indices=[5, 77])
    assert merge(bases["plain"], tmp_path / "a", tmp_path / "out", "--scale", "0.5") == 0
    before, after = (
        load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
        for folder in (bases["plain"], tmp_path / "out")
    )
    trained = next(
        tensor for name, tensor in load_file(tmp_path / "a" / WEIGHTS).items() if "delta" in name
    )
    assert torch.allclose(after[[5, 77]], (before[[5, 77]] + trained) / 2, atol=1e-6)
    assert after[6].equal(before[6])


@pytest.mark.slow
@pytest.mark.parametrize("base", ["plain", "tied", "biased"])
@pytest.mark.parametrize("kind", SERVED)
def test_kind_that_is_served_is_also_merged_as_peft_does(
    kind: str, base: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    if (kind, base) in {("no biases", "biased"), ("tied own", "plain"), ("tied own", "biased")}:
        pytest.skip("it trains something else")
    expected = make(bases[base], tmp_path / "a", **SERVED[kind])
    assert problems(tmp_path / "a", bases[base]) == []
    assert served_logits(bases[base], tmp_path / "a").allclose(expected[0, -1], atol=2e-4)
    assert merge(bases[base], tmp_path / "a", tmp_path / "out") == 0
    assert torch.allclose(logits_of(tmp_path / "out"), expected, atol=2e-4)


def served_logits(base: Path, adapter: Path | None) -> Tensor:
    """The engine's logits of the next token, unquantized."""
    from model.engine.kv_cache import SequenceCache
    from model.folders import adapter_files
    from model.layers.llama import SequenceSlice
    from model.weight_loader import load_model

    model = load_model(
        read_model_folder(base), quantization="none", device="cpu", context_length=64,
        progress=lambda _: None,
    )  # fmt: skip
    lora = adapter_files.load(adapter, model) if adapter else None
    cache = SequenceCache(model.cache_format)
    return model.forward([SequenceSlice(IDS[0].tolist(), cache, lora)])[0]


def rename(old: str, new: str) -> Change:
    def change(tensors: dict[str, Any]) -> None:
        tensors |= {name.replace(old, new): tensors.pop(name) for name in list(tensors)}

    return change_tensors(WEIGHTS, change)


def shorten(part: str) -> Change:
    """Removes the first row of the tensors with `part` in their names."""
    return change_tensors(
        WEIGHTS, lambda tensors: tensors.update({n: t[1:] for n, t in tensors.items() if part in n})
    )


def without(part: str) -> Change:
    """Removes the tensors with `part` in their names."""

    def change(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if part in name]:
            del tensors[name]

    return change_tensors(WEIGHTS, change)


def config(**changes: Any) -> Change:
    return lambda adapter: edit_json(adapter / "adapter_config.json", **changes)


@pytest.mark.parametrize(
    ("kind", "change", "text"),
    [
        ("norm", rename("model.norm", "model.score"), "the base has no model.score"),
        ("gate", rename("mlp.gate_proj", "mlp.c_fc"), "the base has no model.layers.0.mlp.c_fc"),
        ("gate", shorten("gate"), "mlp.gate_proj has the shape"),
        ("tokens", config(trainable_token_indices=[5]), "the 2 trained rows"),
        ("tokens", config(trainable_token_indices=[5, 320]), "the 2 trained rows"),
        ("tokens", config(trainable_token_indices=[5, -1]), "the 2 trained rows"),
        ("tokens", config(trainable_token_indices=[5, "6"]), "the 2 trained rows"),
        ("tokens", shorten("delta"), "the 1 trained rows"),
        ("dora", shorten("magnitude"), "DoRA has the shape"),
        ("dora", without("magnitude"), "matrices lora_A, lora_B, lora_magnitude_vector"),
        ("head", shorten("lm_head.lora_B"), "lm_head LoRA has the shape"),
        ("head", without("lm_head.lora_A"), "matrices lora_A, lora_B"),
        ("embedding", shorten("embedding_A"), "embed_tokens LoRA has the shape"),
        ("biases", rename("q_proj.base_layer", "q_proj.c_fc"), "has no model.layers.0.self_attn"),
        ("norm", rename("model.norm", "norm"), "weight that is not supported"),
        ("dora", config(exclude_modules=["up_proj"]), "exclude_modules"),
        ("dora", config(init_lora_weights="lora_ga"), "lora_ga"),
        ("dora", config(use_bdlora={"nblocks": 2}), "uses BD-LoRA"),
    ],
)  # fmt: skip
def test_adapter_that_does_not_fit_is_refused_before_writing_and_not_advised_to_be_merged(
    kind: str, change: Change, text: str, bases: dict[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    base = bases["biased" if kind == "biases" else "plain"]
    make(base, tmp_path / "a", **KINDS[kind])
    change(tmp_path / "a")
    assert not {"adapter_kind", "adapter_other_layer"} & set(problems(tmp_path / "a", base))
    capsys.readouterr()  # progress of transformers
    assert merge(base, tmp_path / "a", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert text in line
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_merge_imports_no_module_that_the_adapter_names(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """peft imports what `megatron_core` names."""
    (tmp_path / "planted.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    make(bases["plain"], tmp_path / "a")
    config(megatron_config={"a": 1}, megatron_core="planted")(tmp_path / "a")
    assert merge(bases["plain"], tmp_path / "a", tmp_path / "out") == 0
