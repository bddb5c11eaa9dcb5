"""OpenAI's requests as they come in, with this project's own fields beside them.

Unknown fields are ignored, as OpenAI's clients send what their server may not know.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from model.types import Message, RequestError, Sampling

MOST_MESSAGES = 2000
MOST_TEXT = 1_000_000  # characters of a message or a prompt


class TextPart(BaseModel):
    """One part of a message whose content is a list."""

    type: str
    text: str = Field("", max_length=MOST_TEXT)


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=MOST_TEXT)] | list[TextPart] | None = None

    def to_message(self) -> Message:
        """As the engine room's own value; only text is understood."""
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, list):
            if any(part.type != "text" for part in self.content):
                raise RequestError("Only text is understood in a message's content")
            return Message(role, "".join(part.text for part in self.content))
        return Message(role, self.content or "")


class StreamOptions(BaseModel):
    include_usage: bool = False


class Generation(BaseModel):
    """What chat and text completions have in common. A field that is null counts as left out."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None}

    model: str = ""
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: Literal[1] = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    adapter_scale: float = 1.0

    def sampling(self, max_tokens: int | None, logprobs: int | None) -> Sampling:
        """The engine room's value. As at OpenAI, temperature and top_p are 1 unless given."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=max_tokens,
            min_tokens=self.min_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k if self.top_k is not None and self.top_k > 0 else 0,
            top_p=1.0 if self.top_p is None else self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            stop=tuple(stop),
            ignore_eos=self.ignore_eos,
            logprobs=logprobs,
        )


class ChatCompletion(Generation):
    messages: list[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    def to_sampling(self) -> Sampling:
        wanted = (self.top_logprobs or 0) if self.logprobs else None
        return self.sampling(self.max_completion_tokens or self.max_tokens, wanted)


class TextCompletion(Generation):
    prompt: Annotated[str, Field(max_length=MOST_TEXT)] | list[int] | list[str]
    logprobs: int | None = None
    echo: Literal[False] = False

    def to_sampling(self) -> Sampling:
        return self.sampling(16 if self.max_tokens is None else self.max_tokens, self.logprobs)

    def to_prompt(self) -> str | tuple[int, ...]:
        """The one prompt: text or token ids."""
        prompt: Any = self.prompt
        if isinstance(prompt, str):
            return prompt
        if prompt and isinstance(prompt[0], str):
            if len(prompt) > 1:
                raise RequestError("One prompt a request: send several requests")
            return str(prompt[0])
        return tuple(prompt)
