"""The scaling of an adapter's modules, as adapter_config.json gives it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from model.folders.adapter_config import scaling

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


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
# peft warns of patterns that match nothing; some of these do.
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
def test_scaling_equals_pefts(
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
    lora_config = LoraConfig(
        r=4, lora_alpha=10, target_modules=MODULES, use_rslora=use_rslora,
        alpha_pattern=alpha_pattern, rank_pattern=rank_pattern,
    )  # fmt: skip
    config = json.loads(json.dumps(lora_config.to_dict(), default=sorted))
    adapted = get_peft_model(base, lora_config)
    compared = 0
    for name, module in adapted.named_modules():
        if isinstance(module, LoraLayer):
            layer, projection = int(name.split(".")[4]), name.split(".")[-1]
            factor = scaling(config, (layer, projection), module.r["default"])
            assert factor == pytest.approx(module.scaling["default"]), name
            compared += 1
    assert compared == 14
