"""Progress bars in the terminal, for work measured in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from model.types import Progress

# Makes a bar from a text and a number of bytes; tests and the app pass their own.
Bar = Callable[[str, int], AbstractContextManager[Progress]]

MIN_BYTES = 50_000_000  # less is done before a user has read the bar


@contextmanager
def bar(title: str, nbytes: int) -> Iterator[Progress]:
    """Shows a bar on stderr for work on `nbytes`; removes it in the end.

    Yields a function that sets the progress, from 0 to 1.
    """
    from tqdm import tqdm

    if nbytes < MIN_BYTES:
        yield _no_bar
        return

    layout = (
        "{desc} {percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} [{remaining} left, {rate_fmt}]"
    )
    with tqdm(
        desc=title, total=nbytes, unit="B", unit_scale=True, bar_format=layout, leave=False
    ) as progress_bar:  # fmt: skip

        def progress(share: float) -> None:
            progress_bar.update(round(share * nbytes) - progress_bar.n)

        yield progress


def _no_bar(_: float) -> None:
    """Shows nothing."""
