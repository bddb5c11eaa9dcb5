"""Faults of an adapter's folder, each with the code of its finding; and changes that are no fault.

A change is made to the tiny adapter `all`, whose card has the template "linly".
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.folders.adapter_kinds import MERGED_ONLY, REFUSED
from model.tensor_names import LINEAR_MODULES
from tests.model.doctor.changes import Change, change_tensors, edit_json
from tests.tiny_model import write_tokenizer

CONFIG, CARD, WEIGHTS = "adapter_config.json", "linly_adapter.json", "adapter_model.safetensors"
ROWS = 320  # of the base's vocabulary
WIDTH = 48  # of its layers
Q = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
OWN = ("lm_head", "embed_tokens")  # layers that an adapter may have of its own
HEAD = "base_model.model.lm_head.weight"
LFS_POINTER = "version https://git-lfs.github.com"
PEFT_VALUES = {  # as peft writes them
    "trainable_token_indices": [5],
    "alora_invocation_tokens": [1, 2],
    "layer_replication": [[0, 2]],
    "target_parameters": ["mlp.experts"],
    "use_bdlora": {"nblocks": 2},
    "kasa_config": {"beta": 1e-4},
    "arrow_config": {"top_k": 3},
    "velora_config": {"num_groups": 8},
    "monteclora_config": {"num_samples": 8},
}
UNKNOWN_WEIGHTS = (
    "unknown",
    "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
    "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight",
)
RANK = 4
# Tensors of adapters that are only merged: their shapes, and what the message names.
EMBEDDING_LORA = {"lora_embedding_A": (RANK, ROWS), "lora_embedding_B": (WIDTH, RANK)}
HEAD_LORA = {"lora_A.weight": (RANK, WIDTH), "lora_B.weight": (ROWS, RANK)}
MERGED_WEIGHTS: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "model.embed_tokens": (EMBEDDING_LORA, "LoRA on embed_tokens"),
    "model.embed_tokens.base_layer": ({"weight": (ROWS, WIDTH)}, "LoRA on embed_tokens"),
    "lm_head": (HEAD_LORA, "LoRA on lm_head"),
    "lm_head.base_layer": ({"weight": (ROWS, WIDTH)}, "LoRA on lm_head"),
}
BIASES = ("self_attn.q_proj.base_layer.bias", "mlp.up_proj.bias")  # which the base lacks


@dataclass(frozen=True)
class Fault:
    """A change, the code of its finding, and what the message names."""

    change: Change
    code: str
    named: tuple[str, ...] = ()


class FolderMaker:
    """Creates the folder `sprung` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path / "sprung"),)


def config(**changes: Any) -> Change:
    return lambda path: edit_json(path / CONFIG, **changes)


def card(**changes: Any) -> Change:
    return lambda path: edit_json(path / CARD, **changes)


def add(tensors: dict[str, Tensor]) -> Change:
    return weights(lambda existing: existing.update(tensors))


def weights(change: Callable[[dict[str, Tensor]], object]) -> Change:
    return change_tensors(WEIGHTS, change)


def both(first: Change, second: Change) -> Change:
    def change(path: Path) -> None:
        first(path)
        second(path)

    return change


def add_magnitudes(tensors: dict[str, Tensor]) -> None:
    """Adds what DoRA trains beside each pair."""
    for name in [name for name in tensors if name.endswith("lora_B.weight")]:
        magnitude = name.replace("lora_B.weight", "lora_magnitude_vector")
        tensors[magnitude] = torch.ones(len(tensors[name]))


def without(name: str) -> Change:
    return weights(lambda tensors: tensors.pop(name))


def null(key: str) -> Change:
    """Writes null into the config, as peft does for what is off."""

    def apply(path: Path) -> None:
        file = path / CONFIG
        file.write_text(json.dumps({**json.loads(file.read_text()), key: None}))

    return apply


def write(name: str, content: str) -> Change:
    return lambda path: (path / name).write_text(content)


def torn(length: int) -> Change:
    return lambda path: (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:length])


