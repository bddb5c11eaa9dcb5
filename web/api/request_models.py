"""OpenAI's requests as pydantic models, with this project's own fields in addition.

A null field counts as missing. `request_fields` has the fields that are not served: some have no
effect, and the others are refused by name, because without them the reply would be another one.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from model.errors import RequestError
from model.sampling import MAX_BIASES, MAX_STOP_TOKENS, MAX_STOPS, Sampling
from model.translations import LocalizedText
from model.types import Message
from web.api.request_fields import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    PENALTY_OPTIONS,
    STREAM_FIELDS,
    FieldError,
)
from web.api.request_messages import MAX_TEXT, Name, RequestBody, RequestMessage, to_messages

MAX_MESSAGES = 2000
MAX_TOTAL_TEXT = 2_000_000  # characters of all choices' prompts: each is tokenized on its own
MAX_PROMPTS = 2048  # of a request, as at OpenAI; the engine's queue has to hold all choices
MAX_PROMPT_TOKENS = 200_000  # tokens of a prompt
MAX_CHOICES = 128  # of a prompt, as at OpenAI
MAX_TOOLS = 1000  # which are not used
MAX_USER = 1024  # characters
MAX_LOGPROBS = 20
MAX_SEED = 2**63
MAX_TOKEN_ID = 2**31  # in any vocabulary


def _to_int(value: Any) -> Any:
    """JSON has one type of number: 4.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_count(biases: Any) -> Any:
    """Checks the number of biases before pydantic validates each of them."""
    if isinstance(biases, dict) and len(biases) > MAX_BIASES:
        raise ValueError(f"at most {MAX_BIASES} tokens")
    return biases


# After the limits in each annotation, or else the document at /docs would lack them.
INTEGER = BeforeValidator(_to_int)


def _check_seed(seed: int) -> int:
    if not -MAX_SEED <= seed < MAX_SEED:
        raise ValueError("a seed has 64 bits, with its sign")
    return seed


def _check_max_tokens(max_tokens: int) -> int:
    if max_tokens == 0:
        raise ValueError("must be at least 1, or -1 for as many as fit")
    return max_tokens


# Not `ge` and `lt`: the document would show these bounds as floats, which cannot be 2^63 - 1.
SEED = AfterValidator(_check_seed)

Prompt = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
MaxTokens = Annotated[
    int,
    Field(ge=-1, json_schema_extra={"not": {"const": 0}}, description="-1: as many as fit"),
    INTEGER,
    AfterValidator(_check_max_tokens),
]
Tools = Annotated[
    list[Any],
    Field(max_length=MAX_TOOLS, description='Has no effect with the choice "none", else refused'),
]
User = Annotated[str, Field(max_length=MAX_USER)]
Id = Annotated[int, Field(ge=0, lt=MAX_TOKEN_ID), INTEGER]
Penalty = Annotated[float, Field(ge=-2, le=2)]
# Validation of a list ends at its first fault: a million faults would be a million errors to
# format, on the event loop that all clients share.
Ids = Annotated[
    list[Id],
    Field(min_length=1, max_length=MAX_PROMPT_TOKENS, fail_fast=True),
]


class StreamOptions(RequestBody):
    rules = STREAM_FIELDS
    include_usage: bool | None = None


