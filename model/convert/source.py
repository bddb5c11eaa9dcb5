"""Finds the source of a conversion: a file, a folder or a hub id, and its format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from model.convert.gguf_parts import check_parts, is_piece, part_names
from model.diagnostics import folder_error
from model.folders import hub
from model.folders.incomplete_folders import NOT_MODELS, missing_config_error

WEIGHTS = ("*.gguf", "*.bin")
EXTRA_FILES = ("*.json", "*.model", "*.jinja", "*.txt", "*.md", "LICENSE*", "*.chk")


@dataclass(frozen=True)
class Source:
    """A .gguf file; a .bin of TencentPretrain with its `tokenizer`; or a folder."""

    path: Path
    tokenizer: Path | None


def find_source(name: str, tokenizer: Path | None, log: Callable[[str], None]) -> Source:
    """Finds the source `name`; downloads the files it needs if `name` is on the hub.

    Raises:
        ModelFolderError: there is no such source, or the choice is ambiguous.
    """
    if tokenizer is not None and not tokenizer.is_file():
        raise folder_error("source_missing", source=tokenizer)
    path = Path(name)
    repo_and_file = None if path.exists() else hub.repo_and_file(name)
    if repo_and_file:
        path = _download(*repo_and_file, log)
    if not path.exists():
        raise folder_error("source_missing", source=path)
    if path.is_dir():
        path = _source_in_folder(path)
    if is_piece(path.name):
        raise folder_error("gguf_pieces", name=path.name)
    return Source(path, tokenizer or _tokenizer_beside(path, log))


def _source_in_folder(folder: Path) -> Path:
    """The folder itself if it is in the Hugging Face layout, else the weights file in it."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    error = None if "config.json" in names else missing_config_error(folder)
    if error is not None and not any(fnmatch(name, "*.gguf") for name in names):
        raise error
    chosen = choose_source_file(names, str(folder))
    return folder if chosen is None else folder / chosen


def choose_source_file(names: Sequence[str], folder: str) -> str | None:
    """The file of a folder that is the source; None for a folder in the Hugging Face layout. Of a
    split GGUF file it is the first part, whether that exists or not.

    Raises:
        ModelFolderError: no file can be it, or more than one.
    """
    if "config.json" in names and not any(fnmatch(name, "*.gguf") for name in names):
        return None
    if any(fnmatch(name, "consolidated.*.pth") for name in names):
        raise folder_error("metas_format", folder=folder)
    weights = [n for n in names if any(fnmatch(n, p) for p in WEIGHTS) and n not in NOT_MODELS]
    sources = sorted({part_names(name)[0] for name in weights})
    pieces = sorted(filter(is_piece, names))
    if not sources and pieces:
        raise folder_error("gguf_pieces", name=pieces[0])
    if len(sources) != 1:
        code = "source_ambiguous" if sources else "source_empty"
        raise folder_error(code, folder=folder, names=", ".join(sources))
    return sources[0]


def _tokenizer_beside(path: Path, log: Callable[[str], None]) -> Path | None:
    """The SentencePiece model beside a TencentPretrain checkpoint; None for other formats."""
    if path.suffix != ".bin":
        return None
    models = sorted(path.parent.glob("*.model"))
    if len(models) != 1:
        raise folder_error("tokenizer_not_told", file=path, count=len(models))
    log(f"The tokenizer is {models[0]}")
    return models[0]


def _download(repo: str, file: str | None, log: Callable[[str], None]) -> Path:
    """Downloads a repository, or a file of it with the files it needs; returns its path."""
    files = hub.list_files(repo)
    names = [listed.name for listed in files]
    if file is not None and file not in names:
        raise folder_error("source_missing", source=f"{repo}/{file}")
    chosen = file or choose_source_file([n for n in names if "/" not in n], repo)
    needed = _needed_files(names, chosen, repo)
    hub.check_free_space(repo, [listed for listed in files if listed.name in needed])
    gigabytes = sum(listed.nbytes for listed in files if listed.name in needed) / 1e9
    log(f"Downloading {gigabytes:.1f} GB of {repo} (kept in the hub's cache) …")
    folder = hub.download(repo, needed)
    return folder / chosen if chosen else folder


def _needed_files(names: Sequence[str], chosen: str | None, repo: str) -> list[str]:
    """The files to download: the chosen one, or all weights, and the small files beside them."""
    small = [name for name in names if any(fnmatch(name, pattern) for pattern in EXTRA_FILES)]
    if chosen is not None:
        return [*check_parts(chosen, names), *(small if chosen.endswith(".bin") else ())]
    if any(name.endswith(".safetensors") for name in names):
        raise folder_error("converted_already", folder=repo)
    return [*small, *(n for n in names if n.endswith(".bin") and n not in NOT_MODELS)]
