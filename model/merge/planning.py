"""Plans a merge from the command's options: finds the folders, and checks them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from model.config.process_secrets import without_secrets
from model.config.settings import read_settings
from model.doctor.chat_format import own_template, own_tokenizer
from model.doctor.check import find_folder
from model.doctor.check_adapter import check_for_merging, default_template
from model.doctor.check_base import quick_check, refuse_errors
from model.doctor.vocabulary import adapter_tokenizer, is_other_vocabulary
from model.errors import AdapterError, SettingsError
from model.folders.adapter_files import read_card
from model.folders.base_info import BaseInfo, read_base_info
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.merge import MergePlan
from model.merge.adapter_weights import AdapterWeights, read_adapter
from model.merge.extra_files import ChatFormat
from model.text.prompt_template import PromptTemplate
from model.types import Phase


def plan_merge(
    base_model: str, lora_models: Sequence[str], scales: Sequence[float], dtype: str | None
) -> MergePlan:
    """Returns the checked plan of a merge; the adapters are merged in this order.

    Args:
        base_model: a folder, a name or a hub id.
        lora_models: adapters: folders, or names in adapters/.
        scales: an adapter scale for each of them; empty for 1 each.
        dtype: safetensors' name of the dtype, None for the base's own.

    Raises:
        SettingsError: the numbers of scales and adapters differ.
        FolderError: one of the folders cannot be used.
    """
    from model.base_resolver import MODEL_TEMPLATE, available_templates, base_name, find_base

    adapter_scales = list(scales) or [1.0] * len(lora_models)
    if len(adapter_scales) != len(lora_models):
        raise SettingsError(
            "merge_scale_count", scales=len(adapter_scales), adapters=len(lora_models)
        )
    settings = read_settings([f"--base_model={base_model}"], without_secrets(os.environ))
    base = read_model_folder(find_base(settings, _silent))
    refuse_errors(quick_check(base))
    templates, _ = available_templates(base, settings)
    facts = read_base_info(base, base_name(settings), load_tokenizer(base))
    paths = [find_folder(name) for name in lora_models]
    adapters = [
        _checked(*pair, facts, base.tied_head) for pair in zip(paths, adapter_scales, strict=True)
    ]
    tokenizer = _tokenizer(paths, adapters, facts)
    replaced = any(
        any(len(rows) != facts.rows for rows in adapter.vocabulary)
        and is_other_vocabulary(adapter_tokenizer(path), facts)
        for path, adapter in zip(paths, adapters, strict=True)
    )
    template = _template(paths, templates, default_template(replaced, templates) or MODEL_TEMPLATE)
    if tokenizer is None and template is not None and template.source == base.chat_template:
        template = None  # the base's files with it are copied
    chat_format = ChatFormat(tokenizer, template, _readme(facts, adapters), replaced)
    return MergePlan(base, adapters, dtype, chat_format)


def _checked(path: Path, adapter_scale: float, facts: BaseInfo, tied: bool) -> AdapterWeights:
    try:
        check_for_merging(path, facts)
        return read_adapter(path, adapter_scale, tied)
    except AdapterError as error:
        raise AdapterError("adapter_not_mergeable", name=path.name, problem=error) from error


def _tokenizer(
    paths: Sequence[Path], adapters: Sequence[AdapterWeights], facts: BaseInfo
) -> Path | None:
    """The folder of the last adapter whose chats are served with its own tokenizer."""
    folders = [
        path
        for path, adapter in zip(paths, adapters, strict=True)
        if (adapter_tokenizer(path) if adapter.vocabulary else own_tokenizer(path, facts))
    ]
    return folders[-1] if folders else None


def _template(
    paths: Sequence[Path], templates: Mapping[str, PromptTemplate], default: str
) -> PromptTemplate | None:
    """The template of the last adapter that has one: its card's, else its own; or `default`."""
    for path in reversed(paths):
        template = templates.get(str(read_card(path).get("template"))) or own_template(path)
        if template is not None:
            return template
    return templates.get(default)


def _readme(facts: BaseInfo, adapters: Sequence[AdapterWeights]) -> str:
    parts = [f"{adapter.name} at strength {adapter.adapter_scale:g}" for adapter in adapters]
    return f"# Merged\n\n{facts.name} with {', then '.join(parts)}, merged into its weights."


def _silent(phase: Phase, share: float) -> None:
    """Does not show the progress of a download."""
