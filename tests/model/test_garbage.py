"""Settings of the garbage collector."""

from __future__ import annotations

import gc

from model.garbage import spare_loaded_objects


def test_loaded_objects_are_excluded_from_collections() -> None:
    """A full collection of them stopped the page's event loop for 0.4 s."""
    loaded = [[number] for number in range(100)]
    try:
        spare_loaded_objects()
        assert gc.get_freeze_count() > len(loaded)
        assert not any(tracked is loaded for tracked in gc.get_objects())
    finally:
        gc.unfreeze()
