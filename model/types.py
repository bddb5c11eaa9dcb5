"""The values that travel between the packages."""

from __future__ import annotations

import enum
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from model.errors import LinlyError, RequestError
from model.translations import LocalizedText

MAX_STOPS = 20  # they are looked for in every token, on the thread that all replies share
MAX_STOP = 200
MAX_BIASES = 1000
MAX_ADAPTER_SCALE = 8.0  # beyond it an adapter's update only makes noise
SAMPLING_BOUNDS: Mapping[str, object] = {
    "max_biases": MAX_BIASES,
    "max_stops": MAX_STOPS,
    "max_chars": MAX_STOP,
}

Role = Literal["system", "user", "assistant"]
RequestKind = Literal["chat", "completion", "prefill"]


class FinishReason(enum.StrEnum):
    """Why a reply ended. `STOP` and `LENGTH` are OpenAI's words."""

    STOP = "stop"  # an end token or a stop string
    LENGTH = "length"  # max_tokens, or the context is full
    ABORT = "abort"  # Stop was pressed, or nobody listens any more
    ERROR = "error"


@dataclass(frozen=True)
class Message:
    """One turn of a chat, as a person or the model wrote it."""

    role: Role
    content: str


@dataclass(frozen=True)
class SamplingParameter:
    """A number of `Sampling`: its bounds, the value that switches it off, and its slider.

    Args:
        minimum, maximum: the bounds; an infinite maximum is excluded.
        above_minimum: whether the minimum is excluded, too.
        off: the value without any effect; None where there is none.
        slider: lowest value, highest value and step in the page; None where it has no slider.
        help: what it does, for `--help`.
    """

    minimum: float
    maximum: float = math.inf
    above_minimum: bool = False
    off: float | None = None
    slider: tuple[float, float, float] | None = None
    help: str = ""

    def check(self, name: str, value: float | None) -> None:
        """Checks `value`, which the parameter `name` is to have.

        Raises:
            RequestError: it is out of bounds, or not a number.
        """
        if value is None:
            return
        low_enough = value <= self.maximum and value < math.inf
        if low_enough and (value > self.minimum if self.above_minimum else value >= self.minimum):
            return
        if self.maximum == math.inf:
            raise RequestError("number_minimum", name=name, minimum=self.minimum)
        code = "number_above" if self.above_minimum else "number_range"
        raise RequestError(code, name=name, minimum=self.minimum, maximum=self.maximum)


SAMPLING_PARAMETERS: Mapping[str, SamplingParameter] = {
    "temperature": SamplingParameter(
        0, slider=(0, 2, 0.05), help="0 always takes the likeliest word"
    ),
    "top_p": SamplingParameter(
        0, 1, above_minimum=True, off=1.0, slider=(0.05, 1, 0.05),
        help="only the likeliest words that together have this share; 1: off",
    ),
    "top_k": SamplingParameter(
        0, off=0, slider=(0, 200, 1), help="only that many words; 0: off"
    ),
    "min_p": SamplingParameter(
        0, 1, off=0.0, slider=(0, 0.5, 0.01),
        help="only words with this share of the likeliest one's; 0: off",
    ),
    "repetition_penalty": SamplingParameter(
        0.1, 10, off=1.0, slider=(1, 2, 0.05),
        help="above 1, words become less likely once they occur; 1: off",
    ),
    "presence_penalty": SamplingParameter(-2, 2, off=0.0),
    "frequency_penalty": SamplingParameter(-2, 2, off=0.0),
    "max_tokens": SamplingParameter(1),
    "min_tokens": SamplingParameter(0, off=0),
}  # fmt: skip


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and when to stop. `temperature` 0 is greedy.

    `top_k` 0, `top_p` 1, `min_p` 0 and `repetition_penalty` 1 switch those filters off. The other
    two penalties are OpenAI's: what is taken off a token's logit once it was said, and once more
    each time. `logit_bias` has (token id, what is added to its logit). A `seed` of None draws one;
    the last Delta tells which. `logprobs` is the number of alternatives to report for each token,
    or None for none at all.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        for name, parameter in SAMPLING_PARAMETERS.items():
            parameter.check(name, getattr(self, name))
        checks = (
            (
                all(i >= 0 and -100 <= bias <= 100 for i, bias in self.logit_bias),
                "logit_bias_range",
            ),
            (len(self.logit_bias) <= MAX_BIASES, "too_many_biases"),
            (self.seed is None or 0 <= self.seed < 2**63, "seed_range"),
            (self.logprobs is None or 0 <= self.logprobs <= 20, "too_many_logprobs"),
            (all(self.stop), "stop_string_empty"),
            (len(self.stop) <= MAX_STOPS, "too_many_stop_strings"),
            (
                all(len(s) <= MAX_STOP for s in self.stop),
                "stop_string_too_long",
            ),
        )
        for holds, code in checks:
            if not holds:
                raise RequestError(code, **SAMPLING_BOUNDS)


