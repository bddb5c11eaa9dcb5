"""Models on the Hugging Face hub: which files there are, and getting the ones that are wanted."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from filelock import FileLock

from model.diagnostics import folder_error
from model.errors import ModelFolderError

HUB_ID = re.compile(r"^[\w-][\w.-]*/[\w-][\w.-]*$")
HUB_FILE = re.compile(r"^(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:/(?P<file>.+))?$")
LARGE = 10_000_000  # bytes, from which on an interrupted download is worth going on with
SERVED = ("*.json", "*.safetensors", "*.bin", "*.model", "*.jinja")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, with its size in bytes."""

    name: str
    nbytes: int


def is_hub_id(name: str) -> bool:
    """`org/name`, unless there is such a folder here, or at least the one above it."""
    return bool(HUB_ID.match(name)) and not Path(name).parent.is_dir()


def repo_and_file(name: str) -> tuple[str, str | None] | None:
    """`org/name` or `org/name/file` in its parts, unless there is a folder `org` here."""
    found = HUB_FILE.match(name)
    if found is None or Path(name.partition("/")[0]).is_dir():
        return None
    return found["repo"], found["file"]


def list_files(repo: str) -> list[HubFile]:
    """What the repository `repo` holds.

    Raises:
        ModelFolderError: there is none, or no network.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repo, files_metadata=True)
    except Exception as error:  # the hub client and its HTTP library each have their own
        raise _unreachable(repo, error) from error
    return [HubFile(file.rfilename, file.size or 0) for file in info.siblings or ()]


def download(repo: str, patterns: Sequence[str] = SERVED) -> Path:
    """The folder with the repository's files that match; those that are there already are not
    fetched again, and a large one that was interrupted goes on.

    Raises:
        ModelFolderError: it could not be done.
    """
    from huggingface_hub import snapshot_download

    # Its retries are no news; what ends them is told here.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        if not is_offline():
            for file in list_files(repo):
                if file.nbytes >= LARGE and any(fnmatch(file.name, p) for p in patterns):
                    _fetch(repo, file.name)
        return Path(snapshot_download(repo, allow_patterns=list(patterns)))
    except ModelFolderError:
        raise
    except Exception as error:  # as above, and the disk's
        raise _unreachable(repo, error) from error


def is_offline() -> bool:
    """Whether the hub's client is told to do without a network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _fetch(repo: str, name: str) -> None:
    """Put a file where the hub's client looks for it.

    By itself the client starts over when a process ends; 26 GB are too much for that.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(repo, name)
    told = get_hf_file_metadata(url)
    kept = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    blob = kept / "blobs" / str(told.etag)
    if blob.exists():
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    unfinished = blob.with_name(f"{blob.name}.part")
    with FileLock(f"{unfinished}.lock"), unfinished.open("ab") as file:
        http_get(
            url, file, resume_size=file.tell(), headers=build_hf_headers(),
            expected_size=told.size, displayed_filename=name,
        )  # fmt: skip
    unfinished.rename(blob)


def check_free_space(repo: str, files: Sequence[HubFile]) -> None:
    """Whether the hub's cache has room for what is not in it yet.

    Raises:
        ModelFolderError: it has not.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    cached = {f.name for f in files if isinstance(try_to_load_from_cache(repo, f.name), str)}
    needed = sum(file.nbytes for file in files if file.name not in cached)
    cache = Path(constants.HF_HUB_CACHE)
    there = next(path for path in (cache, *cache.parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise folder_error("disk_too_small", folder=cache, needed=needed / 1e9, free=free / 1e9)


def _unreachable(repo: str, error: Exception) -> ModelFolderError:
    said = next(iter(str(error).splitlines()), "") or type(error).__name__
    return folder_error("hub_failed", repo=repo, said=said)
