"""Getting the compiled decoding ready: compile once in a process of its own, then hand it over.

Compiling takes seconds of one core and would hold the interpreter's lock. What comes out is kept
on disk, in a folder that any change of the sources, the compiler or the processor renames.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from model.garbage import spare_loaded_objects

if TYPE_CHECKING:
    from model.layers.kernels.decoder import Decoder
    from model.layers.llama import Llama

SOURCES = Path(__file__).parent / "kernels"
DONE = "complete"  # an empty file, written last

log = logging.getLogger(__name__)


def supported(device: str, quantization: str) -> bool:
    """Whether there is compiled decoding for such a model here: 8 bits, on a CPU, under Linux."""
    on_cpu = device == "cpu" and quantization == "8bit"
    return on_cpu and sys.platform == "linux" and sys.maxsize > 2**32


def build_folder(cache: Path) -> Path:
    """Where these sources' machine code is kept."""
    from llvmlite.binding import get_host_cpu_name

    facts = (version("numba"), platform.python_version(), get_host_cpu_name(), str(SOURCES))
    digest = hashlib.sha256(" ".join(facts).encode())
    for source in sorted(SOURCES.glob("*.py")):
        # The time too: numba itself compiles again when it has changed.
        digest.update(source.read_bytes() + str(source.stat().st_mtime_ns).encode())
    return cache / "kernels" / digest.hexdigest()[:16]


class KernelBuild:
    """Machine code on its way: compiled by a child process where the disk has none yet.

    Make it early: compiling runs beside the fetching and reading of the weights.
    """

    def __init__(self, cache: Path) -> None:
        self._folder = build_folder(cache)
        if not _writable(self._folder):
            self._folder = build_folder(_scratch())
        self._child: subprocess.Popen[bytes] | None = None
        self._cancelled = False
        if not (self._folder / DONE).is_file():
            self._child = _compile(self._folder)
            atexit.register(self.cancel)

    def cancel(self) -> None:
        """Nobody will want it."""
        self._cancelled = True
        if self._child:
            self._child.kill()
            self._child.wait()

    def hand_over(self, model: Llama, threads: int, max_rows: int, max_spans: int) -> None:
        """Give `model` its compiled decoding as soon as it is there; until then torch serves."""
        thread = threading.Thread(
            target=self._finish,
            args=(model, threads, max_rows, max_spans),
            name="kernels",
            daemon=True,
        )
        thread.start()

    def wait(self) -> bool:
        """Block until the machine code is on disk; False if it could not be made."""
        if self._child is None:
            return True
        said, _ = self._child.communicate()
        if self._child.returncode == 0:
            return True
        if self._cancelled:
            return False
        last = said.decode(errors="replace").strip().splitlines()[-1:] or ["no word"]
        log.warning("Decoding stays slow, because it could not be compiled: %s", last[0])
        return False

    def _finish(self, model: Llama, threads: int, max_rows: int, max_spans: int) -> None:
        if not self.wait():
            return
        try:
            model.set_decoder(make_decoder(self._folder, model, threads, max_rows, max_spans))
        except Exception:
            log.exception("Decoding stays slow: its compiled form does not start")
        spare_loaded_objects()  # numba's


def make_decoder(
    folder: Path, model: Llama, threads: int, max_rows: int, max_spans: int
) -> Decoder:
    """Compiled decoding for `model`, from the machine code in `folder` (compiled if absent)."""
    from numba import config

    config.CACHE_DIR = str(folder)  # read when the compiled functions' modules are imported
    from model.layers.kernels.decoder import Decoder

    return Decoder(model, threads, max_rows, max_spans)


def _writable(folder: Path) -> bool:
    """Whether machine code is there already, or can be put there."""
    if (folder / DONE).is_file():
        return True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _scratch() -> Path:
    """A folder for this run alone, where the cache cannot be written, as in some containers.

    No known name in a folder that others can write to: what lies there is executed.
    """
    folder = tempfile.mkdtemp(prefix="linly-chat-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _compile(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "model.layers.kernels", str(folder)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        command, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
