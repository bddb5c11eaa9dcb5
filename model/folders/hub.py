"""Lists and downloads the files of models on the Hugging Face hub."""

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
LARGE = 10_000_000  # bytes; an interrupted download of a larger file is continued
DEFAULT_PATTERNS = ("*.json", "*.safetensors", "*.bin", "*.model", "*.jinja")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, with its size in bytes."""

    name: str
    nbytes: int


def is_hub_id(name: str) -> bool:
    """Whether `name` is `org/name`, and there is no local folder `org`."""
    return bool(HUB_ID.match(name)) and not Path(name).parent.is_dir()


def repo_and_file(name: str) -> tuple[str, str | None] | None:
    """Splits `org/name` or `org/name/file` into repository and file.

    Returns None if it is neither, or there is a local folder `org`.
    """
    match = HUB_FILE.match(name)
    if match is None or Path(name.partition("/")[0]).is_dir():
        return None
    return match["repo"], match["file"]


def list_files(repo: str) -> list[HubFile]:
    """Lists the files of the repository `repo`.

    Raises:
        ModelFolderError: there is no such repository, or no network.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repo, files_metadata=True)
    except Exception as error:  # the hub's client and its HTTP library have their own exceptions
        raise _unreachable(repo, error) from error
    return [HubFile(file.rfilename, file.size or 0) for file in info.siblings or ()]


def download(repo: str, patterns: Sequence[str] = DEFAULT_PATTERNS) -> Path:
    """Downloads the files of a repository that match `patterns`. Returns their folder.

    Cached files are not downloaded again; an interrupted download of a large file is continued.

    Raises:
        ModelFolderError: the download failed.
    """
    from huggingface_hub import snapshot_download

    # The client logs its retries, which users need not see; the final error is raised below.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        if not is_offline():
            for file in list_files(repo):
                if file.nbytes >= LARGE and any(fnmatch(file.name, p) for p in patterns):
                    _download_file(repo, file.name)
        return Path(snapshot_download(repo, allow_patterns=list(patterns)))
    except ModelFolderError:
        raise
    except Exception as error:  # as above, and errors of the disk
        raise _unreachable(repo, error) from error


def is_offline() -> bool:
    """Whether the hub's client is configured to work without a network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _download_file(repo: str, name: str) -> None:
    """Downloads a file into the cache of the hub's client, and continues an interrupted download.

    The client itself starts over after the process ends, which is too much for 26 GB.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(repo, name)
    metadata = get_hf_file_metadata(url)
    repo_cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    blob = repo_cache / "blobs" / str(metadata.etag)
    if blob.exists():
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    unfinished = blob.with_name(f"{blob.name}.part")
    with FileLock(f"{unfinished}.lock"), unfinished.open("ab") as file:
        http_get(
            url, file, resume_size=file.tell(), headers=build_hf_headers(),
            expected_size=metadata.size, displayed_filename=name,
        )  # fmt: skip
    unfinished.rename(blob)


def check_free_space(repo: str, files: Sequence[HubFile]) -> None:
    """Checks that the disk has room for the files that are not in the hub's cache yet.

    Raises:
        ModelFolderError: it has not.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    cached = {f.name for f in files if isinstance(try_to_load_from_cache(repo, f.name), str)}
    needed = sum(file.nbytes for file in files if file.name not in cached)
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(path for path in (cache, *cache.parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise folder_error("disk_too_small", folder=cache, needed=needed / 1e9, free=free / 1e9)


def _unreachable(repo: str, error: Exception) -> ModelFolderError:
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return folder_error("hub_failed", repo=repo, said=reason)
