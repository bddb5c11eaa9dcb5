"""Resolves the base model, the tokenizer and the prompt template of a training run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from model.base_resolver import MODEL_TEMPLATE, available_templates, base_name, find_base
from model.config.process_secrets import without_secrets
from model.config.settings import read_settings
from model.doctor.chat_format import OWN_TEMPLATE, copy_tokenizer, own_template, own_tokenizer
from model.doctor.check_adapter import check_adapter
from model.doctor.check_base import collect_findings, refuse_errors
from model.doctor.check_template import check_template
from model.errors import AdapterError, SettingsError
from model.folders.adapter_files import opens_thought, read_card
from model.folders.base_info import BaseInfo, read_base_info
from model.folders.model_folder import ModelFolder, load_tokenizer, read_model_folder
from model.suggestions import did_you_mean
from model.text.prompt_template import PromptTemplate
from model.text.special_tokens import end_token_ids
from model.text.tokenizer import Tokenizer
from model.text.tokenizer_files import CHAT_TEMPLATE
from model.types import Phase
from training.generation import GreedyGenerator
from training.options import TrainingOptions


@dataclass(frozen=True)
class BaseContext:
    """The base model of a training run.

    `template_name` and `opens_thought` are stored in the adapter's card; see `PromptTemplate`.
    `own_tokenizer` is the folder of an adapter that is trained further with its own tokenizer.
    """

    name: str
    folder: ModelFolder
    tokenizer: Tokenizer
    templates: Mapping[str, PromptTemplate]
    template_name: str
    opens_thought: bool = True
    own_tokenizer: Path | None = None

    @property
    def template(self) -> PromptTemplate:
        """The prompt template that the adapter is trained with."""
        template = self.templates[self.template_name]
        return replace(template, opens_thought=self.opens_thought)

    @property
    def card_template(self) -> str | None:
        """The template's name for the adapter's card; None for one in the adapter's folder."""
        return None if self.template_name == OWN_TEMPLATE else self.template_name

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens at which a reply ends, as in serving."""
        tokenizer, _ = self.folder.tokenizer
        ids = end_token_ids(self.folder.eos_ids, tokenizer.eos_id, tokenizer.prefix_ids)
        own_id = self.tokenizer.eos_id
        return ids if own_id is None else ids | {own_id}

    @property
    def generator(self) -> GreedyGenerator:
        """Generates replies with this template and tokenizer."""
        return GreedyGenerator(self.template, self.tokenizer, self.end_ids)

    def with_chat_format(self, adapter: Path, template: str | None = None) -> BaseContext:
        """The same base with the chat format of an adapter that was trained on it: its card's
        template, else its own or the one named `template`, and its own tokenizer.

        Raises:
            AdapterError: the adapter's files cannot be read.
            SettingsError: there is no such template.
        """
        card = read_card(adapter)
        name = template or card.get("template")
        own = None if name else own_template(adapter)
        tokenizer = own_tokenizer(adapter, self.base_info())
        templates = {**self.templates, own.name: own} if own else self.templates
        name = own.name if own else str(name or self.template_name)
        _check_template_name(name, templates)
        return replace(
            self, templates=templates, template_name=name, opens_thought=opens_thought(card),
            tokenizer=tokenizer or self.tokenizer, own_tokenizer=adapter if tokenizer else None,
        )  # fmt: skip

    def write_chat_format(self, folder: Path) -> None:
        """Writes the files of a chat format that is an adapter's own into another adapter's."""
        if self.own_tokenizer is not None:
            copy_tokenizer(self.own_tokenizer, folder)
        if self.template_name == OWN_TEMPLATE:
            (folder / CHAT_TEMPLATE).write_text(self.template.source, encoding="utf-8")

    def base_info(self) -> BaseInfo:
        """The base's shapes, and the sample of its weights that identifies it."""
        return read_base_info(self.folder, self.name, self.tokenizer)

    def check_adapter_fits(self, adapter: Path) -> None:
        """Checks that the adapter in that folder belongs to this base and shares its vocabulary.

        Raises:
            AdapterError: it does not.
        """
        findings = collect_findings(
            lambda: check_adapter(adapter, self.base_info(), self.templates)
        )
        for finding in findings:
            if finding.level == "error":
                raise AdapterError("adapter_unusable", adapter=adapter, problem=finding)
            if finding.code == "adapter_vocabulary":
                raise AdapterError("adapter_own_vocabulary_untrainable", adapter=adapter)


def resolve_base(options: TrainingOptions, adapter: Path | None = None) -> BaseContext:
    """The base that `options` name, or the default one.

    Args:
        adapter: the folder of a finished adapter whose chat format is used; None for the base's.

    Raises:
        LinlyError: there is no such base, adapter or template, or it is broken.
    """
    args = [] if options.base_model is None else [f"--base_model={options.base_model}"]
    settings = read_settings(args, without_secrets(os.environ))
    folder = read_model_folder(find_base(settings, _ignore_progress))
    templates, default = available_templates(folder, settings)
    base = BaseContext(base_name(settings), folder, load_tokenizer(folder), templates, default)
    if adapter is not None:
        base = base.with_chat_format(adapter, options.template)
    elif options.template is not None:
        _check_template_name(options.template, templates)
        base = replace(base, template_name=options.template)
    if base.template_name == MODEL_TEMPLATE:
        refuse_errors(check_template(base.template.source, base.tokenizer))
    return base


def _check_template_name(name: str, templates: Mapping[str, PromptTemplate]) -> None:
    if name not in templates:
        remedy = did_you_mean(name, templates, "there_are", names=tuple(templates))
        raise SettingsError("unknown_template", name=name, remedy=remedy)


def _ignore_progress(phase: Phase, share: float) -> None:
    """Downloading the default model has no progress bar here."""