class Generation(RequestBody):
    """The fields that chat and text completions share."""

    default_max_tokens: ClassVar[int | None] = None
    model: Annotated[Name, Field(min_length=1)] | None = Field(
        None, description="An adapter's name, or the base's, the default"
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), INTEGER] | None = None
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    temperature: Annotated[float, Field(ge=0, le=1e6)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="0: greedy")
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, Field(pattern=r"^[0-9]{1,9}$")],
                Annotated[float, Field(ge=-100, le=100)],
            ],
            Field(max_length=MAX_BIASES, json_schema_extra={"additionalProperties": False}),
            BeforeValidator(_check_count),
        ]
        | None
    ) = None
    seed: Annotated[int, Field(description="64 bits, signed; -1: any"), INTEGER, SEED] | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    user: User | None = None
    prompt_cache_key: User | None = None
    # Not in OpenAI's API. The names are vLLM's, except `adapter_scale`.
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKEN_ID), INTEGER] | None = Field(
        None, description="0 or -1: off"
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    min_tokens: Annotated[int, Field(ge=0), INTEGER] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: (
        Annotated[list[Id], Field(max_length=MAX_STOP_TOKENS, fail_fast=True)] | None
    ) = None
    adapter_scale: Annotated[float, Field(ge=0, le=8)] | None = None

    def check(self) -> None:
        """Checks what pydantic cannot.

        Raises:
            RequestError: the reply would not be what the client expects.
        """
        self.check_fields()
        if self.stream_options:
            self.stream_options.check_fields("stream_options.")
            if not self.stream:
                raise FieldError("stream_options_without_stream", field="stream_options")
        self._check_penalty_options()
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise FieldError("max_tokens_differ", field="max_completion_tokens")
        max_tokens = self._max_tokens()
        if max_tokens is not None and (self.min_tokens or 0) > max_tokens:
            raise FieldError(
                "min_tokens_over_max_tokens", field="min_tokens", max_tokens=max_tokens
            )

    def _check_penalty_options(self) -> None:
        """Penalties are of all tokens before: refuses a request with one that is to spare some."""
        if (self.repetition_penalty or 1) == 1 and not (
            self.presence_penalty or self.frequency_penalty
        ):
            return
        for name, everything in PENALTY_OPTIONS.items():
            if (self.model_extra or {}).get(name) not in (None, everything):
                remedy = LocalizedText("remedy_leave_out")
                raise FieldError("field_unsupported", field=name, remedy=remedy)

    @property
    def choices(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def scale(self) -> float:
        return 1.0 if self.adapter_scale is None else self.adapter_scale

    @property
    def affinity(self) -> str:
        """A key that is equal for requests with the same first messages."""
        return self.prompt_cache_key or self.user or ""

    @property
    def with_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def _seed(self) -> int | None:
        """Returns an unsigned seed. OpenAI's seeds may be negative; many clients send -1 for no
        seed."""
        return None if self.seed in (None, -1) else (self.seed or 0) % MAX_SEED

    def _temperature(self) -> float:
        """Returns the temperature, by default 1 as at OpenAI. A `top_p` of 0 is greedy: it leaves
        the likeliest token alone."""
        return 0.0 if self.top_p == 0 else 1.0 if self.temperature is None else self.temperature

    def _max_tokens(self) -> int | None:
        """Returns the limit of a reply; None: as many as fit."""
        numbers = (self.max_tokens, self.max_completion_tokens, self.default_max_tokens)
        limit = next((number for number in numbers if number is not None), None)
        return None if limit == -1 else limit

    def _sampling(self, logprobs: int | None) -> Sampling:
        """Returns the engine's sampling parameters.

        Args:
            logprobs: the number of alternatives; None: no log probabilities.
        """
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        bias = {int(token): value for token, value in (self.logit_bias or {}).items()}
        return Sampling(
            max_tokens=self._max_tokens(),
            min_tokens=self.min_tokens or 0,
            temperature=self._temperature(),
            top_k=max(0, self.top_k or 0),
            top_p=self.top_p or 1.0,
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            seed=self._seed(),
            stop=tuple(stop),
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=tuple(bias.items()),
            stop_token_ids=tuple(self.stop_token_ids or ()),
        )


class ChatCompletion(Generation):
    rules = CHAT_FIELDS
    messages: Annotated[
        list[RequestMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    ]
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), INTEGER] | None = None
    tools: Tools | None = None
    functions: Tools | None = None

    def check(self) -> None:
        super().check()
        for name, choice in (("tools", "tool_choice"), ("functions", "function_call")):
            if getattr(self, name) and (self.model_extra or {}).get(choice) != "none":
                remedy = LocalizedText("remedy_tool_choice_none")
                raise FieldError("field_unsupported", field=name, remedy=remedy)
        if self.top_logprobs and not self.logprobs:
            raise FieldError("top_logprobs_without_logprobs", field="top_logprobs")

    def to_messages(self) -> tuple[Message, ...]:
        """Returns the messages as a prompt template gets them.

        Raises:
            RequestError: a message has no content, or something other than text, or the prompts
                are too long.
        """
        messages = to_messages(self.messages)
        _check_total_length(sum(len(message.content) for message in messages) * self.choices)
        return messages

    def to_sampling(self) -> Sampling:
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return self._sampling(logprobs)


class TextCompletion(Generation):
    rules = COMPLETION_FIELDS
    default_max_tokens = 16  # as at OpenAI
    prompt: (
        Prompt
        | Ids
        | Annotated[list[Prompt], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
    )
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), INTEGER] | None = None
    echo: bool | None = None
    best_of: Annotated[int, INTEGER] | None = Field(None, json_schema_extra={"const": 1})

    def check(self) -> None:
        super().check()
        if self.best_of not in (None, self.choices):
            raise FieldError("best_of_unsupported", field="best_of")
        if self.echo and self.logprobs is not None:
            raise FieldError("echo_logprobs_unsupported", field="echo")
        _check_total_length(sum(map(len, self.prompts())) * self.choices)

    def to_sampling(self) -> Sampling:
        return self._sampling(self.logprobs)

    def prompts(self) -> list[str | tuple[int, ...]]:
        """Returns the prompts, each as text or token ids."""
        prompt: Any = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt[0], int):
            return [tuple(prompt)]
        return [one if isinstance(one, str) else tuple(one) for one in prompt]


def _check_total_length(length: int) -> None:
    """
    Args:
        length: of the prompts of all choices together, in characters or tokens.

    Raises:
        RequestError: it is too long.
    """
    if length > MAX_TOTAL_TEXT:
        raise RequestError("choices_text_too_long", max_total_text=MAX_TOTAL_TEXT)
