"""Values that the packages exchange: messages, requests, replies and states."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from model.errors import LinlyError
from model.sampling import Sampling
from model.translations import LocalizedText

MAX_ADAPTER_SCALE = 8.0  # beyond it an adapter's update is only noise

Role = Literal["system", "user", "assistant"]
RequestKind = Literal["chat", "completion", "prefill"]


class FinishReason(enum.StrEnum):
    """Why a reply ended. `STOP` and `LENGTH` are OpenAI's values."""

    STOP = "stop"  # an end token or a stop string
    LENGTH = "length"  # max_tokens, or the context is full
    ABORT = "abort"  # the user stopped it, or the client has left
    ERROR = "error"


@dataclass(frozen=True)
class Message:
    """One message of a chat, written by the user or the model."""

    role: Role
    content: str


def new_id() -> str:
    """Returns a new unique id."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class ChatRequest:
    """A chat to reply to. `adapter` is a name in the registry, or None for the base; `template` is
    the name of a prompt template, or None for the adapter's or the model's.

    With `drop_oldest` the oldest messages are dropped until the chat fits the context; without it a
    prompt that is too long is refused. `so_far` is the text that the reply begins with already:
    only new text is generated, and `sampling.max_tokens` counts the new text. `trace` identifies
    the request in logs. Requests with the same beginning have the same `affinity`: a router in
    front of several servers sends them to the one that has the beginning in its cache.
    """

    messages: tuple[Message, ...]
    adapter: str | None = None
    adapter_scale: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)
    template: str | None = None
    drop_oldest: bool = False
    id: str = field(default_factory=new_id)
    so_far: str = ""
    trace: str = ""
    affinity: str = ""


@dataclass(frozen=True)
class CompletionRequest:
    """Text or token ids to continue, without a template."""

    prompt: str | tuple[int, ...]
    adapter: str | None = None
    adapter_scale: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)
    id: str = field(default_factory=new_id)
    trace: str = ""
    affinity: str = ""


@dataclass(frozen=True)
class TokenLogprob:
    """A token's bytes and natural-log probability, with the likeliest tokens in its place.

    `offset` is where it begins in the reply's text, in characters; those in `top` have none. A
    token can be a part of a character, or the control token that ends the reply.
    """

    data: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    offset: int = 0

    @property
    def token(self) -> str:
        """The token's text; bytes that are no complete character are written as `\\xe4`."""
        return self.data.decode(errors="backslashreplace")


@dataclass(frozen=True)
class TruncatedTurns:
    """How much was dropped from a prompt so that it fits the context."""

    messages: int
    tokens: int


@dataclass(frozen=True)
class ContextUsage:
    """How many tokens of the context a chat takes, and what was dropped from it."""

    tokens: int
    context_length: int
    dropped: TruncatedTurns | None = None


@dataclass(frozen=True)
class Queued:
    """A reply's position in the queue: how many wait before it, what the first one waits for
    ("slots" or "memory"), and the estimated seconds until the reply starts."""

    ahead: int
    reason: str
    seconds: float


