"""Every setting of peft's LoraConfig is known, and the modules that it names are peft's."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest

from model.errors import AdapterError
from model.folders.adapter_kinds import CHANGES_BASE, KEEPS_BASE, KNOWN, MERGED_ONLY, REFUSED
from model.folders.adapter_targets import check_targets
from model.tensor_names import LINEAR_PATHS, layer_path

MODULES = [layer_path(layer, path) for layer in range(12) for path in LINEAR_PATHS.values()]


def test_every_setting_of_peft_is_in_a_table() -> None:
    from peft import LoraConfig

    names = {field.name for field in fields(LoraConfig)}
    assert names <= KNOWN | set(MERGED_ONLY) | set(REFUSED)
    assert not set(MERGED_ONLY) & set(REFUSED)


def test_every_initialisation_of_peft_is_in_a_table() -> None:
    from peft import LoraConfig

    def texts(hint: Any) -> list[str]:
        return (
            [hint] if isinstance(hint, str) else [t for part in get_args(hint) for t in texts(part)]
        )

    inits = texts(get_type_hints(LoraConfig)["init_lora_weights"])
    assert "pissa" in inits
    assert [i for i in inits if not i.startswith((*CHANGES_BASE, *KEEPS_BASE))] == []


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["self_attn.q_proj", "model.layers.1.mlp.up_proj"]},
        {"target_modules": "q_proj"},
        {"target_modules": ".*q_proj"},
        {"target_modules": r"model\.layers\.(1|3)\..*|.*down_proj"},
        {"target_modules": ["proj"]},
        {"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["up_proj"]},
        {"target_modules": ".*proj", "exclude_modules": r".*layers\.[0-4]\..*"},
        {"target_modules": ".*proj", "exclude_modules": ["layers.2.mlp.up_proj"]},
        {"target_modules": ["q_proj"], "layers_to_transform": 1},
        {"target_modules": ["q_proj"], "layers_to_transform": [1, 11]},
        {"target_modules": ["q_proj"], "layers_to_transform": []},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "h"},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["la.*s"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [2], "layers_pattern": ["h", "la"]},
    ],
    ids=str,
)  # fmt: skip
def test_targets_are_those_of_peft(settings: dict[str, Any]) -> None:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    peft_config = LoraConfig(**settings)
    peft_config.target_modules = settings["target_modules"]  # peft makes a set of a list
    expected = [
        name for name in MODULES if check_target_module_exists(peft_config, name) is not None
    ]
    expected = [name for name in expected if check_target_module_exists(peft_config, name)]
    assert [name for name in MODULES if _is_target(settings, name)] == expected


def _is_target(config: dict[str, Any], name: str) -> bool:
    try:
        check_targets(config, [name])
    except AdapterError:
        return False
    return True
