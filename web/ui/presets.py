"""Sampling presets of the page: values for the sliders."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from model.types import Sampling


class Preset(BaseModel):
    """The sampling values that a preset sets, each by the name of its slider."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float


PRESETS = {
    "precise": Preset(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.1),
    "balanced": Preset(temperature=0.7, top_p=0.9, top_k=40, min_p=0.0, repetition_penalty=1.1),
    "creative": Preset(temperature=1.0, top_p=0.95, top_k=100, min_p=0.05, repetition_penalty=1.1),
}
FIRST = "balanced"
MAX_TOKENS = 512


def apply_preset(preset: Preset, sampling: Sampling) -> Sampling:
    """Returns `sampling` with the preset's values; its length and seed stay."""
    return replace(sampling, **preset.model_dump())


def preset_from_sampling(sampling: Sampling) -> Preset:
    """Returns the sliders' values of a sampling."""
    return Preset.model_validate(sampling)
