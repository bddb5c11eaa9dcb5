"""The values that the chat store keeps and gives back."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from model.types import FinishReason, Role, Sampling


class MessageState(enum.StrEnum):
    """How far a message has come. People's messages are always `DONE`."""

    STREAMING = "streaming"  # a reply in the making
    DONE = "done"
    STOPPED = "stopped"  # by its reader
    CUT = "cut"  # at the longest reply, or at the end of the context
    INTERRUPTED = "interrupted"  # the program ended before the reply did
    FAILED = "failed"

    @property
    def can_go_on(self) -> bool:
        """Whether there is something left to say."""
        return self in (
            MessageState.STOPPED,
            MessageState.CUT,
            MessageState.INTERRUPTED,
            MessageState.FAILED,
        )


@dataclass(frozen=True)
class ChatSettings:
    """How a chat is to be answered. "" means the base, and the template that belongs to it."""

    adapter: str = ""
    scale: float = 1.0
    template: str = ""
    system: str = ""
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class GenerationRun:
    """One go of the model at a reply: what was asked for, by whom it was answered, at what speed.

    `settings.sampling.seed` is the one that was used, and `settings.template` the template. A run
    that was interrupted has `reason` None, and no counts. `begins` is where in the reply's text
    this run took over, in characters; `dropped_*` tell what did not fit.
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

    A reply has a run for each time that it was begun or continued; those that answer one question
    side by side share a `comparison`, and one that was run again `repeats` another. `error` is a
    sentence. `created` is in seconds since 1970.
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
    """What somebody thought of a comparison: the best reply's id, or None for a tie."""

    comparison: str
    chat: str
    winner: str | None
    created: float


@dataclass(frozen=True)
class Snippet:
    """A prompt to be used again."""

    name: str
    text: str


@dataclass(frozen=True)
class SavedPreset:
    """Sampling settings under a name of the visitor's own."""

    name: str
    sampling: Sampling
