"""The doctor: what is wrong with a model folder or an adapter before it produces garbage.

`check_folder` is what `python -m model check` runs. The app runs its quick parts,
`check_base.quick_check` and `check_adapter.check_adapter`, before it loads a base or an adapter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from model.config.process_secrets import without_secrets
from model.config.settings import CHECKOUT, Settings, read_settings
from model.diagnostics import Finding, finding, folder_error
from model.doctor.check_adapter import check_adapter
from model.doctor.check_base import check_base, collect_findings
from model.doctor.report import Report, files_of
from model.folders.adapter_config import CONFIG as ADAPTER_CONFIG
from model.folders.adapter_files import CARD, WEIGHTS, read_card
from model.folders.base_info import read_base_info
from model.folders.model_folder import ModelFolder, load_tokenizer, read_model_folder
from model.progress_bar import Bar
from model.suggestions import closest_folder
from model.text.prompt import PromptTemplate, load_templates
from model.types import Phase

PROBED_BYTES = 2_000_000_000  # larger bases are loaded only with --deep


def check_folder(name: str, base_model: str | None, *, deep: bool, bar: Bar) -> Report:
    """Look over the folder `name`, an adapter against `base_model` if that is given.

    Raises:
        ModelFolderError: there is no such folder, or no such base.
    """
    folder = find_folder(name)
    flags = [f"--base_model={base_model}"] if base_model else []
    settings = read_settings(flags, without_secrets(os.environ))
    if any((folder / file).is_file() for file in (ADAPTER_CONFIG, CARD, *WEIGHTS)):
        kind, found = "adapter", list(_adapter(folder, settings, base_model, deep))
    elif (folder / "config.json").is_file():
        kind, found = "base", list(collect_findings(lambda: check_base(folder, deep=deep, bar=bar)))
    else:
        kind, found = "unknown", list(collect_findings(lambda: _nothing(folder)))
    return Report(folder, kind, files_of(folder), found)


def find_folder(name: str) -> Path:
    """The folder `name`: a path, or a name in models/, in adapters/ or of the embedded default.

    Raises:
        ModelFolderError: there is none.
    """
    from model.default_model import embedded_folder

    places = (CHECKOUT / "models", CHECKOUT / "adapters", embedded_folder(_cache()).parent)
    found = [path for path in (Path(name), *(place / name for place in places)) if path.is_dir()]
    if found:
        return found[0]
    if Path(name).is_file():
        raise folder_error("file_not_folder", file=name)
    close = closest_folder(Path(name), (Path(name).parent, *places))
    if close:
        raise folder_error("nothing_called_but", name=name, close=close)
    raise folder_error("nothing_called", name=name)


def _cache() -> Path:
    return read_settings([], without_secrets(os.environ)).cache_dir


def _nothing(folder: Path) -> Iterator[Finding]:
    """Says what is there instead of a model."""
    _ = ModelFolder(folder).config
    yield from ()


def _adapter(
    folder: Path, settings: Settings, base_model: str | None, deep: bool
) -> Iterator[Finding]:
    templates = load_templates(settings.prompts_dir)
    if base_model is None:
        names = {*templates, "model"}
        yield from collect_findings(lambda: check_adapter(folder, None, names))
        yield finding("base_untold")
        return
    from model.base_resolver import base_name, find_base, known_templates

    base = read_model_folder(find_base(settings, _silent))
    known, default = known_templates(base, settings)
    facts = read_base_info(base, base_name(settings), load_tokenizer(base))
    found = list(collect_findings(lambda: check_adapter(folder, facts, known)))
    yield from found
    # Ids of another vocabulary mean other words: their distributions do not compare.
    comparable = not any(o.level == "error" or o.code == "adapter_vocabulary" for o in found)
    if comparable and (deep or base.nbytes <= PROBED_BYTES):
        template = known[read_card(folder).get("template") or default]
        yield from _effect(folder, base, template)


def _effect(folder: Path, base: ModelFolder, template: PromptTemplate) -> Iterator[Finding]:
    from model.doctor.adapter_effect import measure_effect

    yield from collect_findings(lambda: measure_effect(folder, base, template))


def _silent(phase: Phase, share: float) -> None:
    """Progress of a check is not shown."""
