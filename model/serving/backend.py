"""A loaded base model that can answer requests, on this machine or on a remote server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model.base_resolver import MODEL_TEMPLATE
from model.engine.protocol import Engine
from model.serving.adapter_registry import AdapterRegistry
from model.text.prompt_template import PromptTemplate
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
    weights_sample: Sequence[float] = ()  # see `model.folders.fingerprint`

    @property
    def has_chat_template(self) -> bool:
        return self.default_template == MODEL_TEMPLATE

    def fingerprint(self, adapter_digest: str) -> str:
        """Returns a short name of everything that a reply depends on beside its request: the base,
        how it is computed, and the adapter, whose digest is empty for the base alone."""
        engine = self.engine
        facts = [
            self.name, list(self.weights_sample), engine.name, engine.device, engine.quantization,
            adapter_digest,
        ]  # fmt: skip
        return "fp_" + hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