def pickled(content: Callable[[Path], Any]) -> Change:
    """Replaces the weights by a pickle."""

    def apply(path: Path) -> None:
        (path / WEIGHTS).unlink()
        torch.save(content(path), path / "adapter_model.bin")

    return apply


def set_to_zero(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensor.zero_()


def own_layers(rows: int, *names: str) -> Change:
    """Adds an embedding or a head of its own, with so many rows."""
    return add({f"base_model.model.model.{name}.weight": torch.ones(rows, WIDTH) for name in names})


def own_vocabulary(*more: Change) -> Change:
    """Adds a vocabulary of two more rows, and makes other changes."""
    return lambda path: [change(path) for change in (own_layers(ROWS + 2, *OWN), *more)]


def module_pair(module: str, inputs: int, outputs: int) -> Change:
    name = f"base_model.model.{module}"
    return add({
        f"{name}.lora_A.weight": torch.ones(8, inputs),
        f"{name}.lora_B.weight": torch.ones(outputs, 8),
    })  # fmt: skip


def _unreadable() -> Iterator[tuple[str, Fault]]:
    yield "no config", Fault(lambda path: (path / CONFIG).unlink(), "adapter_file_missing")
    yield "no weights", Fault(lambda path: (path / WEIGHTS).unlink(), "adapter_file_missing")
    yield "a pointer of git-lfs", Fault(write(WEIGHTS, LFS_POINTER), "lfs_pointer")
    for content in ("", "{", "[]", "null", "\x00"):
        yield f"config {content!r}", Fault(write(CONFIG, content), "adapter_unreadable")
        yield f"card {content!r}", Fault(write(CARD, content), "adapter_unreadable")
    for length in (0, 4, 100, -1, -200):
        yield f"weights cut at {length}", Fault(torn(length), "adapter_unreadable")
    yield "a pickle that runs code", Fault(pickled(FolderMaker), "adapter_unreadable")


MERGED_CHANGES = {
    "use_dora": weights(add_magnitudes),
    "trainable_token_indices": add(
        {
            "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(
                1, WIDTH
            )
        }
    ),
}


def _unserved_kinds() -> Iterator[tuple[str, Fault]]:
    for key, name in MERGED_ONLY.items():
        setting = config(**{key: PEFT_VALUES.get(key, True)})
        yield (
            f"{key} with its weights",
            Fault(both(setting, MERGED_CHANGES.get(key, config())), "adapter_kind", (name,)),
        )
    yield "use_dora alone", Fault(config(use_dora=True), "merge_lora_incomplete", ("magnitude",))
    yield (
        "tokens alone",
        Fault(
            config(trainable_token_indices=[5]), "adapter_own_missing", ("trainable_tokens_delta",)
        ),
    )
    for key, name in REFUSED.items():
        yield (
            key,
            Fault(config(**{key: PEFT_VALUES.get(key, True)}), "adapter_kind_refused", (name,)),
        )
    for layer, (shapes, name) in MERGED_WEIGHTS.items():
        tensors = {
            f"base_model.model.{layer}.{part}": torch.ones(shape) for part, shape in shapes.items()
        }
        yield f"{layer} with {name}", Fault(add(tensors), "adapter_kind", (name,))
    for bias in BIASES:
        name = f"base_model.model.model.layers.0.{bias}"
        yield bias, Fault(add({name: torch.ones(WIDTH)}), "merge_no_layer", ("layers.0.",))
    for init in ("pissa", "pissa_niter_4", "olora", "corda", "lora_ga"):
        yield init, Fault(config(init_lora_weights=init), "adapter_changes_base", (init,))
    yield "loftq", Fault(config(init_lora_weights="loftq"), "adapter_inseparable", ("loftq",))
    yield (
        "pissa by rank",
        Fault(
            config(init_lora_weights="pissa", use_rslora=True, alpha_pattern={"q_proj": 4}),
            "adapter_inseparable",
        ),
    )
    for unknown in ("of 2030", ["pissa"]):
        yield f"{unknown}", Fault(config(init_lora_weights=unknown), "adapter_init_unknown")
    yield "a classifier", Fault(config(task_type="SEQ_CLS"), "adapter_task", ("SEQ_CLS",))
    yield "a newer setting", Fault(config(use_future=True), "adapter_settings_unknown", ("use_fu",))
    for kind in ("LOHA", "PREFIX_TUNING", None):
        yield f"kind {kind}", Fault(config(peft_type=kind), "adapter_not_lora", (f"is {kind}",))
    for name in UNKNOWN_WEIGHTS:
        yield name, Fault(add({name: torch.ones(3, 16)}), "adapter_weight_unknown", (name,))


