"""The values that the chat store keeps and returns, and rules for their texts."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from model.errors import RequestError
from model.sampling import Sampling
from model.types import FinishReason, Role

MAX_TEXT = 2_000_000  # bytes of one message
MAX_SETTING = 100_000  # characters of a text that comes from outside, as a system prompt
MAX_TITLE = 200  # characters
MAX_GENERATED_TITLE = 60  # characters of a title that the program made
MAX_INSPECTED = 5_000  # characters: splitting millions of them would block all threads


class MessageState(enum.StrEnum):
    """How far a message has come. A user's messages are always `DONE`."""

    STREAMING = "streaming"  # a reply in the making
    DONE = "done"
    STOPPED = "stopped"  # by the user
    CUT = "cut"  # at `max_tokens`, or at the end of the context
    INTERRUPTED = "interrupted"  # the program ended before the reply did
    FAILED = "failed"

    @property
    def can_continue(self) -> bool:
        """Whether the model can add to the reply."""
        return self in (
            MessageState.STOPPED,
            MessageState.CUT,
            MessageState.INTERRUPTED,
            MessageState.FAILED,
        )


@dataclass(frozen=True)
class ChatSettings:
    """How a chat is answered.

    `adapter` None is the base; `template` None is the template that belongs to the adapter or to
    the model.
    """

    adapter: str | None = None
    adapter_scale: float = 1.0
    template: str | None = None
    system: str = ""
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class GenerationRun:
    """One run of the model for a reply: its settings, the model that ran, and its speed.

    `settings.sampling.seed` is the seed that was used, and `settings.template` the name of the
    template. A run that was interrupted has `reason` None, and no counts. `begins` is the position
    in the reply's text, in characters, where this run took over; `dropped_*` count what did not fit
    the context.
    """

    settings: ChatSettings
    base: str
    quantization: str
    adapter_digest: str = ""
    reason: FinishReason | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    tokens_per_second: float = 0.0
    first_token_seconds: float = 0.0
    dropped_messages: int = 0
    dropped_tokens: int = 0
    begins: int = 0


@dataclass(frozen=True)
class ChatMessage:
    """A node of a chat's tree: its `parent` is the message that it follows.

    A reply has a run for each time that it was begun or continued. Replies that answer one question
    side by side share a `comparison`; a reply that was run again `repeats` another one. `error` is
    a sentence. `created` is in seconds since 1970.
    """

    id: str
    parent: str | None
    role: Role
    text: str
    state: MessageState = MessageState.DONE
    created: float = 0.0
    error: str = ""
    comparison: str | None = None
    runs: tuple[GenerationRun, ...] = ()
    repeats: str | None = None


@dataclass(frozen=True)
class Chat:
    """A chat without its messages. `head` is the last message of the branch that is shown."""

    id: str
    title: str
    created: float
    updated: float
    head: str | None
    settings: ChatSettings


@dataclass(frozen=True)
class Vote:
    """A user's vote in a comparison: the best reply's id, or None for a tie."""

    comparison: str
    chat: str
    winner: str | None
    created: float


@dataclass(frozen=True)
class ImportedChat:
    """A chat read from a file, with new ids: its messages, parents before children, and votes."""

    chat: Chat
    messages: tuple[ChatMessage, ...]
    votes: tuple[Vote, ...] = ()


@dataclass(frozen=True)
class Snippet:
    """A prompt that its owner saved."""

    name: str
    text: str


@dataclass(frozen=True)
class SavedPreset:
    """Sampling settings under a name that their owner chose."""

    name: str
    sampling: Sampling


def sanitize_text(text: str) -> str:
    """Returns a text that can be encoded and stored.

    Surrogate pairs are joined, lone surrogates become "�", and so does NUL, which PostgreSQL does
    not take.
    """
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", "�") if "\0" in text else text


def check_length(text: str) -> None:
    """Checks that a text is not too long to be stored.

    Raises:
        RequestError: it is.
    """
    # The number of characters first: to encode many more of them would take long. Lone surrogates
    # are counted as they will be stored.
    if len(text) > MAX_TEXT or len(text.encode(errors="replace")) > MAX_TEXT:
        raise RequestError("text_too_long_to_save", megabytes=MAX_TEXT // 1_000_000)


def validate_title(title: str) -> str:
    """Returns a title that a user wrote, with white space collapsed.

    Raises:
        RequestError: it is empty, or too long.
    """
    title = collapse_whitespace(title) if len(title) <= MAX_INSPECTED else title
    if not title:
        raise RequestError("title_empty")
    if len(title) > MAX_TITLE:
        raise RequestError("title_too_long", max_title=MAX_TITLE)
    return title


def generate_title(text: str) -> str:
    """Returns a title for a chat, made from its first message."""
    lines = text[:MAX_INSPECTED].splitlines()
    line = next((line.strip() for line in lines if line.strip()), "…")
    return (
        line if len(line) <= MAX_GENERATED_TITLE else f"{line[: MAX_GENERATED_TITLE - 1].rstrip()}…"
    )


def collapse_whitespace(title: str) -> str:
    """Returns the title with each run of white space as one space; of a long title, its start."""
    return " ".join(title[:MAX_INSPECTED].split())
