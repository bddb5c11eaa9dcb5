"""One question to several: who is asked, in a panel that opens on request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from model.errors import RequestError
from model.translations import DEFAULT, texts
from model.types import Sampling
from web.chats.store.models import ChatSettings
from web.ui.presets import Preset, apply_preset

MAX_RIVALS = 4
NOBODY = "-"  # the value of a place that is not taken; "" is the base
AS_SET = ""  # the preset's value for "as the settings say"


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
        """What opens the panel; it lies among the tools."""
        return gr.Button(texts(DEFAULT)["compare"], scale=1, min_width=110, elem_id="compare")

    @classmethod
    def build(cls, toggle: gr.Button) -> ComparePanel:
        """Lay the panel out; call it inside a `gr.Blocks`."""
        t = texts(DEFAULT)
        with gr.Column(visible=False, elem_id="rivals") as panel:
            about = gr.Markdown(t["compare_about"])
            with gr.Row():
                places = [_place(number) for number in range(MAX_RIVALS)]
            ask = gr.Button(t["compare_ask"], variant="primary", elem_id="ask-all")
        adapters, presets = zip(*places, strict=True)
        return cls(toggle, panel, about, adapters, presets, ask)

    def labels(self, t: Mapping[str, str]) -> Iterable[tuple[Any, dict[str, Any]]]:
        """Its texts."""
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
        """Updates with what there is to choose from: labels and names."""
        who = [(t["compare_nobody"], NOBODY), *adapters]
        how = [(t["compare_as_set"], AS_SET), *presets]
        return {
            **{box: gr.update(choices=who) for box in self.adapters},
            **{box: gr.update(choices=how) for box in self.presets},
        }


def _place(number: int) -> tuple[gr.Dropdown, gr.Dropdown]:
    t = texts(DEFAULT)
    with gr.Column(min_width=180):
        adapter = gr.Dropdown(
            [(t["compare_nobody"], NOBODY)], value=NOBODY, filterable=False,
            label=_label(t["compare_who"], number),
        )  # fmt: skip
        preset = gr.Dropdown(
            [(t["compare_as_set"], AS_SET)], value=AS_SET, filterable=False,
            label=_label(t["preset"], number),
        )  # fmt: skip
    return adapter, preset


def _label(word: str, number: int) -> str:
    return f"{word} {number + 1}"


def chosen(
    settings: ChatSettings, places: Sequence[tuple[str, str]], known: Mapping[str, Preset]
) -> list[ChatSettings]:
    """Those who are asked: the chat's settings with another adapter, and a preset of `known`.

    Args:
        places: the adapter and the preset of each, in their order.

    Raises:
        RequestError: fewer than two, or two that would say the same.
    """
    rivals = [
        _rival(settings, adapter, known.get(preset))
        for adapter, preset in places
        if adapter != NOBODY
    ]
    if len(rivals) < 2:
        raise RequestError("comparison_needs_two")
    certain = [_what_is_said(rival) for rival in rivals if _is_certain(rival.sampling)]
    if len(set(certain)) < len(certain):
        raise RequestError("comparison_duplicates")
    return rivals


def _rival(settings: ChatSettings, adapter: str, preset: Preset | None) -> ChatSettings:
    sampling = settings.sampling
    return replace(
        settings,
        adapter=adapter or None,
        # A template belongs to an adapter; another's would put words into its mouth.
        template=settings.template if (adapter or None) == settings.adapter else None,
        sampling=apply_preset(preset, sampling) if preset else sampling,
    )


def _is_certain(sampling: Sampling) -> bool:
    """Whether a reply says the same each time that it is made."""
    return sampling.seed is not None or sampling.temperature == 0 or sampling.top_k == 1


def _what_is_said(rival: ChatSettings) -> ChatSettings:
    """The settings as far as they make a difference: who always takes the likeliest word does not
    look at the others."""
    sampling = rival.sampling
    if sampling.temperature and sampling.top_k != 1:
        return rival
    likeliest = Sampling(
        max_tokens=sampling.max_tokens, repetition_penalty=sampling.repetition_penalty,
        temperature=0,
    )  # fmt: skip
    return replace(rival, sampling=likeliest)
