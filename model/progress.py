"""Progress bars in the terminal, for work that is counted in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from model.types import Progress


@contextmanager
def bar(what: str, nbytes: int) -> Iterator[Progress]:
    """A bar over `nbytes` on stderr; it is given shares from 0 to 1."""
    from tqdm import tqdm

    layout = (
        "{desc} {percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} [{remaining} left, {rate_fmt}]"
    )
    with tqdm(desc=what, total=nbytes, unit="B", unit_scale=True, bar_format=layout) as shown:

        def progress(share: float) -> None:
            shown.update(round(share * nbytes) - shown.n)

        yield progress