def new_id() -> str:
    """What nothing else is known by."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class ChatRequest:
    """Messages to answer. `adapter` is a name in the registry, or None for the base; `template`
    one in `prompts/`, or None for the adapter's or the model's own.

    With `drop_oldest`, turns that do not fit the context go, oldest first; without it a prompt
    that is too long is refused. `so_far` is what the reply begins with already: only what comes
    after it is answered, and `sampling.max_tokens` counts that alone. `trace` is what the logs know
    it by, and requests that begin alike share an `affinity`: where there are several servers, the
    one that has read that beginning is the better one.
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
    """Text, or token ids, to continue as they stand, without a template."""

    prompt: str | tuple[int, ...]
    adapter: str | None = None
    adapter_scale: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)
    id: str = field(default_factory=new_id)
    trace: str = ""
    affinity: str = ""


@dataclass(frozen=True)
class TokenLogprob:
    """A token's text and natural-log probability, with its likeliest alternatives."""

    token: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class TruncatedTurns:
    """What was left out of a prompt so that it fits the context."""

    messages: int
    tokens: int


@dataclass(frozen=True)
class ContextUsage:
    """How many tokens of the context a chat takes, and what had to go to make it so few."""

    tokens: int
    context_length: int
    dropped: TruncatedTurns | None = None


@dataclass(frozen=True)
class Queued:
    """A reply's place in the queue: how many wait before it, what the first of them waits for,
    "slots" or "memory", and in about how many seconds it will begin."""

    ahead: int
    reason: str
    seconds: float


@dataclass(frozen=True)
class Stats:
    """The facts about a finished reply. Times in seconds.

    `cached_tokens` counts those of the prompt that were computed before, for another reply.
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
        """Decoding speed: the tokens after the first, over the time that they took."""
        if self.completion_tokens < 2 or self.decode_seconds <= 0:
            return 0.0
        return (self.completion_tokens - 1) / self.decode_seconds


@dataclass(frozen=True)
class Delta:
    """A piece of a reply: whole characters only. The last one has `finish_reason` and `stats`.

    An `error` with `ABORT` says what has interrupted the reply. A `refusal` comes from an engine
    that has to ask elsewhere before it knows: as if it had never taken the request.
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
    """Token ids in, whole characters out."""

    def push(self, token_id: int) -> str: ...

    def flush(self) -> str: ...

    def token_text(self, token_id: int) -> str: ...


@dataclass(frozen=True, eq=False)
class PreparedAdapter:
    """An adapter that an engine has made ready: its weights stay while somebody holds this."""

    name: str
    digest: str


@dataclass(frozen=True)
class EngineRequest:
    """What an engine is asked to do: continue `prompt_ids`, with one adapter or none.

    `eos_ids` end the reply and are not part of it. `sampling.max_tokens` is set by the caller
    and already fits the context. Ids from `vocab_size` on have no text and are never chosen; None
    means as many as the base's tokenizer has. `so_far` is the text that the reply begins with
    already, as a stop string may begin in it. With `prefill_only` nothing is chosen: `prompt_ids`
    are computed for requests to come that begin with them. `affinity` is the caller's, and
    `prompt_text` says the same as `prompt_ids`, for an engine that takes no ids.
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


Emit = Callable[[Delta], None]
Progress = Callable[[float], None]


class Phase(enum.StrEnum):
    """What a model that is not ready yet is doing."""

    STARTING = "starting"
    FETCHING = "fetching"
    CONVERTING = "converting"
    READING = "reading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class EngineStatus:
    """How many sequences an engine works on, how many wait, and why it died, if it did.

    `waiting_reason` is what the first in the queue waits for: "slots" or "memory". `step_age` are
    the seconds since its last step, or since work came to it; `slowest_step` those of its longest
    step so far, None before the first one and where the steps are another server's.
    """

    running: int = 0
    waiting: int = 0
    error: LocalizedText | None = None
    waiting_reason: str | None = None
    step_age: float = 0.0
    slowest_step: float | None = None


@dataclass(frozen=True)
class Status:
    """What /health and the page tell about the model. `progress` runs from 0 to 1."""

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
        """Whether the weights are elsewhere, and somebody else's to tell about."""
        return self.engine == "remote"


@dataclass(frozen=True)
class EngineCounts:
    """What an engine has done since it began, and what it holds. Memory in bytes.

    `decode_steps` has the number of steps by their batch size: the sequences that each moved on.
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
    """A request that is over. `reason` None means that it was refused, with `code`; `stats` are
    there if an engine had it. `text` is what was said, where that is recorded."""

    request: ChatRequest | CompletionRequest
    kind: RequestKind
    reason: FinishReason | None
    stats: Stats | None
    code: str = ""
    text: str | None = None
