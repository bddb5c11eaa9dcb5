"""The panel for comparisons: one question to several rivals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from model.errors import RequestError
from model.sampling import Sampling
from model.translations import DEFAULT, texts
from web.chats.store.models import ChatSettings
from web.ui.presets import Preset, apply_preset

MAX_RIVALS = 4
NO_RIVAL = "-"  # the widget's value of an empty place; "" is the base
AS_SET = ""  # the widget's value for "no preset: as the settings are"


@dataclass(frozen=True)
class ComparePanel:
    """Up to four places, each with an adapter and a preset."""

    toggle: gr.Button
    panel: gr.Column
    about: gr.Markdown
    adapters: tuple[gr.Dropdown, ...]
    presets: tuple[gr.Dropdown, ...]
    ask: gr.Button

    @classmethod
    def button(cls) -> gr.Button:
        """Returns the button that opens the panel. It belongs to the tools."""
        return gr.Button(texts(DEFAULT)["compare"], scale=1, min_width=110, elem_id="compare")

    @classmethod
    def build(cls, toggle: gr.Button) -> ComparePanel:
        """Lays the panel out; call it inside a `gr.Blocks`."""
        t = texts(DEFAULT)
        with gr.Column(visible=False, elem_id="rivals") as panel:
            about = gr.Markdown(t["compare_about"])
            with gr.Row():
                places = [_place(number) for number in range(MAX_RIVALS)]
            ask = gr.Button(t["compare_ask"], variant="primary", elem_id="ask-all")
        adapters, presets = zip(*places, strict=True)
        return cls(toggle, panel, about, adapters, presets, ask)

    def labels(self, t: Mapping[str, str]) -> Iterable[tuple[Any, dict[str, Any]]]:
        """Returns the panel's texts."""
        return (
            (self.toggle, {"value": t["compare"]}),
            (self.about, {"value": t["compare_about"]}),
            (self.ask, {"value": t["compare_ask"]}),
            *((box, {"label": _label(t["compare_who"], n)}) for n, box in enumerate(self.adapters)),
            *((box, {"label": _label(t["preset"], n)}) for n, box in enumerate(self.presets)),
        )

    def offer(
        self, adapters: Sequence[tuple[str, str]], presets: Sequence[tuple[str, str]],
        t: Mapping[str, str],
    ) -> dict[Any, Any]:  # fmt: skip
        """Returns updates with the choices: labels and names."""
        adapters = [(t["compare_nobody"], NO_RIVAL), *adapters]
        presets = [(t["compare_as_set"], AS_SET), *presets]
        return {
            **{box: gr.update(choices=adapters) for box in self.adapters},
            **{box: gr.update(choices=presets) for box in self.presets},
        }


def _place(number: int) -> tuple[gr.Dropdown, gr.Dropdown]:
    t = texts(DEFAULT)
    with gr.Column(min_width=180):
        adapter = gr.Dropdown(
            [(t["compare_nobody"], NO_RIVAL)], value=NO_RIVAL, filterable=False,
            label=_label(t["compare_who"], number),
        )  # fmt: skip
        preset = gr.Dropdown(
            [(t["compare_as_set"], AS_SET)], value=AS_SET, filterable=False,
            label=_label(t["preset"], number),
        )  # fmt: skip
    return adapter, preset


def _label(word: str, number: int) -> str:
    return f"{word} {number + 1}"


def chosen_rivals(
    settings: ChatSettings, places: Sequence[tuple[str, str]], presets: Mapping[str, Preset]
) -> list[ChatSettings]:
    """Returns the rivals: the chat's settings with another adapter, and with one of `presets`.

    Args:
        places: the values of each place's drop-downs, adapter and preset, in order.

    Raises:
        RequestError: there are fewer than two, or two that would reply the same.
    """
    rivals = [
        _rival(settings, adapter or None, presets.get(preset))
        for adapter, preset in places
        if adapter != NO_RIVAL
    ]
    if len(rivals) < 2:
        raise RequestError("comparison_needs_two")
    effective = [
        _effective_settings(rival) for rival in rivals if _is_deterministic(rival.sampling)
    ]
    if len(set(effective)) < len(effective):
        raise RequestError("comparison_duplicates")
    return rivals


def _rival(settings: ChatSettings, adapter: str | None, preset: Preset | None) -> ChatSettings:
    sampling = settings.sampling
    return replace(
        settings,
        adapter=adapter,
        # A template belongs to one adapter: another adapter was trained with other words.
        template=settings.template if adapter == settings.adapter else None,
        sampling=apply_preset(preset, sampling) if preset else sampling,
    )


def _is_deterministic(sampling: Sampling) -> bool:
    """Whether a question gets the same reply each time."""
    return sampling.seed is not None or sampling.temperature == 0 or sampling.top_k == 1


def _effective_settings(rival: ChatSettings) -> ChatSettings:
    """Returns the settings without what has no effect: greedy decoding ignores most of them."""
    sampling = rival.sampling
    if sampling.temperature and sampling.top_k != 1:
        return rival
    greedy = Sampling(
        max_tokens=sampling.max_tokens, repetition_penalty=sampling.repetition_penalty,
        temperature=0,
    )  # fmt: skip
    return replace(rival, sampling=greedy)
