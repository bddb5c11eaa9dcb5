"""Lock files that show which server processes are alive, where several share a data folder.

Each process holds a lock on a file of its own. The system releases it however the process ends. So
a reply whose server has died can be marked as interrupted.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from pathlib import Path

from filelock import FileLock, Timeout

SERVER_ID = re.compile(r"[0-9a-f]{32}")


class ServerLock:
    """The lock file of this process; `id` is the server's id."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.id = uuid.uuid4().hex
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._path(self.id))
        self._lock.acquire()

    def alive(self, server: str) -> bool:
        """Whether the process with the id `server` is alive; removes the file of a dead one."""
        if server == self.id:
            return True
        path = self._path(server)
        if not SERVER_ID.fullmatch(server) or not path.exists():
            return False
        try:
            with FileLock(path).acquire(timeout=0):
                pass
        except Timeout:
            return True
        path.unlink(missing_ok=True)
        return False

    def release(self) -> None:
        """Releases the lock, as the process is about to end."""
        self._lock.release()
        with contextlib.suppress(OSError):
            self._path(self.id).unlink()

    def _path(self, server: str) -> Path:
        return self._folder / f"{server}.lock"
