"""What a training stands on: the base's folder, its tokenizer and a prompt template."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.base_resolver import base_name, find_base, known_templates
from model.config.process_secrets import without_secrets
from model.config.settings import read_settings
from model.doctor.check_adapter import check_adapter
from model.doctor.check_base import collect_findings
from model.folders.base_info import BaseInfo, base_facts
from model.folders.model_folder import ModelFolder, load_tokenizer, read_model_folder
from model.suggestions import did_you_mean
from model.text.prompt import PromptTemplate
from model.text.special_tokens import sane_ids
from model.text.tokenizer import Tokenizer
from model.types import AdapterError, Phase, SettingsError
from training.generation import GreedyGenerator
from training.options import TrainingOptions


@dataclass(frozen=True)
class BaseContext:
    """`template_name` is what the adapter's card will say."""

    name: str
    folder: ModelFolder
    tokenizer: Tokenizer
    templates: Mapping[str, PromptTemplate]
    template_name: str

    @property
    def template(self) -> PromptTemplate:
        return self.templates[self.template_name]

    @property
    def speaker(self) -> GreedyGenerator:
        own = self.tokenizer
        eos_ids = sane_ids(self.folder.eos_ids, own.eos_id, own.prefix_ids)
        return GreedyGenerator(self.template, own, eos_ids)

    def facts(self) -> BaseInfo:
        """The base's shapes, and the sample that it is known by."""
        return base_facts(self.folder, self.name, self.tokenizer)

    def refuse_foreign(self, adapter: Path) -> None:
        """Whether the adapter in that folder is this base's, and speaks its vocabulary.

        Raises:
            AdapterError: it is not.
        """
        for one in collect_findings(lambda: check_adapter(adapter, self.facts(), self.templates)):
            if one.level == "error":
                raise AdapterError("adapter_unusable", adapter=adapter, problem=one)
            if one.code == "adapter_vocabulary":
                raise AdapterError("adapter_own_vocabulary_untrainable", adapter=adapter)


def resolve_base(options: TrainingOptions) -> BaseContext:
    """The base that `options` name, or the usual one.

    Raises:
        LinlyError: there is no such base or template, in one sentence.
    """
    given = [] if options.base_model is None else [f"--base_model={options.base_model}"]
    settings = read_settings(given, without_secrets(os.environ))
    folder = read_model_folder(find_base(settings, _say_nothing))
    templates, default = known_templates(folder, settings)
    name = options.template or default
    if name not in templates:
        remedy = did_you_mean(name, templates, "there_are", names=tuple(templates))
        raise SettingsError("unknown_template", name=name, remedy=remedy)
    return BaseContext(base_name(settings), folder, load_tokenizer(folder), templates, name)


def _say_nothing(phase: Phase, share: float) -> None:
    """Fetching the embedded default has no bar of its own here."""
