"""The registry: a good adapter serves, and each fault of another is named beside it."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from model.config.settings import CHECKOUT
from model.errors import AdapterError, UnknownModelError
from model.folders.adapter_files import REFUSED, scaling
from model.folders.base_info import BaseInfo
from model.folders.tensor_schema import expected_tensors
from model.layers.linear import FloatLinear, Linear
from model.layers.lora import FloatPair, Lora, LoraMaker
from model.serving.adapter_registry import Adapter, AdapterRegistry

SIZES = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True,
}  # fmt: skip
BASE = BaseInfo("tiny", expected_tensors(SIZES))
CONFIG = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["q_proj"]}
Q = "base_model.model.model.layers.{}.self_attn.q_proj"
DOWN = "base_model.model.model.layers.{}.mlp.down_proj"


def pair(module: str, inputs: int, outputs: int, rank: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(len(module) + inputs)
    return {
        f"{module}.lora_A.weight": torch.randn(rank, inputs),
        f"{module}.lora_B.weight": torch.randn(outputs, rank),
    }


def good() -> dict[str, Tensor]:
    """q_proj of layer 0 and down_proj of layer 1, as they belong to BASE."""
    return {**pair(Q.format(0), 16, 32), **pair(DOWN.format(1), 40, 16)}


def write_adapter(
    path: Path,
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    card: Any = None,
) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
    save_file(dict(good() if tensors is None else tensors), path / "adapter_model.safetensors")
    if card is not None:
        (path / "linly_adapter.json").write_text(json.dumps(card), encoding="utf-8")
    return path


class Maker:
    """Takes pairs as they are; these adapters bring no layers of their own."""

    def make_lora_pair(self, a: Tensor, b: Tensor, scaling: float) -> FloatPair:
        return FloatPair(a, b, scaling)

    def make_layer(self, weight: Tensor) -> Linear:
        raise AssertionError("this adapter brings no layers of its own")


def load(found: AdapterRegistry, name: str, maker: LoraMaker | None = None) -> Lora:
    return found.load(name, found.get(name).digest, maker or Maker())


def touch(path: Path) -> None:
    """Give a file another time, as if it had been written again later."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))


def registry(folder: Path, templates: tuple[str, ...] = ("linly",)) -> AdapterRegistry:
    made = AdapterRegistry(folder, BASE, templates)
    made.scan()
    return made


def reason(folder: Path) -> str:
    """Why the only adapter of `folder` cannot be used."""
    (found,) = AdapterRegistry(folder, BASE, ("linly",)).scan()
    assert not found.ready
    assert found.problem
    said = f"{found.problem.message()}. {found.problem.remedy()}"
    assert found.problem.remedy()
    assert "\n" not in said
    return said


