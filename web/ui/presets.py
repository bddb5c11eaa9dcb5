"""Sampling presets of the page: values for the sliders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from model.sampling import SAMPLING_PARAMETERS, Sampling

# Lowest value, highest value and step of each slider, by the name of its field of `Sampling`.
SLIDERS = {
    name: parameter.slider for name, parameter in SAMPLING_PARAMETERS.items() if parameter.slider
}
Preset = Mapping[str, float]  # a value for each slider


def _preset(**values: float) -> Preset:
    """Returns the values, and those that switch the other sliders off."""
    return {name: values.get(name, SAMPLING_PARAMETERS[name].off or 0) for name in SLIDERS}


PRESETS = {
    "precise": _preset(temperature=0.0, repetition_penalty=1.1),
    "balanced": _preset(temperature=0.7, top_p=0.9, top_k=40, repetition_penalty=1.1),
    "creative": _preset(temperature=1.0, top_p=0.95, top_k=100, min_p=0.05, repetition_penalty=1.1),
}
FIRST = "balanced"
MAX_TOKENS = 512


def apply_preset(preset: Preset, sampling: Sampling) -> Sampling:
    """Returns `sampling` with the preset's values; its length and seed stay."""
    return replace(sampling, **preset)  # type: ignore[arg-type]


def preset_from_sampling(sampling: Sampling) -> Preset:
    """Returns the sliders' values of a sampling."""
    return {name: getattr(sampling, name) for name in SLIDERS}
