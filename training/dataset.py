"""Reads the chats of a training data file, local or on the Hugging Face hub; lists its bad rows."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.display import clean_text
from model.folders.hub import is_hub_id, is_offline
from model.suggestions import did_you_mean
from model.text.prompt_template import PromptTemplate
from model.translations import LocalizedText
from model.types import Message
from training.data_files import read_rows
from training.formats import RowError, read_chat
from training.parsing import BadRow, DataError, DataRow, Place

# A share of the rows, and a number of them that is always accepted. With more bad rows, the file is
# probably not training data.
MAX_BAD_SHARE, ALWAYS_ALLOWED = 0.1, 3
MAX_NAMED_KEYS, MAX_KEY = 10, 40  # keys that a note names, and their characters
MAX_NAMED = 3  # bad rows that a message names
JSON_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
SUFFIXES = (*JSON_SUFFIXES, ".csv", ".tsv", ".parquet")
METADATA_FILES = ("dataset_infos.json", "config.json")


@dataclass(frozen=True)
class TrainingChat:
    """A chat, and its place in the file. See `RowChat` for the other fields."""

    place: Place
    messages: tuple[Message, ...]
    unlearned: frozenset[int] = frozenset()
    unread: frozenset[str] = frozenset()

    @property
    def learned_replies(self) -> tuple[int, ...]:
        """The indices of the replies that are learned."""
        roles = enumerate(message.role for message in self.messages)
        return tuple(i for i, r in roles if r == "assistant" and i not in self.unlearned)


@dataclass(frozen=True)
class Dataset:
    """The content of a data file. `digest` is the sha256 of its bytes."""

    chats: tuple[TrainingChat, ...]
    bad: tuple[BadRow, ...]
    digest: str

    def unread_keys(self) -> LocalizedText | None:
        """Names the keys that were not read, with the number of their rows; None without any."""
        counts = Counter(key for chat in self.chats for key in chat.unread)
        if not counts:
            return None
        named = [
            f'"{clean_text(key, MAX_KEY)}" ({n})' for key, n in counts.most_common(MAX_NAMED_KEYS)
        ]
        more = ["…"] if len(counts) > MAX_NAMED_KEYS else []
        return LocalizedText("keys_not_read", {"keys": ", ".join([*named, *more])})


def read_data(path: Path, template: PromptTemplate) -> Dataset:
    """Reads the chats in `path`; `template` decides how Alpaca's inputs are written.

    Raises:
        DataError: the file cannot be used; the error names the first reasons.
    """
    rows = [_read_row(row, template) for row in read_rows(path)]
    chats = tuple(row for row in rows if isinstance(row, TrainingChat))
    bad = tuple(row for row in rows if isinstance(row, BadRow))
    if not rows:
        raise DataError("data_without_rows", path=path)
    check_bad_rows(bad, len(rows), str(path))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Dataset(chats, bad, digest)


def _read_row(row: DataRow | BadRow, template: PromptTemplate) -> TrainingChat | BadRow:
    if isinstance(row, BadRow):
        return row
    try:
        chat = read_chat(row.value, template)
    except RowError as error:
        return BadRow(row.place, error.text)
    return TrainingChat(row.place, chat.messages, chat.unlearned, chat.unread)


def check_bad_rows(bad: Sequence[BadRow], count: int, name: str) -> None:
    """Accepts a few bad rows out of `count`.

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
    """The first rows with their reasons, and the number of the others."""
    named = tuple(row.text for row in bad[:MAX_NAMED])
    more = len(bad) - MAX_NAMED
    return (*named, LocalizedText("more_rows", {"count": more})) if more > 0 else named


def resolve_data_path(name: str) -> Path:
    """The file `name`, or a file of the hub's data set `name`, which is downloaded once.

    Raises:
        DataError: there is neither, or the data set cannot be downloaded.
    """
    path = Path(name)
    if path.exists():
        return path
    if not is_hub_id(name):
        raise _missing_file_error(path)
    try:
        return _download(name)
    except DataError:
        raise
    except Exception as error:  # the hub's client and its HTTP library each have their own errors
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError("data_set_not_fetched", name=name, reason=reason) from error


def _missing_file_error(path: Path) -> DataError:
    folder = path.parent
    names = [each.name for each in folder.iterdir()] if folder.is_dir() else []
    remedy = did_you_mean(path.name, names, "fix_data_path", display=lambda name: folder / name)
    return DataError("input_missing", path=path, remedy=remedy)


def _download(repo: str) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    # The client logs each retry; the final error is raised here.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if is_offline():
        raise DataError("data_set_offline", repo=repo)
    file = choose_data_file(HfApi().list_repo_files(repo, repo_type="dataset"))
    if file is None:
        raise DataError("data_set_without_json", repo=repo)
    return Path(hf_hub_download(repo, file, repo_type="dataset"))


def choose_data_file(names: list[str]) -> str | None:
    """The file of a data set to train on: one with "train" in its name, else the first one; JSON
    before other formats."""
    candidates = sorted(
        (name for name in names
         if name.endswith(SUFFIXES) and Path(name).name not in METADATA_FILES),
        key=lambda name: (not name.endswith(JSON_SUFFIXES), name),
    )  # fmt: skip
    named = [name for name in candidates if "train" in Path(name).name.lower()]
    return next(iter([*named, *candidates]), None)
