"""Data by name: a file here, or a data set on the Hugging Face hub."""

from __future__ import annotations

import logging
from pathlib import Path

from model.folders.hub import is_hub_id, is_offline
from model.suggestions import closest
from model.translations import LocalizedText
from training.parsing import DataError

SUFFIXES = (".jsonl", ".json")


def local_data(name: str) -> Path:
    """The file `name`, or that of the hub's data set `name`, fetched if it is not here yet.

    Raises:
        DataError: there is neither.
    """
    path = Path(name)
    if path.exists() or not is_hub_id(name):
        if not path.exists():
            raise _missing(path)
        return path
    try:
        return _fetch(name)
    except DataError:
        raise
    except Exception as error:  # the hub's client and its HTTP library each have their own
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            "data_set_not_fetched",
            name=name,
            reason=said,
        ) from error


def _missing(path: Path) -> DataError:
    there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = closest(path.name, there)
    if close is None:
        return DataError("data_file_missing", path=path)
    remedy = LocalizedText("did_you_mean", {"name": path.parent / close})
    return DataError("input_missing", path=path, remedy=remedy)


def _fetch(repo: str) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    # Its retries are no news; what ends them is told here.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if is_offline():
        raise DataError("data_set_offline", repo=repo)
    names = HfApi().list_repo_files(repo, repo_type="dataset")
    file = choose(names)
    if file is None:
        raise DataError(
            "data_set_without_json",
            repo=repo,
        )
    return Path(hf_hub_download(repo, file, repo_type="dataset"))


def choose(names: list[str]) -> str | None:
    """The file to learn from: one named for training, else the first that is JSON."""
    found = sorted(name for name in names if name.endswith(SUFFIXES) and not _is_about(name))
    named = [name for name in found if "train" in Path(name).name.lower()]
    return next(iter([*named, *found]), None)


def _is_about(name: str) -> bool:
    return Path(name).name in ("dataset_infos.json", "config.json")
