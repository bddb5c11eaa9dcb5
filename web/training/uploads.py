"""Files with training data that visitors have uploaded, each for the one who did alone."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from model.errors import LinlyError
from web.training.service import TrainingRequestError

TYPES = (".json", ".jsonl", ".txt")
TOKEN = re.compile(r"[\w-]{16,40}", re.ASCII)
KEPT_SECONDS = 86_400.0
MAX_FILES = 20  # of one visitor; the oldest go first
MAX_BYTES = 2_000_000_000  # of all files


class UploadError(LinlyError):
    """A file is not taken."""

    http_status = 400
    code = "upload"


@dataclass(frozen=True)
class Upload:
    """One file."""

    owner: str
    path: Path
    size: int
    created: float = field(default_factory=time.time)


class Uploads:
    """Files in a folder of their own, by tokens that are made here. For any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Upload] = {}
        shutil.rmtree(folder, ignore_errors=True)  # the tokens of an earlier run are lost

    def path(self, owner: str, token: str) -> Path:
        """The file of this token, if it is this visitor's.

        Raises:
            TrainingRequestError
        """
        found = self._files.get(token)
        if found is None or found.owner != owner or not found.path.is_file():
            raise TrainingRequestError("training_without_data")
        return found.path

    def begin(self, owner: str, name: str, size: int) -> tuple[str, Path]:
        """A token, and where the file's bytes are to be written.

        Raises:
            UploadError: the name is no data's, or there is no room.
        """
        stem = re.sub(r"[^\w. ()-]+", "_", Path(name).name)[-100:].lstrip(".")
        if not stem.lower().endswith(TYPES):
            raise UploadError("upload_not_dialogues")
        self._clear_away(owner)
        if sum(one.size for one in self._files.values()) + size > MAX_BYTES:
            raise UploadError("uploads_full")
        token = secrets.token_urlsafe(16)
        path = self._folder / token / stem
        path.parent.mkdir(parents=True, mode=0o700)
        self._files[token] = Upload(owner, path, size)
        return token, path

    def drop(self, token: str) -> None:
        """Forget a file, and remove it."""
        found = self._files.pop(token, None)
        if found is not None:
            shutil.rmtree(found.path.parent, ignore_errors=True)

    def _clear_away(self, owner: str) -> None:
        old = time.time() - KEPT_SECONDS
        for token, one in tuple(self._files.items()):
            if one.created < old:
                self.drop(token)
        own = [token for token, one in tuple(self._files.items()) if one.owner == owner]
        for token in own[: max(0, len(own) - MAX_FILES + 1)]:
            self.drop(token)
