"""python -m model.layers.kernels FOLDER MARKER: compiles all kernels and stores the machine code.

The empty file MARKER is written last.
"""

from __future__ import annotations

import sys
from pathlib import Path

from numba import config


def main(folder: Path, marker: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config.CACHE_DIR = str(folder)
    from model.layers.kernels.thread_pool import compile_all

    compile_all()
    marker.touch()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
