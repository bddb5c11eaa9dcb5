"""Stores uploaded files with training data; each visitor can use their own files only."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from model.errors import LinlyError
from web.training.service import TrainingRequestError

TYPES = (".json", ".jsonl", ".txt", ".csv", ".tsv")
PACKED = ".gz"
TOKEN_BYTES = 16
TOKEN = re.compile(r"[\w-]{22}", re.ASCII)  # 16 bytes in base 64
MAX_AGE_SECONDS = 86_400.0
MAX_FILES = 20  # of one visitor; the oldest are deleted
MAX_BYTES = 2_000_000_000  # of all files


class UploadError(LinlyError):
    """A file cannot be uploaded."""

    http_status = 400
    code = "upload"


@dataclass(frozen=True)
class Upload:
    """An uploaded file; `owner` is the visitor's owner id."""

    owner: str
    path: Path
    size: int
    created: float = field(default_factory=time.time)


class Uploads:
    """The uploaded files in a folder, by random tokens. Safe to call from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Upload] = {}
        for path in folder.glob("*"):  # not the whole folder: the data folder can be any folder
            if TOKEN.fullmatch(path.name):  # of an earlier run, whose tokens are lost
                shutil.rmtree(path, ignore_errors=True)

    def path(self, owner: str, token: str) -> Path:
        """Returns the path of the file with this token.

        Raises:
            TrainingRequestError: the file does not exist, or is another visitor's.
        """
        upload = self._files.get(token)
        if upload is None or upload.owner != owner or not upload.path.is_file():
            raise TrainingRequestError("training_without_data")
        return upload.path

    def begin(self, owner: str, name: str, size: int) -> tuple[str, Path]:
        """Returns a new token, and the path that the file is to be written to.

        Raises:
            UploadError: the file type is not supported, or the files would exceed MAX_BYTES.
        """
        stem = re.sub(r"[^\w. ()-]+", "_", Path(name).name)[-100:].lstrip(".")
        if not stem.lower().removesuffix(PACKED).endswith(TYPES):
            raise UploadError("upload_not_dialogues")
        self._delete_old_files(owner)
        if sum(upload.size for upload in self._files.values()) + size > MAX_BYTES:
            raise UploadError("uploads_full")
        token = secrets.token_urlsafe(TOKEN_BYTES)
        path = self._folder / token / stem
        path.parent.mkdir(parents=True, mode=0o700)
        self._files[token] = Upload(owner, path, size)
        return token, path

    def drop(self, token: str) -> None:
        """Deletes a file."""
        upload = self._files.pop(token, None)
        if upload is not None:
            shutil.rmtree(upload.path.parent, ignore_errors=True)

    def _delete_old_files(self, owner: str) -> None:
        """Deletes all expired files, and the owner's oldest ones to make room for a new one."""
        oldest = time.time() - MAX_AGE_SECONDS
        for token, upload in tuple(self._files.items()):
            if upload.created < oldest:
                self.drop(token)
        tokens = [token for token, upload in tuple(self._files.items()) if upload.owner == owner]
        for token in tokens[: max(0, len(tokens) - MAX_FILES + 1)]:
            self.drop(token)
