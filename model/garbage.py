"""Python's garbage collector, and the objects that it need not look at."""

from __future__ import annotations

import gc


def spare_loaded_objects() -> None:
    """Collect now, and leave what is there out of all later collections.

    A full collection stops every thread. With torch, numba and Gradio loaded it walked 600,000
    objects that live as long as the program, for 0.4 s of a core.
    """
    gc.collect()
    gc.freeze()
