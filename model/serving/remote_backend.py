"""Builds the backend that forwards requests to an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from model.base_resolver import Report, available_templates, base_name, find_base
from model.config.settings import Settings
from model.diagnostics import finding
from model.display import is_plain_name
from model.engine.remote import RemoteEngine, TokenizerProbe
from model.folders.base_info import read_base_info
from model.folders.hub import download, is_hub_id
from model.folders.model_folder import ModelFolder, load_tokenizer, read_model_folder
from model.serving.adapter_folders import Adapter
from model.serving.adapter_registry import AdapterRegistry
from model.serving.backend import Backend
from model.text.special_tokens import end_token_ids
from model.text.tokenizer import TextSpan, Tokenizer
from model.types import Phase

SMALL_FILES = ("*.json", "*.model", "*.jinja")  # of a repository: all but the weights
FIRST_POLL_SECONDS = 6.0  # to wait for the server; without a response the page shows the error
DEFAULT_CONTEXT_LENGTH = 2048  # tokens, where neither config.json nor the server has a number

PROBE = "Hello, world! 你好，世界。 def f(x): return x * 42\n"


def load_remote(
    settings: Settings,
    report: Report,
    adapters: Sequence[Path] = (),
    folder: ModelFolder | None = None,
) -> Backend:
    """Reads the base's tokenizer and connects to the server at `settings.engine_url`.

    Succeeds even if the server does not respond: the engine polls it until it does.

    Args:
        settings: the base, and where the server is.
        report: receives the phase and its progress.
        adapters: folders to serve beside those in `adapters_dir`.
        folder: the base's folder, as `check_early` has read it.

    Raises:
        LinlyError: the base's folder cannot be used.
    """
    report(Phase.STARTING, 0.0)
    folder = folder or read_model_folder(_find_folder(settings, report), weights=False)
    tokenizer = load_tokenizer(folder)
    templates, default = available_templates(folder, settings)
    base_info = read_base_info(folder, base_name(settings), tokenizer)
    registry = RemoteAdapterRegistry(settings.adapters_dir, base_info, templates, adapters)
    for path in adapters:
        registry.get(path.name)
    engine = _create_engine(settings, folder, tokenizer, registry)
    registry.set_engine(engine)
    engine.wait_for_poll(FIRST_POLL_SECONDS)
    registry.scan()
    eos_ids = end_token_ids(folder.eos_ids, tokenizer.eos_id, tokenizer.prefix_ids)
    return Backend(
        base_name(settings), engine, tokenizer, eos_ids, registry, templates, default,
        base_info.fingerprint,
    )  # fmt: skip


def _create_engine(
    settings: Settings, folder: ModelFolder, tokenizer: Tokenizer, registry: RemoteAdapterRegistry
) -> RemoteEngine:
    probe_ids = tokenizer.encode([TextSpan(PROBE, control=False)])
    return RemoteEngine(
        settings.engine_url or "",
        settings.engine_key,
        base_name(settings),
        settings.context_length or _max_context_length(folder),
        TokenizerProbe(probe_ids, tokenizer.vocab_size, PROBE),
        registry.folder_of,
        settings.max_waiting,
    )


class RemoteAdapterRegistry(AdapterRegistry):
    """The adapters in this machine's folders, and those that only the server has.

    An adapter with a folder has a template and a digest, and was checked. Of an adapter that only
    the server has, only the name is known.
    """

    _engine: RemoteEngine | None = None

    def set_engine(self, engine: RemoteEngine) -> None:
        self._engine = engine

    def folder_of(self, name: str) -> Path | None:
        """The absolute path of an adapter's folder; None if it has none here. Reads no file."""
        adapter = self._adapters.get(name)
        return adapter.path.resolve() if adapter and adapter.digest else None

    def _remote_adapters(self) -> dict[str, Adapter]:
        names = self._engine.adapters if self._engine else frozenset[str]()
        return {name: Adapter(name, Path(name)) for name in names if is_plain_name(name)}

    def _with_availability(self, adapter: Adapter) -> Adapter:
        if adapter.ready and self._engine and not self._engine.can_serve_adapter(adapter.name):
            return replace(adapter, problem=finding("adapter_not_served", name=adapter.name))
        return super()._with_availability(adapter)


def _find_folder(settings: Settings, report: Report) -> Path:
    """Returns the base's folder. Of a repository on the hub only the small files are downloaded."""
    if is_hub_id(settings.base_model):
        report(Phase.FETCHING, 0.0)
        return download(settings.base_model, SMALL_FILES)
    return find_base(settings, report)


def _max_context_length(folder: ModelFolder) -> int:
    length = folder.config.get("max_position_embeddings")
    return length if isinstance(length, int) and length > 0 else DEFAULT_CONTEXT_LENGTH
