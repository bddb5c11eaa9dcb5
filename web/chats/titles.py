"""What chats are called."""

from __future__ import annotations

from model.types import RequestError

MAX_TITLE = 200  # characters
MAX_GENERATED_TITLE = 60  # characters of a title that nobody chose
MAX_LOOKED_AT = 5_000  # characters: splitting millions of them would hold all threads up


def checked_title(title: str) -> str:
    """A title that somebody wrote, without the space around it.

    Raises:
        RequestError: nothing is left, or too much.
    """
    title = one_line(title) if len(title) <= MAX_LOOKED_AT else title
    if not title:
        raise RequestError("The title is empty", "Write one.")
    if len(title) > MAX_TITLE:
        raise RequestError(f"The title has over {MAX_TITLE} characters", "Shorten it.")
    return title


def title_for(text: str) -> str:
    """A chat's title from what it began with."""
    lines = text[:MAX_LOOKED_AT].splitlines()
    line = next((line.strip() for line in lines if line.strip()), "…")
    return (
        line if len(line) <= MAX_GENERATED_TITLE else f"{line[: MAX_GENERATED_TITLE - 1].rstrip()}…"
    )


def one_line(title: str) -> str:
    """The title with every run of white space as one space; only its beginning, if it is long."""
    return " ".join(title[:MAX_LOOKED_AT].split())