def test_a_loop_of_links_in_one_folder_is_that_folders_problem(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet")
    bad = write_adapter(tmp_path / "bad")
    (bad / "linly_adapter.json").symlink_to("linly_adapter.json")
    (bad / "tokenizer.json").symlink_to("tokenizer.json")
    found = {adapter.name: adapter.ready for adapter in AdapterRegistry(tmp_path, BASE, ()).scan()}
    assert found["poet"]


def test_a_look_is_as_good_as_a_new_one_for_a_while(tmp_path: Path) -> None:
    """Looking reads files; what draws a page asks for what is known."""
    made = AdapterRegistry(tmp_path, BASE, ())
    assert made.cached() == []
    write_adapter(tmp_path / "poet")
    assert made.cached() == made.scan(fresh=60) == []
    assert [adapter.name for adapter in made.scan()] == ["poet"]
    assert made.cached() == made.scan()


def test_who_waits_for_a_look_takes_it_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tab looked anew, one behind the other."""
    looks = []
    made = AdapterRegistry(tmp_path, BASE, ())
    folders = made._folders

    def slow() -> list[Path]:
        looks.append(1)
        second.start()
        while not waiting.is_set():
            waiting.wait(0.01)
        return folders()

    def wait() -> None:
        waiting.set()
        made.scan(fresh=60)

    waiting, second = threading.Event(), threading.Thread(target=wait)
    monkeypatch.setattr(made, "_folders", slow)
    made.scan(fresh=60)
    second.join()
    assert len(looks) == 1


def test_folders_elsewhere_are_served_beside_the_others(tmp_path: Path) -> None:
    """By their last names; what is there already under such a name gives way."""
    write_adapter(tmp_path / "adapters" / "poet")
    write_adapter(tmp_path / "adapters" / "mine", card={"description": "old"})
    mine = write_adapter(tmp_path / "out" / "mine", card={"description": "new"})
    made = AdapterRegistry(tmp_path / "adapters", BASE, (), [mine, tmp_path / "nowhere"])
    assert [adapter.name for adapter in made.scan()] == ["mine", "poet"]
    assert (made.get("mine").path, made.get("mine").description) == (mine, "new")
    assert load(made, "mine")
    with pytest.raises(UnknownModelError):
        made.get(str(mine))


# Good adapters


def test_good_adapter_is_ready(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", card={"template": "linly", "description": "诗人"})
    found = registry(tmp_path).get("poet")
    assert found.ready
    assert (found.name, found.path) == ("poet", tmp_path / "poet")
    assert (found.template, found.description) == ("linly", "诗人")
    assert len(found.digest) == 64


def test_adapter_without_card_has_neither_template_nor_description(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet")
    found = registry(tmp_path).get("poet")
    assert (found.template, found.description) == (None, "")


def test_weights_of_a_good_adapter_are_loaded(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet")
    lora = load(registry(tmp_path), "poet")
    assert set(lora.pairs) == {(0, "q_proj"), (1, "down_proj")}
    tensors = good()
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
    write_adapter(tmp_path / "poet", tensors={rename(n): t for n, t in good().items()})
    assert len(load(registry(tmp_path), "poet").pairs) == 2


def test_pytorch_weights_are_understood(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    (path / "adapter_model.safetensors").unlink()
    torch.save(good(), path / "adapter_model.bin")
    assert len(load(registry(tmp_path), "poet").pairs) == 2


def test_every_linear_layer_may_be_changed(tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for name, shape in BASE.tensors.items():
        if "layers.1." in name and len(shape) == 2:
            module = name.removesuffix(".weight")
            tensors |= pair(f"base_model.model.{module}", shape[1], shape[0])
    write_adapter(tmp_path / "poet", tensors=tensors)
    assert len(load(registry(tmp_path), "poet").pairs) == 7


def test_without_a_base_shapes_are_not_checked(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", tensors=pair(Q.format(30), 4096, 4096))
    (found,) = AdapterRegistry(tmp_path, None, ()).scan()
    assert found.ready


def test_adapters_of_the_project_are_sound() -> None:
    folder = CHECKOUT / "adapters"
    found = AdapterRegistry(folder, None, ("model", "linly")).scan()
    assert [(a.name, a.problem) for a in found] == [
        ("json", None),
        ("lighthouse", None),
        ("xiaodeng", None),
    ]


# What is not served

TELLING = {  # values as peft writes them
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
    write_adapter(tmp_path / "poet", {key: TELLING.get(key, True)})
    assert REFUSED[key] in reason(tmp_path)


@pytest.mark.parametrize("key", REFUSED)
@pytest.mark.parametrize("off", [None, False, []])
def test_unserved_kind_that_is_off_is_no_fault(key: str, off: Any, tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", {key: off})
    assert registry(tmp_path).get("poet").ready


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "corda", "loftq"])
def test_adapter_over_a_base_of_its_own_is_refused(init: str, tmp_path: Path) -> None:
    """These take their first weights out of the base, and peft does it again on loading: over
    the base as it is they compute something else."""
    write_adapter(tmp_path / "poet", {"init_lora_weights": init})
    assert init.partition("_")[0] in reason(tmp_path).lower()


@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal", "eva"])
def test_beginning_that_leaves_the_base_alone_is_no_fault(init: Any, tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", {"init_lora_weights": init})
    assert registry(tmp_path).get("poet").ready


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_biases_are_refused(bias: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", {"bias": bias})
    assert "biases" in reason(tmp_path)


@pytest.mark.parametrize("kind", ["LOHA", "PROMPT_TUNING", None])
def test_other_kind_of_adapter_is_refused_by_name(kind: str | None, tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", {"peft_type": kind})
    assert f"type is {kind}" in reason(tmp_path)


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
    write_adapter(tmp_path / "poet", tensors={**good(), name: torch.ones(3, 16)})
    assert name in reason(tmp_path)


# Layers of its own

OWN = {
    "base_model.model.model.embed_tokens.weight": torch.ones(BASE.rows, 16),
    "base_model.model.lm_head.weight": torch.ones(BASE.rows, 16) * 2,
}
BOTH = {"modules_to_save": ["embed_tokens", "lm_head"]}


class WithLayers(Maker):
    """And these do."""

    def make_layer(self, weight: Tensor) -> Linear:
        layer = FloatLinear(weight.shape[1], weight.shape[0], torch.float32, "cpu")
        layer.put(0, weight)
        return layer


def test_own_embedding_and_head_are_loaded(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", BOTH, {**good(), **OWN})
    lora = load(registry(tmp_path), "poet", WithLayers())
    plain = registry(write_adapter(tmp_path / "o" / "plain").parent)
    assert lora.embedding
    assert lora.head
    ids = torch.tensor([3])
    assert (lora.embedding.rows(ids).mean(), lora.head.rows(ids).mean()) == (1, 2)
    less = load(plain, "plain", WithLayers()).nbytes
    assert lora.nbytes - less == sum(weight.nbytes for weight in OWN.values())


def test_own_layers_alone_are_an_adapter(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", BOTH, OWN)
    assert registry(tmp_path).get("poet").ready


def test_own_layer_that_was_not_saved_is_named(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", {"modules_to_save": ["lm_head"]})
    assert "its own lm_head was not saved" in reason(tmp_path)


def test_own_layer_of_another_kind_is_named(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", {"modules_to_save": ["lm_head", "norm"]})
    assert "its own norm" in reason(tmp_path)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((BASE.rows + 2, 16), "changes the vocabulary"),
        ((BASE.rows, 24), "belongs to another base"),
        ((BASE.rows * 16,), "belongs to another base"),
    ],
)
def test_own_layer_of_another_size_is_refused(
    tmp_path: Path, size: tuple[int, ...], said: str
) -> None:
    name = "base_model.model.lm_head.weight"
    write_adapter(tmp_path / "poet", {"modules_to_save": ["lm_head"]}, {name: torch.ones(size)})
    assert said in reason(tmp_path)


# Faults


def test_missing_weights(tmp_path: Path) -> None:
    (write_adapter(tmp_path / "poet") / "adapter_model.safetensors").unlink()
    assert "no adapter_model.safetensors" in reason(tmp_path)


def test_empty_weights(tmp_path: Path) -> None:
    """What old peft wrote when the model had been wrapped by torch.compile or DeepSpeed."""
    write_adapter(tmp_path / "poet", tensors={})
    assert "empty" in reason(tmp_path)


def test_weights_that_change_nothing(tmp_path: Path) -> None:
    zeros = {n: torch.zeros_like(t) if "lora_B" in n else t for n, t in good().items()}
    write_adapter(tmp_path / "poet", tensors=zeros)
    assert "lora_B is zero" in reason(tmp_path)


def test_one_lora_b_that_is_not_zero_suffices(tmp_path: Path) -> None:
    tensors = good()
    tensors[f"{Q.format(0)}.lora_B.weight"].zero_()
    write_adapter(tmp_path / "poet", tensors=tensors)
    assert registry(tmp_path).get("poet").ready


@pytest.mark.parametrize("side", ["A", "B"])
def test_missing_side_is_named(side: str, tmp_path: Path) -> None:
    tensors = good()
    del tensors[f"{DOWN.format(1)}.lora_{side}.weight"]
    write_adapter(tmp_path / "poet", tensors=tensors)
    said = reason(tmp_path)
    assert "layer 1 down_proj" in said
    assert "lacks" in said


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
    said = reason(tmp_path)
    assert "another base" in said
    assert [word for word in named if word not in said] == []


def test_sides_of_different_rank_are_refused(tmp_path: Path) -> None:
    tensors = pair(Q.format(0), 16, 32)
    tensors[f"{Q.format(0)}.lora_B.weight"] = torch.ones(32, 5)
    write_adapter(tmp_path / "poet", tensors=tensors)
    assert "layer 0 q_proj" in reason(tmp_path)


def test_weights_that_are_no_matrices_are_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", tensors={n: t[0] for n, t in good().items()})
    assert "q_proj" in reason(tmp_path) or "down_proj" in reason(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1, -200])
def test_torn_weights(keep: int, tmp_path: Path) -> None:
    file = write_adapter(tmp_path / "poet") / "adapter_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:keep])
    assert "cannot be read" in reason(tmp_path)


def test_reason_does_not_tell_clients_where_the_folder_is(tmp_path: Path) -> None:
    file = write_adapter(tmp_path / "poet") / "adapter_model.safetensors"
    file.write_bytes(b"torn")
    assert str(tmp_path) not in reason(tmp_path)


def test_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    (path / "adapter_model.safetensors").unlink()
    torch.save({"x": Trap(tmp_path / "sprung")}, path / "adapter_model.bin")
    assert "cannot be read" in reason(tmp_path)
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00"])
@pytest.mark.parametrize("name", ["adapter_config.json", "linly_adapter.json"])
def test_broken_json(name: str, content: str, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet", card={})
    (path / name).write_text(content)
    assert "cannot be read" in reason(tmp_path)


def test_config_without_alpha(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    (path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 3}')
    assert "lora_alpha" in reason(tmp_path)


def test_unknown_template_is_named(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", card={"template": "vicuna"})
    assert "'vicuna'" in reason(tmp_path)


def test_broken_adapter_is_refused_with_its_reason(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", {"use_dora": True})
    for use in (
        lambda: registry(tmp_path).get("poet"),
        lambda: load(registry(tmp_path), "poet"),
    ):
        with pytest.raises(AdapterError, match="'poet' is broken: it uses DoRA") as caught:
            use()
        assert caught.value.http_status == 422


def test_broken_adapter_does_not_disturb_a_good_one(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a-broken", {"use_dora": True})
    torn = write_adapter(tmp_path / "b-torn") / "adapter_model.safetensors"
    torn.write_bytes(b"torn")
    write_adapter(tmp_path / "good")
    found = AdapterRegistry(tmp_path, BASE, ()).scan()
    assert [(a.name, a.ready) for a in found] == [
        ("a-broken", False), ("b-torn", False), ("good", True),
    ]  # fmt: skip
    assert load(registry(tmp_path), "good").pairs


def test_file_torn_after_the_scan_is_an_adapter_error(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    found = registry(tmp_path)
    (path / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(AdapterError, match="'poet' is broken: it cannot be read"):
        load(found, "poet")


def test_weights_that_change_while_they_are_read_are_refused(tmp_path: Path) -> None:
    """Else what was computed with them would be kept under the name of the others."""
    path = write_adapter(tmp_path / "poet")
    found = registry(tmp_path)
    digest = found.get("poet").digest
    wanted = {**good(), **pair(Q.format(1), 16, 32)}
    write_adapter(path, tensors=wanted)
    with pytest.raises(AdapterError, match="'poet' have just changed"):
        found.load("poet", digest, Maker())
    assert load(found, "poet").pairs.keys() >= {(1, "q_proj")}


def test_folder_gone_after_the_scan_is_unknown(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    found = registry(tmp_path)
    shutil.rmtree(path)
    with pytest.raises(UnknownModelError):
        load(found, "poet")


# Names


def test_unknown_name_is_refused_with_the_one_meant(tmp_path: Path) -> None:
    write_adapter(tmp_path / "lighthouse")
    with pytest.raises(UnknownModelError, match="'lighthous'") as caught:
        registry(tmp_path).get("lighthous")
    assert caught.value.remedy == "Did you mean lighthouse?"
    assert caught.value.http_status == 404


@pytest.mark.parametrize("name", ["", ".", "..", "../poet", "poet/", "./poet", "/etc", "zzz"])
def test_name_is_never_a_path(name: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapters" / "poet")
    write_adapter(tmp_path / "poet")
    with pytest.raises(UnknownModelError):
        registry(tmp_path / "adapters").get(name)


def test_only_folders_with_a_config_are_adapters(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "README.md").write_text("adapters live here")
    assert [a.name for a in AdapterRegistry(tmp_path, BASE, ()).scan()] == ["poet"]


def test_missing_folder_holds_no_adapters(tmp_path: Path) -> None:
    assert AdapterRegistry(tmp_path / "nowhere", BASE, ()).scan() == []


# Scanning again


def test_rescan_sees_what_is_new(tmp_path: Path) -> None:
    found = registry(tmp_path)
    with pytest.raises(UnknownModelError):
        found.get("poet")
    write_adapter(tmp_path / "poet")
    assert found.get("poet").ready  # nobody has to list the adapters first
    assert [a.name for a in found.scan()] == ["poet"]


def test_rescan_forgets_what_is_gone(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    found = registry(tmp_path)
    shutil.rmtree(path)
    assert found.scan() == []
    with pytest.raises(UnknownModelError):
        found.get("poet")


def test_rescan_forgets_all_when_the_whole_folder_is_gone(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapters" / "poet")
    found = registry(tmp_path / "adapters")
    shutil.rmtree(tmp_path / "adapters")
    assert found.scan() == []
    with pytest.raises(UnknownModelError):
        found.get("poet")


def test_a_withdrawn_adapter_is_listed_and_not_served(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    found = registry(tmp_path)
    found.disable("poet")
    (adapter,) = found.scan()
    assert adapter.problem
    assert adapter.problem.code == "adapter_withdrawn"
    assert found.cached() == [adapter]
    shutil.rmtree(path)
    write_adapter(path)  # nor do new files bring it back
    with pytest.raises(AdapterError, match="is disabled"):
        found.get("poet")
    found.enable("poet")
    assert found.get("poet").ready
    for change in (found.disable, found.enable):
        with pytest.raises(UnknownModelError):
            change("nobody")


def test_rescan_sees_mended_and_broken_files(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet", {"use_dora": True})
    found = registry(tmp_path)
    write_adapter(path)
    assert found.scan()[0].ready
    (path / "adapter_model.safetensors").write_bytes(b"torn")
    assert not found.scan()[0].ready


def test_rescan_sees_a_new_card(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    found = registry(tmp_path)
    write_adapter(path, card={"description": "new"})
    assert found.scan()[0].description == "new"


def test_rescan_sees_weights_of_the_same_size(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    found = registry(tmp_path)
    before = found.get("poet").digest
    write_adapter(path, tensors={name: tensor + 1 for name, tensor in good().items()})
    touch(path / "adapter_model.safetensors")
    assert found.scan()[0].digest != before


def test_rescan_reads_only_what_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("kept", "changed"):
        write_adapter(tmp_path / name)
    found = registry(tmp_path)
    read: list[str] = []

    def examine(self: AdapterRegistry, path: Path) -> Adapter:
        read.append(path.name)
        return Adapter(path.name, path)

    monkeypatch.setattr(AdapterRegistry, "_examine", examine)
    touch(tmp_path / "changed" / "adapter_config.json")
    found.scan()
    assert read == ["changed"]


# Digests


def digest(path: Path) -> str:
    return registry(path.parent).get(path.name).digest


def test_digest_changes_with_weights_and_config(tmp_path: Path) -> None:
    first = digest(write_adapter(tmp_path / "poet"))
    other = digest(write_adapter(tmp_path / "poet", {"lora_alpha": 7}))
    tensors = {name: tensor + 1 for name, tensor in good().items()}
    third = digest(write_adapter(tmp_path / "poet", tensors=tensors))
    assert len({first, other, third}) == 3


def test_digest_does_not_depend_on_name_place_and_card(tmp_path: Path) -> None:
    first = digest(write_adapter(tmp_path / "a" / "poet"))
    assert digest(write_adapter(tmp_path / "b" / "bard", card={"description": "x"})) == first


# Scaling

EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"lora_alpha": 16}, 2.0),
        ({"lora_alpha": 16, "use_rslora": True}, 16 / 8**0.5),
        ({"lora_alpha": 16, "alpha_pattern": {"q_proj": 4}}, 0.5),
        ({"lora_alpha": 16, "alpha_pattern": {"k_proj": 4}}, 2.0),
        ({"lora_alpha": 16, "alpha_pattern": None, "use_rslora": None}, 2.0),
    ],
)
def test_scaling(config: dict[str, Any], expected: float) -> None:
    assert scaling(config, (0, "q_proj"), rank=8) == pytest.approx(expected)


@pytest.mark.slow
# peft says so of patterns that match nothing, which is a case here.
@pytest.mark.filterwarnings("ignore:The following alpha_pattern keys did not match:RuntimeWarning")
@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize(
    "alpha_pattern",
    [
        {},
        {"q_proj": 5},
        {"model.layers.1.mlp.up_proj": 7, "up_proj": 3},
        {"layers.1.self_attn.o_proj": 9, "layers.0": 2},
        {"_proj": 4, ".*_proj": 6},
        {"layers.[01].mlp.*": 11},
        {"self_attn.q_proj": 2, "q_proj": 3},
        {"q_proj": 3, "self_attn.q_proj": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("rank_pattern", [{}, {"down_proj": 2, "layers.1.self_attn.q_proj": 6}])
def test_scaling_is_pefts(
    use_rslora: bool, alpha_pattern: dict[str, int], rank_pattern: dict[str, int]
) -> None:
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer
    from transformers import LlamaConfig, LlamaForCausalLM

    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1,
        )
    )  # fmt: skip
    wishes = LoraConfig(
        r=4, lora_alpha=10, target_modules=EVERY, use_rslora=use_rslora,
        alpha_pattern=alpha_pattern, rank_pattern=rank_pattern,
    )  # fmt: skip
    config = json.loads(json.dumps(wishes.to_dict(), default=sorted))
    adapted = get_peft_model(base, wishes)
    seen = 0
    for name, module in adapted.named_modules():
        if isinstance(module, LoraLayer):
            layer, projection = int(name.split(".")[4]), name.split(".")[-1]
            ours = scaling(config, (layer, projection), module.r["default"])
            assert ours == pytest.approx(module.scaling["default"]), name
            seen += 1
    assert seen == 14
