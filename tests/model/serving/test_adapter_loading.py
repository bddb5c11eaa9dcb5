"""Good adapters: their names, templates and weights are read as peft wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config.settings import CHECKOUT
from model.layers.linear import FloatLinear, Linear
from model.layers.lora import FloatPair
from model.serving.adapter_registry import AdapterRegistry
from tests.model.serving.adapters import (
    BASE,
    DOWN,
    OWN_LAYERS,
    OWN_LAYERS_CONFIG,
    PairMaker,
    Q,
    load_lora,
    pair,
    scanned_registry,
    sound_tensors,
    write_adapter,
)


def test_good_adapter_is_ready(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", card={"template": "linly", "description": "诗人"})
    adapter = scanned_registry(tmp_path).get("poet")
    assert adapter.ready
    assert (adapter.name, adapter.path) == ("poet", tmp_path / "poet")
    assert (adapter.template, adapter.description) == ("linly", "诗人")
    assert len(adapter.digest) == 64


def test_adapter_without_card_has_neither_template_nor_description(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet")
    adapter = scanned_registry(tmp_path).get("poet")
    assert (adapter.template, adapter.description) == (None, "")


def test_weights_of_a_good_adapter_are_loaded(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet")
    lora = load_lora(scanned_registry(tmp_path), "poet")
    assert set(lora.pairs) == {(0, "q_proj"), (1, "down_proj")}
    tensors = sound_tensors()
    loaded = lora.pairs[1, "down_proj"]
    assert isinstance(loaded, FloatPair)
    assert torch.equal(loaded.a, tensors[f"{DOWN.format(1)}.lora_A.weight"])
    assert torch.equal(loaded.b, tensors[f"{DOWN.format(1)}.lora_B.weight"])
    assert loaded.scaling == 2.0
    assert lora.nbytes == 4 * sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.removeprefix("base_model.model."),
        lambda name: name.replace("lora_A", "lora_A.default").replace("lora_B", "lora_B.default"),
    ],
    ids=["without base_model", "with default"],
)
def test_older_names_of_weights_are_understood(rename: Any, tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", tensors={rename(n): t for n, t in sound_tensors().items()})
    assert len(load_lora(scanned_registry(tmp_path), "poet").pairs) == 2


def test_pytorch_weights_are_understood(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    (path / "adapter_model.safetensors").unlink()
    torch.save(sound_tensors(), path / "adapter_model.bin")
    assert len(load_lora(scanned_registry(tmp_path), "poet").pairs) == 2


def test_every_linear_layer_may_be_changed(tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for name, shape in BASE.tensors.items():
        if "layers.1." in name and len(shape) == 2:
            module = name.removesuffix(".weight")
            tensors |= pair(f"base_model.model.{module}", shape[1], shape[0])
    write_adapter(tmp_path / "poet", tensors=tensors)
    assert len(load_lora(scanned_registry(tmp_path), "poet").pairs) == 7


def test_without_a_base_shapes_are_not_checked(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", tensors=pair(Q.format(30), 4096, 4096))
    (adapter,) = AdapterRegistry(tmp_path, None, ()).scan()
    assert adapter.ready


def test_adapters_of_the_project_are_sound() -> None:
    folder = CHECKOUT / "adapters"
    adapters = AdapterRegistry(folder, None, ("model", "linly")).scan()
    assert [(a.name, a.problem) for a in adapters] == [
        ("json", None),
        ("lighthouse", None),
        ("xiaodeng", None),
    ]


# Layers of its own


class LayerMaker(PairMaker):
    """A LoraMaker for adapters with layers of their own."""

    def make_layer(self, weight: Tensor) -> Linear:
        layer = FloatLinear(weight.shape[1], weight.shape[0], torch.float32, "cpu")
        layer.put(0, weight)
        return layer


def test_own_embedding_and_head_are_loaded(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", OWN_LAYERS_CONFIG, {**sound_tensors(), **OWN_LAYERS})
    lora = load_lora(scanned_registry(tmp_path), "poet", LayerMaker())
    plain = scanned_registry(write_adapter(tmp_path / "o" / "plain").parent)
    assert lora.embedding
    assert lora.head
    ids = torch.tensor([3])
    assert (lora.embedding.rows(ids).mean(), lora.head.rows(ids).mean()) == (1, 2)
    plain_nbytes = load_lora(plain, "plain", LayerMaker()).nbytes
    assert lora.nbytes - plain_nbytes == sum(weight.nbytes for weight in OWN_LAYERS.values())


def test_own_layers_alone_are_an_adapter(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", OWN_LAYERS_CONFIG, OWN_LAYERS)
    assert scanned_registry(tmp_path).get("poet").ready
