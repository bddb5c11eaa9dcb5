"""From options to a model that answers: everything that was named is looked at first."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from model.base_resolver import MODEL_TEMPLATE
from model.config.settings import Settings
from model.doctor.check_adapter import check_adapter
from model.doctor.check_base import collect_findings
from model.folders.adapter_files import CONFIG
from model.serving.background_loader import Load
from model.serving.local_backend import check_early, load_local
from model.serving.manager import ModelManager
from model.serving.remote_backend import load_remote
from model.suggestions import closest, did_you_mean
from model.text.prompt import load_templates
from model.translations import LocalizedText
from model.types import AdapterError, LinlyError, Phase, SettingsError, UnknownModelError
from terminal.console import Console
from terminal.options import RequestDefaults, TerminalOptions


def find_adapter(name: str, adapters_dir: Path) -> Path:
    """The folder of the adapter `name`: a path, or a name in `adapters_dir`.

    Raises:
        UnknownModelError: there is no such folder.
        AdapterError: there is one, and no adapter in it.
    """
    places = [path for path in (Path(name), adapters_dir / name) if path.is_dir()]
    for path in places:
        if (path / CONFIG).is_file():
            # Its last name is what it is known by, and `.` has none.
            return Path(os.path.abspath(path))  # noqa: PTH100 (resolve would follow links)
    if places:
        raise AdapterError(
            "adapter_folder_without_config",
            folder=places[0],
            config=CONFIG,
        )
    if Path(name).is_file():
        raise AdapterError("adapter_path_is_file", name=name)
    raise UnknownModelError("no_adapter", name=name, remedy=_remedy(name, adapters_dir))


def _remedy(name: str, adapters_dir: Path) -> LocalizedText:
    typed = Path(name)
    inside = {path.name: path.name for path in _adapters(adapters_dir)}
    known = {**inside, **{path.name: str(path) for path in _adapters(typed.parent)}}
    close = closest(typed.name, known)
    if close:
        return LocalizedText("did_you_mean", {"name": known[close]})
    if inside:
        return LocalizedText("pass_adapter", {"folder": adapters_dir, "names": tuple(inside)})
    return LocalizedText("pass_folder", {"folder": adapters_dir})


def _adapters(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if (path / CONFIG).is_file())


def refuse_broken(path: Path, templates: Collection[str]) -> None:
    """What is wrong with an adapter by itself; whether it fits its base is seen when that is read.

    Raises:
        AdapterError: it cannot be used.
    """
    for one in collect_findings(lambda: check_adapter(path, None, templates)):
        if one.level == "error":
            raise AdapterError("adapter_broken", name=path.name, problem=one)


WORDS = {
    Phase.STARTING: "Starting",
    Phase.FETCHING: "Fetching the model (once)",
    Phase.CONVERTING: "Converting the model (once, about half a minute)",
    Phase.READING: "Reading the weights",
}
BAR = 24  # characters
POLL_SECONDS = 0.2
JOIN_SECONDS = 2.0  # for the loading thread to notice that nobody wants its model any more


def validate(options: TerminalOptions) -> tuple[RequestDefaults, Load]:
    """The wishes with their adapter's name, and what loads the base with that adapter beside it.

    Raises:
        LinlyError: the adapter, the template or the base cannot be used, as far as that can be
            said before the base is read.
    """
    settings, wishes = options.settings, options.defaults
    adapter = _adapter(options)
    _refuse_unknown(wishes.template, [MODEL_TEMPLATE, *load_templates(settings.prompts_dir)])
    check_early(settings)
    named = replace(wishes, adapter=adapter.name if adapter else None)
    load = load_remote if settings.engine_url else load_local
    return named, partial(load, adapters=[adapter] if adapter else [])


def _adapter(options: TerminalOptions) -> Path | None:
    if options.lora_model is None:
        return None
    settings = options.settings
    adapter = find_adapter(options.lora_model, settings.adapters_dir)
    refuse_broken(adapter, [MODEL_TEMPLATE, *load_templates(settings.prompts_dir)])
    return adapter


def _refuse_unknown(template: str | None, known: list[str]) -> None:
    if template is not None and template not in known:
        remedy = did_you_mean(template, known, "there_are", names=tuple(known))
        raise SettingsError("unknown_template", name=template, remedy=remedy)


@contextmanager
def running_manager(
    settings: Settings, wishes: RequestDefaults, load: Load, screen: Console
) -> Iterator[ModelManager]:
    """A manager that is ready to answer, closed in the end.

    Raises:
        LinlyError: the model could not be loaded.
    """
    manager = ModelManager(settings, load)
    manager.start()
    try:
        _follow(manager, screen)
        _refuse_unknown(wishes.template, [template.name for template in manager.templates()])
        _warn(manager, wishes, screen)
        yield manager
    finally:
        manager.close()
        if not manager.join(JOIN_SECONDS):
            screen.complain("Interrupted.")
            # Torch aborts a process that ends while it works in another thread.
            sys.stdout.flush()
            os._exit(1)


def _follow(manager: ModelManager, screen: Console) -> None:
    """Show each phase until the model is ready."""
    while (status := manager.wait(POLL_SECONDS)).phase in WORDS:
        done = round(status.progress * BAR)
        bar = f"[{'#' * done}{' ' * (BAR - done)}] {status.progress:4.0%}"
        screen.draw(f"{WORDS[status.phase]} {bar}")
    screen.draw("")
    if status.error:
        raise LinlyError(status.error)


def _warn(manager: ModelManager, wishes: RequestDefaults, screen: Console) -> None:
    """What is to be known about the chosen adapter, or about a base that is to chat alone."""
    for adapter in manager.adapters():
        if adapter.name == wishes.adapter:
            for warning in adapter.warnings:
                screen.complain(f"The adapter {adapter.name}: {warning}")
    if not manager.has_chat_template and wishes.adapter is None and wishes.template is None:
        screen.complain(
            "This base has no chat template: it was probably not tuned for conversation and may "
            "answer badly. Pass --lora_model or --prompt_template."
        )