def _targets() -> Iterator[tuple[str, Fault]]:
    """Weights of modules that the configuration leaves out: peft would not use them."""
    for key, values in {
        "target_modules": (["k_proj"], "k_proj", ".*mlp.*", "q_proj"),
        "exclude_modules": (["layers.1.mlp.up_proj"], ".*k_proj"),
        "layers_to_transform": (0, [1]),
    }.items():
        for value in values:
            yield f"{key} {value}", Fault(config(**{key: value}), "adapter_not_target", (key,))
    for key, value in (
        ("target_modules", 7), ("target_modules", [7]), ("exclude_modules", {}),
        ("layers_to_transform", "all"), ("layers_to_transform", [True]), ("layers_pattern", [1]),
        ("target_modules", ["q_proj"] * 10_001),
    ):  # fmt: skip
        yield f"{key} {value!r:.20}", Fault(config(**{key: value}), "adapter_unreadable", (key,))


def _not_gathered() -> Iterator[tuple[str, Fault]]:
    """What ZeRO-3 and FSDP leave of tensors that were not gathered before they were saved."""
    for side in "AB":
        for shard in (torch.ones(0), torch.ones(8 * WIDTH), torch.ones(0, WIDTH)):
            name = Q.format(1, side)
            fault = Fault(add({name: shard}), "adapter_not_gathered", ("ZeRO-3", name))
            yield f"{side} with {tuple(shard.shape)}", fault
    yield "an empty head", Fault(add({HEAD: torch.ones(0)}), "adapter_not_gathered", (HEAD,))


def _settings() -> Iterator[tuple[str, Fault]]:
    yield "no alpha", Fault(config(lora_alpha=None), "alpha_missing")
    yield "alpha 0", Fault(config(lora_alpha=0), "alpha_unsound")
    yield "alpha in words", Fault(config(lora_alpha="much"), "alpha_unsound")
    yield "huge alpha", Fault(config(lora_alpha=8000), "scaling_large")
    yield "rank 0", Fault(config(r=0), "rank_unsound")
    yield "another rank", Fault(config(r=4), "rank_differs")
    yield (
        "another module named",
        Fault(
            config(target_modules=[*LINEAR_MODULES, "query_key_value"]), "target_without_weights"
        ),
    )


def _weights() -> Iterator[tuple[str, Fault]]:
    yield "no tensors", Fault(pickled(lambda path: {}), "adapter_empty")  # as old peft wrote it
    yield "never trained", Fault(weights(set_to_zero), "adapter_zero")
    for side in "AB":
        yield (
            f"no lora_{side}",
            Fault(without(Q.format(1, side)), "adapter_half_pair", ("layer 1 q_proj",)),
        )
    yield "a kernel", Fault(add({Q.format(0, "B"): torch.ones(3, 3, 3)}), "adapter_no_matrices")
    yield (
        "diverged",
        Fault(
            weights(lambda tensors: tensors[Q.format(0, "B")].fill_(torch.nan)),
            "adapter_not_finite",
        ),
    )
    yield (
        "sides of different ranks",
        Fault(add({Q.format(0, "B"): torch.ones(WIDTH, 5)}), "adapter_shape", ("layer 0 q_proj",)),
    )


