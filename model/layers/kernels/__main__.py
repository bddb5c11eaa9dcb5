"""python -m model.layers.kernels FOLDER: compiles all kernels and stores the machine code there."""

from __future__ import annotations

import sys
from pathlib import Path

from numba import config

from model.layers.kernel_build import DONE


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config.CACHE_DIR = str(folder)
    from model.layers.kernels.thread_pool import compile_all

    compile_all()
    (folder / DONE).touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
