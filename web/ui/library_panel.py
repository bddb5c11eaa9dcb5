"""The part of the settings where presets and prompts are saved, used and deleted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from model.translations import DEFAULT, texts


@dataclass(frozen=True)
class LibraryPanel:
    """Two accordions: prompts, which the code calls snippets, and presets."""

    prompts: gr.Accordion
    snippet: gr.Dropdown
    snippet_name: gr.Textbox
    save_snippet: gr.Button
    delete_snippet: gr.Button
    presets: gr.Accordion
    preset_name: gr.Textbox
    save_preset: gr.Button
    delete_preset: gr.Button

    @classmethod
    def build(cls) -> LibraryPanel:
        """Lays the panel out; call it inside of the settings."""
        t = texts(DEFAULT)
        with gr.Accordion(t["library_presets"], open=False) as presets:
            preset_name = gr.Textbox(label=t["library_preset_name"], max_lines=1)
            with gr.Row():
                save_preset = gr.Button(t["library_save_preset"], size="sm", min_width=90)
                delete_preset = gr.Button(t["library_delete_preset"], size="sm", min_width=90)
        with gr.Accordion(t["library_prompts"], open=False) as prompts:
            snippet = gr.Dropdown(
                [], value=None, label=t["library_snippet"], info=t["library_snippet_info"],
                filterable=False,
            )  # fmt: skip
            snippet_name = gr.Textbox(
                label=t["library_snippet_name"], info=t["library_snippet_name_info"], max_lines=1
            )
            with gr.Row():
                save_snippet = gr.Button(t["library_save_snippet"], size="sm", min_width=90)
                delete_snippet = gr.Button(t["library_delete_snippet"], size="sm", min_width=90)
        return cls(
            prompts, snippet, snippet_name, save_snippet, delete_snippet, presets, preset_name,
            save_preset, delete_preset,
        )  # fmt: skip

    def labels(self, t: Mapping[str, str]) -> Iterable[tuple[Any, dict[str, Any]]]:
        """Returns the panel's texts."""
        return (
            (self.prompts, {"label": t["library_prompts"]}),
            (self.snippet, {"label": t["library_snippet"], "info": t["library_snippet_info"]}),
            (
                self.snippet_name,
                {"label": t["library_snippet_name"], "info": t["library_snippet_name_info"]},
            ),
            (self.save_snippet, {"value": t["library_save_snippet"]}),
            (self.delete_snippet, {"value": t["library_delete_snippet"]}),
            (self.presets, {"label": t["library_presets"]}),
            (self.preset_name, {"label": t["library_preset_name"]}),
            (self.save_preset, {"value": t["library_save_preset"]}),
            (self.delete_preset, {"value": t["library_delete_preset"]}),
        )
