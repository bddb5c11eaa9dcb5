"""From what `--lora_model` says to an adapter's folder, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from model.doctor.check_adapter import check_adapter
from model.doctor.check_base import collect_findings
from model.folders.adapter_files import CONFIG
from model.suggestions import closest
from model.translations import LocalizedText
from model.types import AdapterError, UnknownModelError


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
