"""Which server processes are alive, so that a reply whose server has died is known.

Each holds a lock on a file of its own for as long as it lives; the system lets go of it, however
the process ends. So several servers can share one data folder.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from pathlib import Path

from filelock import FileLock, Timeout

NAME = re.compile(r"[0-9a-f]{32}")


class ServerLock:
    """Held by this process; `id` is what it is known by."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.id = uuid.uuid4().hex
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._path(self.id))
        self._lock.acquire()

    def alive(self, server: str) -> bool:
        """Whether the process that is known by `server` lives."""
        if server == self.id:
            return True
        path = self._path(server)
        if not NAME.fullmatch(server) or not path.exists():
            return False
        try:
            with FileLock(path).acquire(timeout=0):
                pass
        except Timeout:
            return True
        path.unlink(missing_ok=True)
        return False

    def release(self) -> None:
        """The process is about to end."""
        self._lock.release()
        with contextlib.suppress(OSError):
            self._path(self.id).unlink()

    def _path(self, server: str) -> Path:
        return self._folder / f"{server}.lock"