@dataclass(frozen=True)
class Stats:
    """Token counts and times of a finished reply. Times are in seconds.

    `cached_tokens` counts the tokens of the prompt that were in the cache.
    """

    prompt_tokens: int
    completion_tokens: int
    first_token_seconds: float
    decode_seconds: float
    seed: int
    adapter: str | None = None
    adapter_digest: str | None = None
    cached_tokens: int = 0
    queue_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed: the tokens after the first, divided by their time."""
        if self.completion_tokens < 2 or self.decode_seconds <= 0:
            return 0.0
        return (self.completion_tokens - 1) / self.decode_seconds


@dataclass(frozen=True)
class Delta:
    """A part of a reply, with complete characters. The last one has `finish_reason` and `stats`.

    An `error` with `ABORT` says what has interrupted the reply. `refusal`: a remote engine rejected
    the request after `submit` returned; treat it as if `submit` had raised the error.
    """

    text: str = ""
    finish_reason: FinishReason | None = None
    stats: Stats | None = None
    dropped: TruncatedTurns | None = None
    queued: Queued | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    error: LocalizedText | None = None
    refusal: LinlyError | None = None


class Detokenizer(Protocol):
    """Turns token ids into text; returns only full characters."""

    def push(self, token_id: int) -> str: ...

    def flush(self) -> str: ...

    def token_bytes(self, token_id: int) -> bytes: ...


@dataclass(frozen=True, eq=False)
class PreparedAdapter:
    """A handle for an adapter that an engine has prepared: it keeps the weights in memory until it
    is garbage-collected."""

    name: str
    digest: str


@dataclass(frozen=True)
class EngineRequest:
    """A request to an engine: continue `prompt_ids`, with one adapter or none.

    `eos_ids` end the reply and are not part of it. The caller sets `sampling.max_tokens`, which
    fits the context. Ids from `vocab_size` on have no text and are never chosen; None means the
    size of the base's vocabulary. `so_far` is the text that the reply begins with already: a stop
    string may begin in it. With `prefill_only` no token is chosen: `prompt_ids` are computed for
    later requests that begin with them. `affinity`: see `ChatRequest`. `prompt_text` is the text
    of `prompt_ids`, for an engine that accepts no ids.
    """

    id: str
    prompt_ids: Sequence[int]
    sampling: Sampling
    eos_ids: frozenset[int]
    detokenizer: Detokenizer
    adapter: PreparedAdapter | None = None
    adapter_scale: float = 1.0
    vocab_size: int | None = None
    so_far: str = ""
    prefill_only: bool = False
    affinity: str = ""
    prompt_text: str = ""

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end the reply and are no part of it."""
        return self.eos_ids.union(self.sampling.stop_token_ids)


Emit = Callable[[Delta], None]
Progress = Callable[[float], None]


class Phase(enum.StrEnum):
    """The phase of loading a model."""

    STARTING = "starting"
    FETCHING = "fetching"
    CONVERTING = "converting"
    READING = "reading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class EngineStatus:
    """How many sequences of an engine run and wait, and its error, if it has ended with one.

    `waiting_reason` is what the first in the queue waits for: "slots" or "memory". `step_age` is
    the time in seconds since the last step, or since an idle engine got work. `slowest_step` is the
    time of the longest step so far: None before the first step, and for a remote engine.
    """

    running: int = 0
    waiting: int = 0
    error: LocalizedText | None = None
    waiting_reason: str | None = None
    step_age: float = 0.0
    slowest_step: float | None = None


@dataclass(frozen=True)
class Status:
    """The state of the model, as /health and the page show it. `progress` is from 0 to 1."""

    phase: Phase
    progress: float
    base_model: str
    engine: str
    device: str
    quantization: str
    running: int = 0
    waiting: int = 0
    error: LocalizedText | None = None
    step_age: float = 0.0
    slowest_step: float | None = None

    @property
    def ready(self) -> bool:
        return self.phase is Phase.READY

    @property
    def remote(self) -> bool:
        """Whether another server has the weights."""
        return self.engine == "remote"


@dataclass(frozen=True)
class EngineCounts:
    """Counters of an engine since its start, and its memory use in bytes.

    `decode_steps` has the number of steps by batch size: the number of sequences in the step.
    """

    decode_steps: Mapping[int, int] = field(default_factory=dict)
    preemptions: int = 0
    adapter_loads: int = 0
    adapter_evictions: int = 0
    adapters: tuple[str, ...] = ()
    adapter_bytes: int = 0
    cache_bytes: int = 0
    cache_budget: int | None = None


@dataclass(frozen=True)
class CompletedRequest:
    """A request that has ended. A `reason` of None means that it was refused, with `code`. `stats`
    is None if no engine accepted it. `text` is the reply, if texts are recorded."""

    request: ChatRequest | CompletionRequest
    kind: RequestKind
    reason: FinishReason | None
    stats: Stats | None
    code: str = ""
    text: str | None = None
