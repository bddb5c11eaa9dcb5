"""What SOURCE is: a file, a folder or a hub id, and in which format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from model.diagnostics import folder_error
from model.folders import hub

WEIGHTS = ("*.gguf", "*.bin")
REST = ("*.json", "*.model", "*.jinja", "*.txt", "*.md", "LICENSE*", "*.chk")
NO_MODEL = ("training_args.bin", "optimizer.bin", "scheduler.bin", "adapter_model.bin")


@dataclass(frozen=True)
class Source:
    """A .gguf file; a .bin of TencentPretrain with its `tokenizer`; or a folder."""

    path: Path
    tokenizer: Path | None


def find_source(name: str, tokenizer: Path | None, say: Callable[[str], None]) -> Source:
    """The source `name`; from the hub, what is needed of it is downloaded first.

    Raises:
        ModelFolderError: there is none, or several that it could be.
    """
    if tokenizer is not None and not tokenizer.is_file():
        raise folder_error("source_missing", source=tokenizer)
    path = Path(name)
    on_the_hub = None if path.exists() else hub.repo_and_file(name)
    if on_the_hub:
        path = _from_hub(*on_the_hub, say)
    if not path.exists():
        raise folder_error("source_missing", source=path)
    if path.is_dir():
        path = _in_folder(path)
    return Source(path, tokenizer or _beside(path, say))


def _in_folder(folder: Path) -> Path:
    """The folder itself if it is in the Hugging Face layout, else the weights file in it."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    chosen = choose(names, str(folder))
    return folder if chosen is None else folder / chosen


def choose(names: Sequence[str], where: str) -> str | None:
    """Which of a folder's files is the source; None for the Hugging Face layout as a whole.

    Raises:
        ModelFolderError: none of them, or more than one.
    """
    if "config.json" in names and not any(fnmatch(name, "*.gguf") for name in names):
        return None
    if any(fnmatch(name, "consolidated.*.pth") for name in names):
        raise folder_error("metas_format", folder=where)
    found = [n for n in names if any(fnmatch(n, p) for p in WEIGHTS) and n not in NO_MODEL]
    if len(found) != 1:
        code = "source_ambiguous" if found else "source_empty"
        raise folder_error(code, folder=where, names=", ".join(sorted(found)))
    return found[0]


def _beside(path: Path, say: Callable[[str], None]) -> Path | None:
    """The SentencePiece model beside a TencentPretrain checkpoint, if there is just one."""
    if path.suffix != ".bin":
        return None
    found = sorted(path.parent.glob("*.model"))
    if len(found) != 1:
        raise folder_error("tokenizer_not_told", file=path, count=len(found))
    say(f"The tokenizer is {found[0]}")
    return found[0]


def _from_hub(repo: str, file: str | None, say: Callable[[str], None]) -> Path:
    """The path of a repository, or of a file in it, once what it needs is downloaded."""
    files = hub.list_files(repo)
    names = [held.name for held in files]
    if file is not None and file not in names:
        raise folder_error("source_missing", source=f"{repo}/{file}")
    chosen = file or choose([n for n in names if "/" not in n], repo)
    wanted = _wanted(names, chosen, repo)
    hub.check_free_space(repo, [held for held in files if held.name in wanted])
    gigabytes = sum(held.nbytes for held in files if held.name in wanted) / 1e9
    say(f"Downloading {gigabytes:.1f} GB of {repo} (kept in the hub's cache) …")
    folder = hub.download(repo, wanted)
    return folder / chosen if chosen else folder


def _wanted(names: Sequence[str], chosen: str | None, where: str) -> list[str]:
    """The files to download: the chosen one, or all weights, and the small ones around them."""
    small = [name for name in names if any(fnmatch(name, pattern) for pattern in REST)]
    if chosen is not None:
        return [chosen, *(small if chosen.endswith(".bin") else ())]
    if any(name.endswith(".safetensors") for name in names):
        raise folder_error("converted_already", folder=where)
    return [*small, *(n for n in names if n.endswith(".bin") and n not in NO_MODEL)]
