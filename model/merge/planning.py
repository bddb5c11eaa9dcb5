"""From what somebody asked for to a merge that can be done: folders found, and checked first."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from model.config.process_secrets import without_secrets
from model.config.settings import read_settings
from model.doctor.check import find_folder
from model.doctor.check_adapter import check_for_merging, usual_template
from model.doctor.check_base import quick_check
from model.doctor.vocabulary import own_tokenizer
from model.errors import AdapterError, SettingsError
from model.folders.adapter_files import read_card
from model.folders.base_info import BaseInfo, read_base_info
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.merge import Merge
from model.merge.extra_files import ChatFormat
from model.merge.weights import AdapterWeights, read_adapter
from model.text.prompt import PromptTemplate
from model.types import Phase


def plan_merge(
    base_model: str, lora_models: Sequence[str], scales: Sequence[float], dtype: str | None
) -> Merge:
    """What is to be merged, in this order.

    Args:
        base_model: a folder, a name or a hub id.
        lora_models: adapters: folders, or names in adapters/.
        scales: a strength for each of them, or none for 1 throughout.
        dtype: safetensors' name of the type, None for the base's own.

    Raises:
        SettingsError: there are more or fewer strengths than adapters.
        FolderError: one of the folders cannot be used, in one sentence.
    """
    from model.base_resolver import MODEL_TEMPLATE, base_name, find_base, known_templates
    from model.doctor.check_base import refuse_errors

    strengths = list(scales) or [1.0] * len(lora_models)
    if len(strengths) != len(lora_models):
        raise SettingsError(
            "merge_scale_count",
            scales=len(strengths),
            adapters=len(lora_models),
        )
    settings = read_settings([f"--base_model={base_model}"], without_secrets(os.environ))
    base = read_model_folder(find_base(settings, _silent))
    refuse_errors(quick_check(base))
    templates, _ = known_templates(base, settings)
    facts = read_base_info(base, base_name(settings), load_tokenizer(base))
    paths = [find_folder(name) for name in lora_models]
    adapters = [_checked(*pair, facts) for pair in zip(paths, strengths, strict=True)]
    own = _tokenizer(paths, adapters)
    grown = any(len(w) != facts.rows for a in adapters for w in a.whole.values())
    template = _template(paths, templates, usual_template(grown, templates) or MODEL_TEMPLATE)
    if own is None and template is not None and template.source == base.chat_template:
        template = None  # it is there, and stays where it is
    voice = ChatFormat(own, template, _story(facts, adapters))
    return Merge(base, adapters, dtype, voice)


def _checked(path: Path, strength: float, facts: BaseInfo) -> AdapterWeights:
    try:
        check_for_merging(path, facts)
        return read_adapter(path, strength)
    except AdapterError as error:
        raise AdapterError("adapter_not_mergeable", name=path.name, problem=error) from error


def _tokenizer(paths: Sequence[Path], adapters: Sequence[AdapterWeights]) -> Path | None:
    """The last adapter that brings an embedding and a tokenizer decides."""
    pairs = zip(paths, adapters, strict=True)
    own = [path for path, adapter in pairs if adapter.whole and own_tokenizer(path) is not None]
    return own[-1] if own else None


def _template(
    paths: Sequence[Path], templates: Mapping[str, PromptTemplate], usual: str
) -> PromptTemplate | None:
    """The last adapter that tells one decides; else the usual one, if there is such a one."""
    told = [str(read_card(path).get("template")) for path in paths]
    known = [templates[name] for name in told if name in templates]
    return known[-1] if known else templates.get(usual)


def _story(facts: BaseInfo, adapters: Sequence[AdapterWeights]) -> str:
    parts = [f"{adapter.name} at strength {adapter.strength:g}" for adapter in adapters]
    return f"# Merged\n\n{facts.name} with {', then '.join(parts)}, merged into its weights."


def _silent(phase: Phase, share: float) -> None:
    """Fetching the embedded default says nothing here."""
