"""Broken adapters and adapters that are not served: each problem is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.folders.adapter_config import REFUSED
from model.serving.adapter_registry import AdapterRegistry
from tests.model.serving.adapters import (
    BASE,
    DOWN,
    Q,
    pair,
    problem_text,
    scanned_registry,
    sound_tensors,
    write_adapter,
)

# Kinds that are not served

PEFT_VALUES = {  # as peft writes them
    "modules_to_save": ["embed_tokens"],
    "trainable_token_indices": [5],
    "alora_invocation_tokens": [1, 2],
    "layer_replication": [[0, 2]],
    "target_parameters": ["mlp.experts"],
    "use_bdlora": {"nblocks": 2},
    "kasa_config": {"beta": 1e-4},
    "arrow_config": {"top_k": 3},
}


@pytest.mark.parametrize("key", REFUSED)
def test_unserved_kind_is_refused_by_name(key: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", {key: PEFT_VALUES.get(key, True)})
    assert REFUSED[key] in problem_text(tmp_path)


@pytest.mark.parametrize("key", REFUSED)
@pytest.mark.parametrize("off", [None, False, []])
def test_unserved_kind_that_is_off_is_no_fault(key: str, off: Any, tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", {key: off})
    assert scanned_registry(tmp_path).get("poet").ready


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "corda", "loftq"])
def test_adapter_that_changes_its_base_is_refused(init: str, tmp_path: Path) -> None:
    """These kinds change the base: peft takes their first weights out of it, also on loading."""
    write_adapter(tmp_path / "poet", {"init_lora_weights": init})
    assert init.partition("_")[0] in problem_text(tmp_path).lower()


@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal", "eva"])
def test_initialisation_that_does_not_change_the_base_is_no_fault(
    init: Any, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "poet", {"init_lora_weights": init})
    assert scanned_registry(tmp_path).get("poet").ready


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_biases_are_refused(bias: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", {"bias": bias})
    assert "biases" in problem_text(tmp_path)


@pytest.mark.parametrize("kind", ["LOHA", "PROMPT_TUNING", None])
def test_other_kind_of_adapter_is_refused_by_name(kind: str | None, tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", {"peft_type": kind})
    assert f"type is {kind}" in problem_text(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.lm_head.lora_A.weight",
        f"{Q.format(0)}.lora_magnitude_vector",
        f"{Q.format(0)}.lora_B.bias",
        "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight",
    ],
)
def test_weight_that_is_not_served_is_named(name: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", tensors={**sound_tensors(), name: torch.ones(3, 16)})
    assert name in problem_text(tmp_path)


# Layers of its own


def test_own_layer_that_was_not_saved_is_named(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", {"modules_to_save": ["lm_head"]})
    assert "its own lm_head was not saved" in problem_text(tmp_path)


def test_own_layer_of_another_kind_is_named(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", {"modules_to_save": ["lm_head", "norm"]})
    assert "its own norm" in problem_text(tmp_path)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ((BASE.rows + 2, 16), "changes the vocabulary"),
        ((BASE.rows, 24), "belongs to another base"),
        ((BASE.rows * 16,), "belongs to another base"),
    ],
)
def test_own_layer_of_another_size_is_refused(
    tmp_path: Path, size: tuple[int, ...], text: str
) -> None:
    name = "base_model.model.lm_head.weight"
    write_adapter(tmp_path / "poet", {"modules_to_save": ["lm_head"]}, {name: torch.ones(size)})
    assert text in problem_text(tmp_path)


# Weights


def test_missing_weights(tmp_path: Path) -> None:
    (write_adapter(tmp_path / "poet") / "adapter_model.safetensors").unlink()
    assert "no adapter_model.safetensors" in problem_text(tmp_path)


def test_empty_weights(tmp_path: Path) -> None:
    """Old peft wrote such files when the model was wrapped by torch.compile or DeepSpeed."""
    write_adapter(tmp_path / "poet", tensors={})
    assert "empty" in problem_text(tmp_path)


def test_weights_that_change_nothing(tmp_path: Path) -> None:
    zeros = {n: torch.zeros_like(t) if "lora_B" in n else t for n, t in sound_tensors().items()}
    write_adapter(tmp_path / "poet", tensors=zeros)
    assert "lora_B is zero" in problem_text(tmp_path)


def test_one_lora_b_that_is_not_zero_suffices(tmp_path: Path) -> None:
    tensors = sound_tensors()
    tensors[f"{Q.format(0)}.lora_B.weight"].zero_()
    write_adapter(tmp_path / "poet", tensors=tensors)
    assert scanned_registry(tmp_path).get("poet").ready


@pytest.mark.parametrize("side", ["A", "B"])
def test_missing_side_is_named(side: str, tmp_path: Path) -> None:
    tensors = sound_tensors()
    del tensors[f"{DOWN.format(1)}.lora_{side}.weight"]
    write_adapter(tmp_path / "poet", tensors=tensors)
    text = problem_text(tmp_path)
    assert "layer 1 down_proj" in text
    assert "lacks" in text


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        (pair(Q.format(0), 24, 32), ["layer 0 q_proj", "24 -> 32", "16 -> 32"]),
        (pair(Q.format(0), 16, 48), ["layer 0 q_proj", "16 -> 48", "16 -> 32"]),
        (pair(Q.format(2), 16, 32), ["q_proj", "layer 2"]),
        (pair("model.layers.0.mlp.c_fc", 16, 32), ["c_fc", "layer 0"]),
    ],
    ids=["inputs", "outputs", "layers", "module"],
)
def test_adapter_of_another_base_is_refused_with_the_numbers(
    tensors: dict[str, Tensor], named: list[str], tmp_path: Path
) -> None:
    write_adapter(tmp_path / "poet", tensors=tensors)
    text = problem_text(tmp_path)
    assert "another base" in text
    assert [word for word in named if word not in text] == []


def test_sides_of_different_rank_are_refused(tmp_path: Path) -> None:
    tensors = pair(Q.format(0), 16, 32)
    tensors[f"{Q.format(0)}.lora_B.weight"] = torch.ones(32, 5)
    write_adapter(tmp_path / "poet", tensors=tensors)
    assert "layer 0 q_proj" in problem_text(tmp_path)


def test_weights_that_are_no_matrices_are_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", tensors={n: t[0] for n, t in sound_tensors().items()})
    assert "q_proj" in problem_text(tmp_path) or "down_proj" in problem_text(tmp_path)


@pytest.mark.parametrize("length", [0, 4, 100, -1, -200])
def test_torn_weights(length: int, tmp_path: Path) -> None:
    file = write_adapter(tmp_path / "poet") / "adapter_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:length])
    assert "cannot be read" in problem_text(tmp_path)


def test_problem_text_does_not_contain_the_path(tmp_path: Path) -> None:
    file = write_adapter(tmp_path / "poet") / "adapter_model.safetensors"
    file.write_bytes(b"torn")
    assert str(tmp_path) not in problem_text(tmp_path)


def test_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    (path / "adapter_model.safetensors").unlink()
    torch.save({"x": FolderMaker(tmp_path / "sprung")}, path / "adapter_model.bin")
    assert "cannot be read" in problem_text(tmp_path)
    assert not (tmp_path / "sprung").exists()


class FolderMaker:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


# Other files


def test_loop_of_links_is_the_problem_of_that_folder_alone(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet")
    bad = write_adapter(tmp_path / "bad")
    (bad / "linly_adapter.json").symlink_to("linly_adapter.json")
    (bad / "tokenizer.json").symlink_to("tokenizer.json")
    ready = {adapter.name: adapter.ready for adapter in AdapterRegistry(tmp_path, BASE, ()).scan()}
    assert ready["poet"]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00"])
@pytest.mark.parametrize("name", ["adapter_config.json", "linly_adapter.json"])
def test_broken_json(name: str, content: str, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet", card={})
    (path / name).write_text(content)
    assert "cannot be read" in problem_text(tmp_path)


def test_config_without_alpha(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    (path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 3}')
    assert "lora_alpha" in problem_text(tmp_path)


def test_unknown_template_is_named(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", card={"template": "vicuna"})
    assert "'vicuna'" in problem_text(tmp_path)
