"""Compiles the 8-bit kernels once, in a child process, and gives the model its compiled decoding.

Compiling takes seconds of one core and would hold the interpreter's lock. The machine code is
stored on disk, in a folder whose name changes with the sources, the compiler and the processor.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import subprocess
import sys
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from model import tensor_names
from model.cleanup import ChildProcess, at_end, keep_temporary_folder
from model.system_resources import freeze_loaded_objects

if TYPE_CHECKING:
    from model.layers.compiled_decoder import Decoder
    from model.layers.llama import Llama

SOURCES = Path(__file__).parent / "kernels"
CONSTANTS = Path(tensor_names.__file__)  # of another folder, but compiled into the code
DONE = "complete"  # an empty file, written last
MAX_END_SECONDS = 5.0  # that the end of the program waits for the thread

log = logging.getLogger(__name__)


def supported(device: str, quantization: str) -> bool:
    """Whether such a model can be decoded with compiled code: 8 bits, on a CPU, under Linux."""
    on_cpu = device == "cpu" and quantization == "8bit"
    return on_cpu and sys.platform == "linux" and sys.maxsize > 2**32


def build_folder(cache: Path) -> Path:
    """The folder under `cache` for the machine code of the present sources."""
    from llvmlite.binding import get_host_cpu_name

    facts = (version("numba"), platform.python_version(), get_host_cpu_name(), str(SOURCES))
    digest = hashlib.sha256(" ".join(facts).encode())
    for source in (*sorted(SOURCES.glob("*.py")), CONSTANTS):
        # The time too: numba itself compiles again when it has changed.
        digest.update(source.read_bytes() + str(source.stat().st_mtime_ns).encode())
    return cache / "kernels" / digest.hexdigest()[:16]


class KernelBuild:
    """A compilation that runs in a child process, unless the machine code is on disk already.

    Make it early: compiling runs beside the download and the reading of the weights.
    """

    def __init__(self, cache: Path) -> None:
        self._folder = build_folder(cache)
        if not _is_usable(self._folder):
            # Not a predictable name in a folder that others can write to: its files are executed.
            self._folder = build_folder(keep_temporary_folder())
        self._child: ChildProcess | None = None
        self._cancelled = False
        self._thread: threading.Thread | None = None
        if not (self._folder / DONE).is_file():
            self._child = _compile(self._folder)
        at_end(self.cancel)

    def cancel(self) -> None:
        """End the child process and the thread that waits for it: its result is not needed."""
        self._cancelled = True
        if self._child:
            self._child.kill()
            self._child.wait()
        if self._thread:
            self._thread.join(MAX_END_SECONDS)

    def attach_when_ready(
        self, model: Llama, threads: int, max_rows: int, max_sequences: int
    ) -> None:
        """Give `model` its compiled decoding as soon as it is ready; until then torch serves."""
        self._thread = threading.Thread(
            target=self._attach,
            args=(model, threads, max_rows, max_sequences),
            name="kernels",
            daemon=True,
        )
        self._thread.start()

    def wait(self) -> bool:
        """Block until the machine code is on disk; False if it could not be made."""
        if self._child is None:
            return True
        output, _ = self._child.communicate()
        if self._child.returncode == 0:
            return True
        if self._cancelled:
            return False
        last_line = output.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        log.warning("The kernels did not compile, so decoding stays slow: %s", last_line[0])
        return False

    def _attach(self, model: Llama, threads: int, max_rows: int, max_sequences: int) -> None:
        if not self.wait():
            return
        try:
            model.set_decoder(make_decoder(self._folder, model, threads, max_rows, max_sequences))
        except Exception:
            log.exception("The compiled kernels do not start, so decoding stays slow")
        freeze_loaded_objects()  # numba's


def make_decoder(
    folder: Path, model: Llama, threads: int, max_rows: int, max_sequences: int
) -> Decoder:
    """Compiled decoding for `model`, from the machine code in `folder` (compiled if absent)."""
    from numba import config

    config.CACHE_DIR = str(folder)  # read when the compiled functions' modules are imported
    from model.layers.compiled_decoder import Decoder

    return Decoder(model, threads, max_rows, max_sequences)


def _is_usable(folder: Path) -> bool:
    """Whether `folder` has the machine code already, or can be written."""
    if (folder / DONE).is_file():
        return True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _compile(folder: Path) -> ChildProcess:
    command = [sys.executable, "-m", "model.layers.kernels", str(folder), str(folder / DONE)]
    root = Path(__file__).parents[2]
    return ChildProcess(
        command, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
