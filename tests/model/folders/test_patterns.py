"""Patterns of adapter_config.json match as peft matches them."""

from __future__ import annotations

import pytest
from peft.utils.other import get_pattern_key

from model.folders.patterns import UnfitPatternError, module_matcher

NAMES = [
    f"model.layers.{layer}.{module}"
    for layer in (0, 1, 11)
    for module in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
]


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj", "self_attn.q_proj", r".*\.layers\.(0|1|2)\.self_attn\.(q|v)_proj",
        r"layers\.\d+\.mlp", r"model\.layers\.1\..*", "^model.*q_proj", "proj", "(?i:Q_PROJ)",
        "q_proj|v_proj", "model.layers.11.mlp.down_proj", "(?P<side>q|v)_proj", "[^.]+_proj$", "",
    ],
)  # fmt: skip
def test_module_matcher_matches_as_peft_does(pattern: str) -> None:
    for name in NAMES:
        found = get_pattern_key([pattern], name) == pattern and pattern != name
        assert module_matcher(pattern)(name) == (found or pattern == name), name


def test_pattern_that_needs_backtracking_is_refused() -> None:
    with pytest.raises(UnfitPatternError):
        module_matcher(r"(q|v)_\1")
