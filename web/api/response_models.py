"""The API's responses as pydantic models, for the document at /docs only: validating them while
serving would cost time for each token."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from web.api.streaming import SSE


class ErrorDetails(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """OpenAI's error object."""

    error: ErrorDetails


class Model(BaseModel):
    """A base, or an adapter, whose `parent` is its base."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int | None


class Models(BaseModel):
    object: Literal["list"]
    data: list[Model]


class PromptDetails(BaseModel):
    cached_tokens: int


class TokenUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[ChatLogprob]
    refusal: None


class TextLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class Reply(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    index: int
    message: Reply
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class Response(BaseModel):
    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: TokenUsage


class ChatResponse(Response):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextResponse(Response):
    object: Literal["text_completion"]
    choices: list[TextChoice]


class Health(BaseModel):
    """`progress` goes from 0 to 1."""

    status: Literal["loading", "ready", "error"]
    progress: float
    base_model: str
    engine: str
    device: str
    quantization: str
    running: int
    waiting: int
    error: str | None


class AdapterState(BaseModel):
    """An adapter folder: whether it is served, and if not, why."""

    name: str
    ready: bool
    problem: str | None
    warnings: list[str]
    description: str
    template: str | None
    digest: str
    loaded: bool


class AdapterStates(BaseModel):
    adapters: list[AdapterState]


DESCRIPTIONS = {
    400: "Something in the request is wrong, or not served",
    401: "The key is missing or wrong",
    403: "Not with this key, or not from there",
    404: "No model or adapter of that name",
    405: "Not by this method",
    413: "The request is too large",
    415: "The body is not JSON in UTF-8, or compressed",
    422: "The adapter cannot be used",
    429: "The queue is full; Retry-After says for how many seconds",
    500: "The reply failed",
    503: "The model is not there yet, or not any more, or memory is short",
}
Documented = dict[int | str, dict[str, Any]]


def errors(*statuses: int) -> Documented:
    """Returns the documentation of error responses, including those of every route (401, 403)."""
    retry = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return {
        status: {
            "model": Error,
            "description": DESCRIPTIONS[status],
            **({"headers": retry} if status in (429, 503) else {}),
        }
        for status in (401, 403, *statuses)
    }


def streamed() -> Documented:
    """Returns the documentation of a response that can be a stream."""
    description = "The reply; with `stream` server-sent events, one for each token, then [DONE]"
    return {200: {"description": description, "content": {SSE: {}}}}
