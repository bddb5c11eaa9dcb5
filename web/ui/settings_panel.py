"""The settings, one click away: how a chat is answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import gradio as gr

from model.translations import DEFAULT, texts
from web.chats.store.models import ChatSettings
from web.ui.choices import preset_choices
from web.ui.library_panel import ShelfPanel
from web.ui.presets import FIRST, MAX_TOKENS, PRESETS, Preset, preset_from_sampling
from web.ui.share_panel import SharePanel

SLIDER_MAX = 1.5  # of the adapter's scale: what the slider offers
Updates = dict[Any, Any]


@dataclass(frozen=True)
class SettingsPanel:
    """A side bar at the right with everything that a chat remembers beside its adapter.

    `whole` adapters are served at strength 0 or 1, and nothing between.
    """

    bar: gr.Sidebar
    scale: gr.Slider
    preset: gr.Radio
    temperature: gr.Slider
    top_p: gr.Slider
    top_k: gr.Slider
    min_p: gr.Slider
    repetition_penalty: gr.Slider
    max_tokens: gr.Slider
    seed: gr.Number
    template: gr.Dropdown
    system: gr.Textbox
    shelf: ShelfPanel
    share: SharePanel
    whole: bool = False

    @property
    def sliders(self) -> list[gr.Slider]:
        """Those that a preset sets, in its order."""
        return [self.temperature, self.top_p, self.top_k, self.min_p, self.repetition_penalty]

    @property
    def boxes(self) -> list[Any]:
        """Those in which something can be written."""
        return [self.system, self.seed]

    @property
    def form(self) -> dict[str, Any]:
        """What a reply is asked for with, by the names of `form_values.FormValues`."""
        return {
            "scale": self.scale, "template": self.template, "system": self.system,
            "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k,
            "min_p": self.min_p, "repetition_penalty": self.repetition_penalty,
            "max_tokens": self.max_tokens, "seed": self.seed,
        }  # fmt: skip

    @property
    def form_controls(self) -> list[Any]:
        """The components of `form`."""
        return list(self.form.values())

    @classmethod
    def build(cls, whole: bool = False) -> SettingsPanel:
        """Lay it out; call it inside a `gr.Blocks`."""
        t = texts(DEFAULT)
        first = PRESETS[FIRST]
        with gr.Sidebar(
            label=t["settings"], open=False, position="right", width=340, elem_id="settings"
        ) as bar:
            scale = gr.Slider(
                0, 1 if whole else SLIDER_MAX, 1, step=1 if whole else 0.05, label=t["strength"],
                info=t[_strength_info(whole)],
            )  # fmt: skip
            system = gr.Textbox(label=t["system_prompt"], info=t["system_prompt_info"], lines=3)
            preset = gr.Radio(preset_choices(DEFAULT), value=FIRST, label=t["preset"])
            temperature = gr.Slider(
                0, 2, first.temperature, step=0.05, label=t["temperature"],
                info=t["temperature_info"],
            )  # fmt: skip
            top_p = gr.Slider(0.05, 1, first.top_p, step=0.05, label=t["top_p"])
            top_k = gr.Slider(0, 200, first.top_k, step=1, label=t["top_k"])
            min_p = gr.Slider(0, 0.5, first.min_p, step=0.01, label=t["min_p"])
            penalty = gr.Slider(
                1, 2, first.repetition_penalty, step=0.05, label=t["repetition_penalty"]
            )
            max_tokens = gr.Slider(16, 4096, MAX_TOKENS, step=16, label=t["max_tokens"])
            seed = gr.Number(-1, label=t["seed"], precision=0, minimum=-1)
            template = gr.Dropdown(
                [(t["template_auto"], "")], value="", label=t["template"], filterable=False
            )
            shelf = ShelfPanel.build()
            share = SharePanel.build()
        return cls(
            bar, scale, preset, temperature, top_p, top_k, min_p, penalty, max_tokens, seed,
            template, system, shelf, share, whole,
        )  # fmt: skip

    def labels(self, t: Mapping[str, str]) -> Iterable[tuple[Any, dict[str, Any]]]:
        """Its texts."""
        return (
            (self.bar, {"label": t["settings"]}),
            (self.scale, {"label": t["strength"], "info": t[_strength_info(self.whole)]}),
            (self.preset, {"label": t["preset"]}),
            (self.temperature, {"label": t["temperature"], "info": t["temperature_info"]}),
            (self.top_p, {"label": t["top_p"]}),
            (self.top_k, {"label": t["top_k"]}),
            (self.min_p, {"label": t["min_p"]}),
            (self.repetition_penalty, {"label": t["repetition_penalty"]}),
            (self.max_tokens, {"label": t["max_tokens"]}),
            (self.seed, {"label": t["seed"]}),
            (self.template, {"label": t["template"]}),
            (self.system, {"label": t["system_prompt"], "info": t["system_prompt_info"]}),
            *self.shelf.labels(t),
            *self.share.labels(t),
        )

    def fill(self, settings: ChatSettings, presets: Mapping[str, Preset]) -> Updates:
        """Updates that show a chat's settings, but for its template."""
        sampling = settings.sampling
        preset = preset_from_sampling(sampling)
        return {
            self.scale: settings.adapter_scale,
            self.system: settings.system,
            self.max_tokens: sampling.max_tokens or MAX_TOKENS,
            self.seed: -1 if sampling.seed is None else sampling.seed,
            # The values may be nobody's preset, and then none is marked.
            self.preset: next((name for name, known in presets.items() if known == preset), None),
            **dict(zip(self.sliders, astuple(preset), strict=True)),
        }


def _strength_info(whole: bool) -> str:
    return "strength_info_whole" if whole else "strength_info"
