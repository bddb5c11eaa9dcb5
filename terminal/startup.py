"""Checks the options and loads the model: the adapter and the template before the base is read."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from model.base_resolver import MODEL_TEMPLATE
from model.config.settings import Settings
from model.doctor.check_adapter import check_adapter
from model.doctor.check_base import collect_findings
from model.errors import AdapterError, LinlyError, SettingsError, UnknownModelError
from model.folders.adapter_config import CONFIG
from model.serving.background_loader import Load
from model.serving.local_backend import check_early, load_local
from model.serving.manager import ModelManager
from model.serving.remote_backend import load_remote
from model.suggestions import did_you_mean
from model.text.prompt_template import load_templates
from model.translations import LocalizedText
from model.types import Phase
from terminal.console import Console
from terminal.options import RequestDefaults, TerminalOptions

PHASE_TEXTS = {
    Phase.STARTING: "Starting",
    Phase.FETCHING: "Fetching the model (once)",
    Phase.CONVERTING: "Converting the model (once, about half a minute)",
    Phase.READING: "Reading the weights",
}
BAR_WIDTH = 24  # characters
POLL_SECONDS = 0.2


def validate(options: TerminalOptions) -> tuple[RequestDefaults, Load]:
    """The defaults with the adapter's name, and a function that loads the base with the adapter.

    Raises:
        LinlyError: the adapter, the template or the base cannot be used, as far as that can be
            checked before the base is read.
    """
    settings, defaults = options.settings, options.defaults
    templates = [MODEL_TEMPLATE, *load_templates(settings.prompts_dir)]
    adapter = None
    if options.lora_model is not None:
        adapter = find_adapter(options.lora_model, settings.adapters_dir)
        check_adapter_folder(adapter, templates)
    _check_template(defaults.template, templates)
    folder = check_early(settings)
    named = replace(defaults, adapter=adapter.name if adapter else None)
    load = load_remote if settings.engine_url else load_local
    return named, partial(load, adapters=[adapter] if adapter else [], folder=folder)


def find_adapter(name: str, adapters_dir: Path) -> Path:
    """The folder of the adapter `name`: a path, or a name in `adapters_dir`.

    Raises:
        UnknownModelError: there is no such folder.
        AdapterError: there is one without an adapter in it.
    """
    folders = [path for path in (Path(name), adapters_dir / name) if path.is_dir()]
    for folder in folders:
        if (folder / CONFIG).is_file():
            # An absolute path, because its last part becomes the adapter's name.
            return Path(os.path.abspath(folder))  # noqa: PTH100 (resolve would follow links)
    if folders:
        raise AdapterError("adapter_folder_without_config", folder=folders[0], config=CONFIG)
    if Path(name).is_file():
        raise AdapterError("adapter_path_is_file", name=name)
    raise UnknownModelError("no_adapter", name=name, remedy=_remedy(name, adapters_dir))


def _remedy(name: str, adapters_dir: Path) -> LocalizedText:
    """A close name in `adapters_dir` or a close path beside `name`; else a list of the names."""
    typed = Path(name)
    names = tuple(path.name for path in _adapters(adapters_dir))
    paths = {path.name: str(path) for path in _adapters(typed.parent)}
    return did_you_mean(
        typed.name, [*names, *paths], "pass_adapter" if names else "pass_folder",
        display=lambda close: paths.get(close, close), folder=adapters_dir, names=names,
    )  # fmt: skip


def _adapters(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if (path / CONFIG).is_file())


def check_adapter_folder(path: Path, templates: Collection[str]) -> None:
    """Checks an adapter without its base; whether they fit is checked when the base is read.

    Raises:
        AdapterError: it cannot be used.
    """
    for finding in collect_findings(lambda: check_adapter(path, None, templates)):
        if finding.level == "error":
            raise AdapterError("adapter_broken", name=path.name, problem=finding)


def _check_template(name: str | None, templates: Collection[str]) -> None:
    if name is not None and name not in templates:
        remedy = did_you_mean(name, templates, "there_are", names=tuple(templates))
        raise SettingsError("unknown_template", name=name, remedy=remedy)


@contextmanager
def running_manager(
    settings: Settings, defaults: RequestDefaults, load: Load, console: Console
) -> Iterator[ModelManager]:
    """Yields a manager whose model is ready, and closes it in the end.

    Raises:
        LinlyError: the model could not be loaded.
    """
    manager = ModelManager(settings, load)
    manager.start()
    try:
        _show_loading(manager, console)
        _check_template(defaults.template, [template.name for template in manager.templates()])
        _print_warnings(manager, defaults, console)
        yield manager
    finally:
        manager.close()


def _show_loading(manager: ModelManager, console: Console) -> None:
    """Shows each phase until the model is ready."""
    while (status := manager.wait(POLL_SECONDS)).phase in PHASE_TEXTS:
        done = round(status.progress * BAR_WIDTH)
        bar = f"[{'#' * done}{' ' * (BAR_WIDTH - done)}] {status.progress:4.0%}"
        console.show_status(f"{PHASE_TEXTS[status.phase]} {bar}")
    console.show_status("")
    if status.error:
        raise LinlyError(status.error)


def _print_warnings(manager: ModelManager, defaults: RequestDefaults, console: Console) -> None:
    """Prints the chosen adapter's warnings; warns if the base has no chat template."""
    for adapter in manager.adapters():
        if adapter.name == defaults.adapter:
            for warning in adapter.warnings:
                console.print_error(f"The adapter {adapter.name}: {warning}")
    if not manager.has_chat_template and defaults.adapter is None and defaults.template is None:
        console.print_error(
            "This base has no chat template: it was probably not tuned for conversation and may "
            "answer badly. Pass --lora_model or --prompt_template."
        )
