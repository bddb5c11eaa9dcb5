"""From settings to something that serves, where a server elsewhere has the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from model.base_resolver import Report, available_templates, base_name, find_base
from model.config.settings import Settings
from model.diagnostics import finding
from model.display import is_plain_name
from model.engine.remote import RemoteEngine, TokenizerProbe
from model.folders.base_info import base_facts
from model.folders.hub import download, is_hub_id
from model.folders.model_folder import ModelFolder, load_tokenizer, read_model_folder
from model.serving.adapter_registry import Adapter, AdapterRegistry
from model.serving.backend import Backend
from model.text.special_tokens import end_token_ids
from model.text.tokenizer import TextSpan
from model.types import Phase

SMALL = ("*.json", "*.model", "*.jinja")  # of a repository: all but the weights
FIRST_SECONDS = 6.0  # for the server's first answer; without one the page says what is wrong
LONGEST = 2048  # tokens, where neither the model's configuration nor the server says

PROBE = "Hello, world! 你好，世界。 def f(x): return x * 42\n"


def load_remote(settings: Settings, report: Report, adapters: Sequence[Path] = ()) -> Backend:
    """Read the base's tokenizer and turn to the server at `settings.engine_url`.

    Succeeds without the server, too: it is tried until it answers.

    Raises:
        LinlyError: the base's folder cannot be used, in one sentence.
    """
    report(Phase.STARTING, 0.0)
    folder = read_model_folder(_find(settings, report), weights=False)
    tokenizer = load_tokenizer(folder)
    templates, default = available_templates(folder, settings)
    facts = base_facts(folder, base_name(settings), tokenizer)
    registry = RemoteAdapterRegistry(settings.adapters_dir, facts, templates, adapters)
    for path in adapters:
        registry.get(path.name)
    engine = RemoteEngine(
        settings.engine_url or "",
        settings.engine_key,
        base_name(settings),
        settings.context_length or _longest(folder),
        TokenizerProbe(
            tokenizer.encode([TextSpan(PROBE, control=False)]), tokenizer.vocab_size, PROBE
        ),
        registry.folder_of,
    )
    registry.served_by(engine)
    engine.wait_for_poll(FIRST_SECONDS)
    registry.scan()
    eos_ids = end_token_ids(folder.eos_ids, tokenizer.eos_id, tokenizer.prefix_ids)
    return Backend(base_name(settings), engine, tokenizer, eos_ids, registry, templates, default)


class RemoteAdapterRegistry(AdapterRegistry):
    """The adapters that lie here, and those that the server lists beside them.

    One that lies here has its template, its digest and the doctor's verdict; of one that the
    server alone has, its name is all that is known.
    """

    _engine: RemoteEngine | None = None

    def served_by(self, engine: RemoteEngine) -> None:
        self._engine = engine

    def folder_of(self, name: str) -> Path | None:
        """Where an adapter lies here, in full; None if it does not. Looks at no file."""
        found = self._found.get(name)
        return found.path.resolve() if found and found.digest else None

    def _elsewhere(self) -> dict[str, Adapter]:
        names = self._engine.adapters if self._engine else frozenset[str]()
        return {name: Adapter(name, Path(name)) for name in names if is_plain_name(name)}

    def _verdict(self, adapter: Adapter) -> Adapter:
        if adapter.ready and self._engine and not self._engine.can_serve_adapter(adapter.name):
            return replace(adapter, problem=finding("adapter_not_served", name=adapter.name))
        return super()._verdict(adapter)


def _find(settings: Settings, report: Report) -> Path:
    """The base's folder; of a repository on the hub the weights stay where they are."""
    if is_hub_id(settings.base_model):
        report(Phase.FETCHING, 0.0)
        return download(settings.base_model, SMALL)
    return find_base(settings, report)


def _longest(folder: ModelFolder) -> int:
    told = folder.config.get("max_position_embeddings")
    return told if isinstance(told, int) and told > 0 else LONGEST
