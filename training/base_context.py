"""Resolves the base model, the tokenizer and the prompt template of a training run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from model.base_resolver import available_templates, base_name, find_base
from model.config.process_secrets import without_secrets
from model.config.settings import read_settings
from model.doctor.check_adapter import check_adapter
from model.doctor.check_base import collect_findings
from model.errors import AdapterError, SettingsError
from model.folders.base_info import BaseInfo, read_base_info
from model.folders.model_folder import ModelFolder, load_tokenizer, read_model_folder
from model.suggestions import did_you_mean
from model.text.prompt_template import PromptTemplate
from model.text.special_tokens import end_token_ids
from model.text.tokenizer import Tokenizer
from model.types import Phase
from training.generation import GreedyGenerator
from training.options import TrainingOptions


@dataclass(frozen=True)
class BaseContext:
    """The base model of a training run.

    `template_name` and `opens_thought` are stored in the adapter's card; see `PromptTemplate`.
    """

    name: str
    folder: ModelFolder
    tokenizer: Tokenizer
    templates: Mapping[str, PromptTemplate]
    template_name: str
    opens_thought: bool = True

    @property
    def template(self) -> PromptTemplate:
        """The prompt template that the adapter is trained with."""
        template = self.templates[self.template_name]
        return replace(template, opens_thought=self.opens_thought)

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens at which a reply ends."""
        tokenizer = self.tokenizer
        return end_token_ids(self.folder.eos_ids, tokenizer.eos_id, tokenizer.prefix_ids)

    @property
    def generator(self) -> GreedyGenerator:
        """Generates replies with this template and tokenizer."""
        return GreedyGenerator(self.template, self.tokenizer, self.end_ids)

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


def resolve_base(options: TrainingOptions) -> BaseContext:
    """The base that `options` name, or the default one.

    Raises:
        LinlyError: there is no such base or template.
    """
    args = [] if options.base_model is None else [f"--base_model={options.base_model}"]
    settings = read_settings(args, without_secrets(os.environ))
    folder = read_model_folder(find_base(settings, _ignore_progress))
    templates, default = available_templates(folder, settings)
    name = options.template or default
    if name not in templates:
        remedy = did_you_mean(name, templates, "there_are", names=tuple(templates))
        raise SettingsError("unknown_template", name=name, remedy=remedy)
    return BaseContext(base_name(settings), folder, load_tokenizer(folder), templates, name)


def _ignore_progress(phase: Phase, share: float) -> None:
    """Downloading the default model has no progress bar here."""
