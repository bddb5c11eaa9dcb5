"""Progress bars in the terminal, for work that is counted in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from model.types import Progress

# Makes a bar of a text and a number of bytes; tests and the app pass their own.
Bar = Callable[[str, int], AbstractContextManager[Progress]]

MIN_BYTES = 50_000_000  # less is done before anybody has read the bar


@contextmanager
def bar(what: str, nbytes: int) -> Iterator[Progress]:
    """A bar over `nbytes` on stderr, gone when it is done; it is given shares from 0 to 1."""
    from tqdm import tqdm

    if nbytes < MIN_BYTES:
        yield _nothing
        return

    layout = (
        "{desc} {percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} [{remaining} left, {rate_fmt}]"
    )
    with tqdm(
        desc=what, total=nbytes, unit="B", unit_scale=True, bar_format=layout, leave=False
    ) as shown:  # fmt: skip

        def progress(share: float) -> None:
            shown.update(round(share * nbytes) - shown.n)

        yield progress


def _nothing(_: float) -> None:
    """No bar."""
