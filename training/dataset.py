"""Chats out of a file of training data: those that can be learned from, and the others by line."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.folders.hub import is_hub_id, is_offline
from model.suggestions import closest
from model.text.prompt import PromptTemplate
from model.translations import LocalizedText
from model.types import Message
from training.formats import RowError, messages_of
from training.parsing import BadRow, DataError, DataRow, parse_rows, read_text

MAX_BAD_SHARE, ALWAYS_ALLOWED = 0.1, 3  # of the rows; beyond it the file is probably something else
NAMED = 3  # bad rows that a message names


@dataclass(frozen=True)
class TrainingChat:
    """A chat, and the line where it begins in its file."""

    line: int
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Dataset:
    """What a file holds. `digest` is the sha256 of its bytes."""

    chats: tuple[TrainingChat, ...]
    bad: tuple[BadRow, ...]
    digest: str


def read_data(path: Path, template: PromptTemplate) -> Dataset:
    """The chats in `path`; `template` decides how alpaca's inputs are written.

    Raises:
        DataError: the file cannot be used, with its first reasons.
    """
    rows = [_read(row, template) for row in parse_rows(read_text(path))]
    chats = tuple(row for row in rows if isinstance(row, TrainingChat))
    bad = tuple(row for row in rows if isinstance(row, BadRow))
    if not rows:
        raise DataError("data_without_rows", path=path)
    refuse_bad(bad, len(rows), str(path))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Dataset(chats, bad, digest)


def _read(row: DataRow | BadRow, template: PromptTemplate) -> TrainingChat | BadRow:
    if isinstance(row, BadRow):
        return row
    try:
        return TrainingChat(row.line, messages_of(row.value, template))
    except RowError as error:
        return BadRow(row.line, error.text)


def refuse_bad(bad: Sequence[BadRow], count: int, name: str) -> None:
    """Some bad rows out of `count` happen; many mean that something else is wrong.

    Raises:
        DataError: there are too many.
    """
    allowed = min(max(MAX_BAD_SHARE * count, ALWAYS_ALLOWED), count // 2)
    if len(bad) > allowed:
        raise DataError(
            "data_rows_unusable",
            bad_count=len(bad),
            count=count,
            name=name,
            reasons=first_reasons(bad),
        )


def first_reasons(bad: Sequence[BadRow]) -> tuple[LocalizedText, ...]:
    """The first of them, and how many there are beside."""
    named = tuple(row.text for row in bad[:NAMED])
    more = len(bad) - NAMED
    return (*named, LocalizedText("more_rows", {"count": more})) if more > 0 else named


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
