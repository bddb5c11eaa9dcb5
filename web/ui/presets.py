"""Sampling settings as the page offers them."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, replace

from model.errors import RequestError
from model.types import Sampling


@dataclass(frozen=True)
class Preset:
    """Values for the sliders, in their order on the page."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float


PRESETS = {
    "precise": Preset(0.0, 1.0, 0, 0.0, 1.1),
    "balanced": Preset(0.7, 0.9, 40, 0.0, 1.1),
    "creative": Preset(1.0, 0.95, 100, 0.05, 1.1),
}
FIRST = "balanced"
MAX_TOKENS = 512


def sampling(preset: Preset, max_tokens: float | None, seed: float | None) -> Sampling:
    """From what the sliders say; Gradio hands numbers over as floats, an emptied box as None.

    A seed below 0, or none, means a new one each time.
    """
    if None in astuple(preset):
        raise RequestError("setting_number_missing")
    return Sampling(
        max_tokens=int(max_tokens or MAX_TOKENS),
        temperature=float(preset.temperature),
        top_p=float(preset.top_p),
        top_k=int(preset.top_k),
        min_p=float(preset.min_p),
        repetition_penalty=float(preset.repetition_penalty),
        seed=None if seed is None or seed < 0 else int(seed),
    )


def apply_preset(preset: Preset, sampling: Sampling) -> Sampling:
    """`sampling` with the preset's values; how long, and from which seed, stays as it is."""
    return replace(sampling, **asdict(preset))


def preset_from_sampling(sampling: Sampling) -> Preset:
    """The sliders' values of a sampling."""
    return Preset(
        sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p,
        sampling.repetition_penalty,
    )  # fmt: skip
