"""The side bar with the settings of a chat, the library and the public link."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from model.translations import DEFAULT, texts
from web.chats.store.models import ChatSettings
from web.ui.choices import AUTOMATIC, preset_choices
from web.ui.controls import Updates
from web.ui.library_panel import LibraryPanel
from web.ui.presets import FIRST, MAX_TOKENS, PRESETS, SLIDERS, Preset, preset_from_sampling
from web.ui.share_panel import SharePanel

MAX_SLIDER_SCALE = 1.5  # the largest adapter scale that the slider offers


@dataclass(frozen=True)
class SettingsPanel:
    """A side bar at the right with everything that a chat stores besides its adapter.

    With `only_0_or_1`, an adapter's scale is 0 or 1, and nothing between.
    """

    bar: gr.Sidebar
    adapter_scale: gr.Slider
    preset: gr.Radio
    sliders: Mapping[str, gr.Slider]  # by the names of `presets.SLIDERS`
    max_tokens: gr.Slider
    seed: gr.Number
    template: gr.Dropdown
    system: gr.Textbox
    library: LibraryPanel
    share: SharePanel
    only_0_or_1: bool = False

    @property
    def text_boxes(self) -> list[Any]:
        """The controls that take typed text."""
        return [self.system, self.seed]

    @property
    def form(self) -> dict[str, Any]:
        """The controls of a reply's settings, by the names of `form_values.FormValues`."""
        return {
            "scale": self.adapter_scale, "template": self.template, "system": self.system,
            **self.sliders, "max_tokens": self.max_tokens, "seed": self.seed,
        }  # fmt: skip

    @property
    def form_controls(self) -> list[Any]:
        """The components of `form`."""
        return list(self.form.values())

    @classmethod
    def build(cls, only_0_or_1: bool = False) -> SettingsPanel:
        """Lays the panel out; call it inside a `gr.Blocks`."""
        t, first = texts(DEFAULT), PRESETS[FIRST]
        with gr.Sidebar(
            label=t["settings"], open=False, position="right", width=340, elem_id="settings"
        ) as bar:
            scale = _scale_slider(only_0_or_1)
            system = gr.Textbox(label=t["system_prompt"], info=t["system_prompt_info"], lines=3)
            preset = gr.Radio(preset_choices(DEFAULT), value=FIRST, label=t["preset"])
            sliders = {
                name: gr.Slider(lowest, highest, first[name], step=step, **_slider_texts(t, name))
                for name, (lowest, highest, step) in SLIDERS.items()
            }
            max_tokens = gr.Slider(16, 4096, MAX_TOKENS, step=16, label=t["max_tokens"])
            seed = gr.Number(-1, label=t["seed"], precision=0, minimum=-1)
            template = gr.Dropdown(
                [(t["template_auto"], AUTOMATIC)], value=AUTOMATIC, label=t["template"],
                filterable=False,
            )  # fmt: skip
            library = LibraryPanel.build()
            share = SharePanel.build()
        return cls(
            bar, scale, preset, sliders, max_tokens, seed, template, system, library, share,
            only_0_or_1,
        )  # fmt: skip

    def labels(self, t: Mapping[str, str]) -> Iterable[tuple[Any, dict[str, Any]]]:
        """Returns the panel's texts."""
        return (
            (self.bar, {"label": t["settings"]}),
            (self.adapter_scale, _scale_texts(t, self.only_0_or_1)),
            (self.preset, {"label": t["preset"]}),
            *((slider, _slider_texts(t, name)) for name, slider in self.sliders.items()),
            (self.max_tokens, {"label": t["max_tokens"]}),
            (self.seed, {"label": t["seed"]}),
            (self.template, {"label": t["template"]}),
            (self.system, {"label": t["system_prompt"], "info": t["system_prompt_info"]}),
            *self.library.labels(t),
            *self.share.labels(t),
        )

    def fill(self, settings: ChatSettings, presets: Mapping[str, Preset]) -> Updates:
        """Returns updates that show a chat's settings, except for its template."""
        sampling = settings.sampling
        preset = preset_from_sampling(sampling)
        return {
            self.adapter_scale: settings.adapter_scale,
            self.system: settings.system,
            self.max_tokens: sampling.max_tokens or MAX_TOKENS,
            self.seed: -1 if sampling.seed is None else sampling.seed,
            # Where the values are no preset's, none is marked.
            self.preset: next((name for name, other in presets.items() if other == preset), None),
            **self.slider_updates(preset),
        }

    def slider_updates(self, preset: Preset) -> Updates:
        """Returns updates that move the sliders to a preset's values."""
        return {self.sliders[name]: value for name, value in preset.items()}


def _slider_texts(t: Mapping[str, str], name: str) -> dict[str, Any]:
    info = t.get(f"{name}_info")
    return {"label": t[name], "info": info} if info else {"label": t[name]}


def _scale_slider(only_0_or_1: bool) -> gr.Slider:
    largest, step = (1, 1) if only_0_or_1 else (MAX_SLIDER_SCALE, 0.05)
    return gr.Slider(0, largest, 1, step=step, **_scale_texts(texts(DEFAULT), only_0_or_1))


def _scale_texts(t: Mapping[str, str], only_0_or_1: bool) -> dict[str, Any]:
    info = "strength_info_whole" if only_0_or_1 else "strength_info"
    return {"label": t["strength"], "info": t[info]}
