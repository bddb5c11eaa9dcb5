"""OpenAI's requests as pydantic models, with this project's own fields in addition.

A null field counts as missing. Unknown fields are ignored, as OpenAI's clients send fields that are
new or optional. Fields that would change the reply and are not supported are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from model.errors import RequestError
from model.types import MAX_BIASES, MAX_STOPS, Message, Sampling

MAX_MESSAGES = 2000
MAX_TEXT = 1_000_000  # characters of a message or a prompt
MAX_TOTAL_TEXT = 2_000_000  # characters of all choices' prompts: each is tokenized on its own
MAX_PARTS = 100  # of a message
MAX_PROMPT_TOKENS = 200_000  # tokens of a prompt
MAX_CHOICES = 32  # of one request, over all of its prompts
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


# Not `ge` and `lt`: the document would show these bounds as floats, which cannot be 2^63 - 1.
SEED = AfterValidator(_check_seed)

Int = Annotated[int, INTEGER]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Prompt = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Name = Annotated[str, Field(max_length=256)]
Positive = Annotated[int, Field(ge=1), INTEGER]
Penalty = Annotated[float, Field(ge=-2, le=2)]
# Validation of a list ends at its first fault: a million faults would be a million errors to
# format, on the event loop that all clients share.
Ids = Annotated[
    list[Annotated[int, Field(ge=0, lt=MAX_TOKEN_ID), INTEGER]],
    Field(min_length=1, max_length=MAX_PROMPT_TOKENS, fail_fast=True),
]
# The validator accepts more, so that `check` can refuse it with a clear sentence. The document
# shows only the value that is allowed.
NoTools = Annotated[list[Any], Field(json_schema_extra={"maxItems": 0})]
OnlyText = Annotated[str, Field(json_schema_extra={"const": "text"})]


class RequestBody(BaseModel):
    """A body of JSON's own types: "5" is not a number."""

    model_config = ConfigDict(strict=True)


class TextPart(RequestBody):
    """One part of a message whose content is a list."""

    type: OnlyText
    text: Text | None = None


class RequestMessage(RequestBody):
    role: Literal["system", "developer", "user", "assistant"]
    content: (
        Text | Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True)] | None
    ) = None
    tool_calls: NoTools | None = None

    @property
    def text_length(self) -> int:
        """In characters."""
        if isinstance(self.content, list):
            return sum(len(part.text or "") for part in self.content)
        return len(self.content or "")

    def to_message(self) -> Message:
        """Returns the message as the engine takes it.

        Raises:
            RequestError: it contains something other than text.
        """
        if self.tool_calls:
            raise RequestError("tool_calls_unsupported")
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, list):
            if any(part.type != "text" for part in self.content):
                raise RequestError("content_not_text")
            return Message(role, "".join(part.text or "" for part in self.content))
        return Message(role, self.content or "")


class StreamOptions(RequestBody):
    include_usage: bool | None = None


class ResponseFormat(RequestBody):
    type: OnlyText


class Generation(RequestBody):
    """The fields that chat and text completions share."""

    model: Name | None = Field(None, description="An adapter's name, or the base's, the default")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), INTEGER] | None = None
    max_tokens: Positive | None = None
    temperature: Annotated[float, Field(ge=0, le=1e6)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
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
    user: str | None = None
    prompt_cache_key: str | None = None
    # Not in OpenAI's API. The names are vLLM's, except `adapter_scale`.
    top_k: Int | None = Field(None, description="0 or less: off")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    min_tokens: Annotated[int, Field(ge=0), INTEGER] | None = None
    ignore_eos: bool | None = None
    adapter_scale: Annotated[float, Field(ge=0, le=8)] | None = None

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

    def sampling(self, max_tokens: int | None, logprobs: int | None) -> Sampling:
        """Returns the engine's sampling parameters; as at OpenAI, temperature and top_p are 1 by
        default."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        bias = {int(token): value for token, value in (self.logit_bias or {}).items()}
        return Sampling(
            max_tokens=max_tokens,
            min_tokens=self.min_tokens or 0,
            temperature=1.0 if self.temperature is None else self.temperature,
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
        )


class ChatCompletion(Generation):
    messages: Annotated[
        list[RequestMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    ]
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), INTEGER] | None = None
    response_format: ResponseFormat | None = None
    tools: NoTools | None = None
    functions: NoTools | None = None

    def check(self) -> None:
        """Checks what pydantic cannot.

        Raises:
            RequestError: the reply would not be what the client expects.
        """
        if self.tools or self.functions:
            raise RequestError("tools_unsupported")
        if self.response_format and self.response_format.type != "text":
            raise RequestError(
                "response_format_unsupported",
            )
        length = sum(message.text_length for message in self.messages)
        _check_total_length(length * self.choices)
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs_without_logprobs")

    def to_sampling(self) -> Sampling:
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return self.sampling(self.max_completion_tokens or self.max_tokens, logprobs)


class TextCompletion(Generation):
    prompt: (
        Prompt
        | Ids
        | Annotated[list[Prompt], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
    )
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), INTEGER] | None = None
    echo: bool | None = None
    best_of: Int | None = Field(None, json_schema_extra={"const": 1})
    suffix: str | None = Field(None, json_schema_extra={"maxLength": 0})

    def check(self) -> None:
        """Checks what pydantic cannot.

        Raises:
            RequestError: the reply would not be what the client expects.
        """
        if self.suffix:
            raise RequestError("suffix_unsupported")
        if self.best_of not in (None, 1, self.choices):
            raise RequestError("best_of_unsupported")
        if self.echo and self.logprobs is not None:
            raise RequestError("echo_logprobs_unsupported")
        prompts = self.prompts()
        _check_total_length(sum(map(len, prompts)) * self.choices)
        if len(prompts) * self.choices > MAX_CHOICES:
            raise RequestError("too_many_choices", max_choices=MAX_CHOICES)

    def to_sampling(self) -> Sampling:
        return self.sampling(16 if self.max_tokens is None else self.max_tokens, self.logprobs)

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