def _other_base() -> Iterator[tuple[str, Fault]]:
    for inputs, outputs in ((24, WIDTH), (WIDTH, 24)):
        yield f"{inputs} -> {outputs}", Fault(
            module_pair("model.layers.0.self_attn.q_proj", inputs, outputs), "adapter_shape",
            ("layer 0 q_proj", f"{inputs} -> {outputs}", f"{WIDTH} -> {WIDTH}"),
        )  # fmt: skip
    for module, named in (
        ("model.layers.2.self_attn.q_proj", ("q_proj", "layer 2")),
        ("model.layers.0.mlp.c_fc", ("c_fc", "layer 0")),
    ):
        yield module, Fault(module_pair(module, WIDTH, WIDTH), "adapter_no_layer", named)
    yield "another base's name", Fault(card(base_model="Llama-2-13b"), "adapter_base_name")
    yield "another fingerprint", Fault(card(fingerprint=[0.1] * 64), "adapter_other_base")


def _own_layers() -> Iterator[tuple[str, Fault]]:
    yield (
        "another own layer",
        Fault(
            both(
                config(modules_to_save=["norm"]),
                add({"base_model.model.model.norm.weight": torch.ones(WIDTH)}),
            ),
            "adapter_other_layer",
            ("norm",),
        ),
    )
    yield (
        "another own layer not saved",
        Fault(config(modules_to_save=["norm"]), "adapter_own_missing", ("norm",)),
    )
    yield (
        "own layer not saved",
        Fault(config(modules_to_save=["lm_head"]), "adapter_own_missing", ("lm_head",)),
    )
    yield "a narrow head", Fault(add({HEAD: torch.ones(ROWS, 8)}), "adapter_own_shape")
    yield "a head in one dimension", Fault(add({HEAD: torch.ones(ROWS)}), "adapter_own_shape")
    yield "half a vocabulary", Fault(own_layers(ROWS + 2, "lm_head"), "adapter_half_vocabulary")
    yield (
        "two vocabularies",
        Fault(own_vocabulary(own_layers(ROWS + 3, "embed_tokens")), "adapter_half_vocabulary"),
    )
    yield "no tokenizer", Fault(own_vocabulary(), "adapter_no_tokenizer")
    yield "another tokenizer", Fault(own_vocabulary(write_tokenizer), "adapter_tokenizer_size")


def _template() -> Iterator[tuple[str, Fault]]:
    yield "no template", Fault(card(template=None), "template_untold")
    yield "unknown template", Fault(card(template="odd"), "template_unknown", ("odd",))


FAULTS = dict(
    chain(
        _unreadable(), _unserved_kinds(), _targets(), _not_gathered(), _settings(), _weights(),
        _other_base(), _own_layers(), _template(),
    )
)  # fmt: skip
SWITCHES = (*MERGED_ONLY, *REFUSED)
NO_FAULTS: dict[str, Change] = {
    **{f"{key} {off}": config(**{key: off}) for key in SWITCHES for off in (False, [])},
    **{f"{key} null": null(key) for key in SWITCHES},
    **{
        f"init {init}": config(init_lora_weights=init)
        for init in (True, False, "gaussian", "orthogonal", "eva", "mica")
    },
    # peft trains the biases that there are, and writes nothing where there are none.
    **{f"bias {bias}": config(bias=bias) for bias in ("none", "all", "lora_only")},
    # peft ignores these for a LLaMA's linear layers, or uses them only before the training.
    "fan_in_fan_out": config(fan_in_fan_out=True),
    "megatron": config(megatron_config={"tensor_model_parallel_size": 2}),
    "settings of initialisations": config(eva_config={"rho": 2.0}, lora_ga_config={"stable_c": 1}),
    "settings of 2023": config(enable_lora=[True], merge_weights=True),
    "a newer setting that is off": config(use_future=False),
    "all linear layers": config(target_modules="all-linear"),
    "a pattern": config(target_modules=r".*\.(q|k|v|o|gate|up|down)_proj"),
    "a pattern with look-ahead": config(target_modules=r"^(model(?=\.).*_proj)$"),
    "layers": config(layers_to_transform=[0, 1], layers_pattern="layers"),
    "layers in a pattern": config(layers_to_transform=[0, 1], layers_pattern=["h", "(lay)ers"]),
    "nothing excluded": config(exclude_modules=["lm_head"]),
    "one lora_B is zero": weights(lambda tensors: tensors[Q.format(0, "B")].zero_()),
}
