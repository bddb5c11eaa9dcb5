"""Request bodies of the page's actions, as `static/actions.js` posts them.

A browser can send anything: pydantic refuses values of another type or size, and ids are looked up
among the visitor's own.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from model.translations import languages
from web.ui.compare_panel import MAX_RIVALS
from web.ui.form_values import Body, Choice, FormValues, Name, Number, Text

MAX_EPOCHS, MAX_RANK = 100, 1_024
LongText = Annotated[str, StringConstraints(max_length=10_000)]


class Empty(Body):
    """No values."""


class ById(Body):
    """A message or a chat, by its id."""

    id: Name


class Form(Body):
    """The controls' values."""

    form: FormValues


class ByIdWithForm(ById):
    form: FormValues


class Send(Body):
    text: Text = ""
    form: FormValues


class Regenerate(Form):
    """A reply by its id, or the last one that is shown."""

    id: Name | None = None


class Edit(ByIdWithForm):
    text: Text


class Vote(Body):
    """`winner` is a reply's id, or "tie"."""

    comparison: Name
    winner: Name


class Search(Body):
    text: LongText


class Rename(ById):
    title: LongText


class Rival(Body):
    """One place of the panel for comparisons: the values of its two drop-downs."""

    adapter: Name
    preset: Name


class Compare(Send):
    rivals: Annotated[list[Rival], Field(max_length=MAX_RIVALS)]


class ByName(Body):
    """A preset or a saved prompt; null where none is chosen."""

    name: Name | None = None


class SavePreset(ByName):
    form: FormValues


class SaveSnippet(ByName):
    message: Text | None = None


def _check_language(tag: str) -> str:
    if tag not in languages():
        raise ValueError("there are no texts in that language")
    return tag


class Language(Body):
    language: Annotated[str, AfterValidator(_check_language)]


class TrainForm(Body):
    """The values of the Train tab, and the token of the file that was uploaded."""

    upload: Annotated[str, StringConstraints(max_length=100)] | None = None
    train_name: Name | None = None
    train_template: Choice = None
    train_epochs: Annotated[float, Field(ge=1, le=MAX_EPOCHS)] | None = None
    train_rank: Annotated[float, Field(ge=1, le=MAX_RANK)] | None = None
    train_rate: Number = None
    train_description: Name | None = None
    train_inputs: bool | None = None


class Train(Body):
    form: TrainForm


class Export(Body):
    kind: Literal["json", "markdown", "all", "pairs"]
