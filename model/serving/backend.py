"""A loaded base model that can answer requests, on this machine or on a remote server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from model.base_resolver import MODEL_TEMPLATE
from model.engine.protocol import Engine
from model.serving.adapter_registry import AdapterRegistry
from model.text.prompt import PromptTemplate
from model.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Backend:
    """An engine, with the tokenizer, templates and adapters that its requests need."""

    name: str
    engine: Engine
    tokenizer: Tokenizer
    eos_ids: frozenset[int]
    registry: AdapterRegistry
    templates: Mapping[str, PromptTemplate]
    default_template: str

    @property
    def has_chat_template(self) -> bool:
        return self.default_template == MODEL_TEMPLATE
