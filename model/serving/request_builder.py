"""Builds the engine's request from a chat or completion request: adapter, vocabulary, prompt.

Rendering and tokenising a long chat take time, and so does loading an adapter: do not call these
functions on an event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.base_resolver import MODEL_TEMPLATE
from model.engine.protocol import Engine
from model.errors import PromptTooLongError, RequestError
from model.serving.adapter_folders import Adapter
from model.serving.backend import Backend
from model.suggestions import did_you_mean
from model.text.detokenizer import IncrementalDetokenizer
from model.text.prompt import Prompt, decode_context, encode_chat, encode_without_generation_prompt
from model.text.prompt_template import PromptTemplate
from model.text.reply_format import PLAIN, ReplyFormat, find_reply_format
from model.text.tokenizer import TextSpan, Tokenizer, to_text_with_control_tokens
from model.types import (
    MAX_ADAPTER_SCALE,
    ChatRequest,
    CompletionRequest,
    ContextUsage,
    Detokenizer,
    EngineRequest,
    PreparedAdapter,
)

# With `drop_oldest`, at most one in so many tokens of the context is reserved for the reply.
REPLY_SHARE = 4


@dataclass(frozen=True)
class PreparedRequest:
    """The tokens to continue, the adapter, and the tokenizer of the reply.

    `eos_ids` and the strings in `stop` end the reply, and `so_far` is the text that it begins with
    already. `reply_format` is that of the template. With `prefill_only` there is no reply.
    """

    prompt: Prompt
    adapter: PreparedAdapter | None
    tokenizer: Tokenizer
    eos_ids: frozenset[int]
    stop: tuple[str, ...] = ()
    so_far: str = ""
    reply_format: ReplyFormat = PLAIN
    prefill_only: bool = False


@dataclass(frozen=True)
class _ChatTarget:
    """What a chat is rendered for: adapter, template, and the vocabulary of both."""

    adapter: Adapter | None
    template: PromptTemplate
    tokenizer: Tokenizer
    eos_ids: frozenset[int]
    reply_format: ReplyFormat


def prepare_chat(backend: Backend, request: ChatRequest) -> PreparedRequest:
    """Prepares the reply to `request.messages`.

    Raises:
        UnknownModelError, AdapterError, RequestError, PromptTooLongError
    """
    if not request.messages:
        raise RequestError("no_messages")
    target = _chat_target(backend, request)
    prompt = _encode_for_reply(backend, request, target)
    return _prepare(backend, target, prompt, request.so_far)


def prepare_prefill(backend: Backend, request: ChatRequest) -> PreparedRequest:
    """Prepares the prefill of a chat: the tokens with which its next question's prompt will begin.

    Raises: as `prepare_chat`, except that an empty chat is no error.
    """
    target = _chat_target(backend, request)
    prompt = _encode_current(backend, request, target)
    return replace(_prepare(backend, target, prompt), prefill_only=True)


def prepare_completion(backend: Backend, request: CompletionRequest) -> PreparedRequest:
    """Prepares the continuation of `request.prompt`.

    Raises: as `prepare_chat`.
    """
    adapter = _find_adapter(backend, request)
    tokenizer, eos_ids = _vocabulary(backend, adapter, request.adapter_scale)
    prompt = Prompt(_completion_ids(request, tokenizer, backend.engine.context_length))
    return PreparedRequest(prompt, _prepare_adapter(backend, adapter), tokenizer, eos_ids)


def prompt_text(backend: Backend, request: CompletionRequest) -> str:
    """Returns the prompt as text, also where the client sent token ids.

    Raises: as `prepare_completion`; loads no adapter.
    """
    if isinstance(request.prompt, str):
        return request.prompt
    adapter = _find_adapter(backend, request)
    tokenizer, _ = _vocabulary(backend, adapter, request.adapter_scale)
    return tokenizer.decode(_completion_ids(request, tokenizer, backend.engine.context_length))


def context_usage(backend: Backend, request: ChatRequest) -> ContextUsage:
    """Returns how much of the context a chat takes. Loads no adapter and calls no engine.

    Raises: as `prepare_prefill`.
    """
    prompt = _encode_current(backend, request, _chat_target(backend, request))
    return ContextUsage(len(prompt.ids), backend.engine.context_length, prompt.dropped)


def resolve_template(backend: Backend, name: str | None, adapter: Adapter | None) -> PromptTemplate:
    """Returns the template of that name, else the adapter's, else the base's.

    Raises:
        RequestError: there is none of that name.
    """
    name = name or (adapter.template if adapter else None) or backend.default_template
    if adapter and adapter.own_template and name == adapter.own_template.name:
        base_template = backend.templates.get(MODEL_TEMPLATE)
        stop = base_template.stop if base_template else ()
        return replace(adapter.own_template, stop=stop, opens_thought=adapter.opens_thought)
    if name not in backend.templates:
        remedy = did_you_mean(name, backend.templates, "there_are", names=tuple(backend.templates))
        raise RequestError("unknown_template", name=name, remedy=remedy)
    template = backend.templates[name]
    if adapter and name == adapter.template:
        return replace(template, opens_thought=adapter.opens_thought)
    return template


def build_engine_request(
    backend: Backend, request: ChatRequest | CompletionRequest, prepared: PreparedRequest
) -> EngineRequest:
    """Builds the engine's request.

    Raises:
        RequestError: `logit_bias` or `stop_token_ids` has an id that is not in the vocabulary.
    """
    ids, sampling = prepared.prompt.ids, request.sampling
    biased = [i for i, _ in sampling.logit_bias]
    _check_ids([*biased, *sampling.stop_token_ids], prepared.tokenizer)
    remaining = backend.engine.context_length - len(ids)
    max_tokens = min(sampling.max_tokens or remaining, remaining)
    return EngineRequest(
        id=request.id,
        prompt_ids=ids,
        sampling=replace(sampling, max_tokens=max_tokens, stop=(*sampling.stop, *prepared.stop)),
        eos_ids=prepared.eos_ids,
        detokenizer=build_detokenizer(prepared),
        adapter=prepared.adapter,
        adapter_scale=request.adapter_scale,
        vocab_size=prepared.tokenizer.vocab_size,
        so_far=prepared.so_far,
        prefill_only=prepared.prefill_only,
        affinity=request.affinity,
        prompt_text=""
        if backend.engine.accepts_token_ids
        else to_text_with_control_tokens(prepared.tokenizer, ids),
    )


def _chat_target(backend: Backend, request: ChatRequest) -> _ChatTarget:
    adapter = _find_adapter(backend, request)
    template = resolve_template(backend, request.template, adapter)
    tokenizer, eos_ids = _vocabulary(backend, adapter, request.adapter_scale)
    reply_format = find_reply_format(template, tokenizer)
    return _ChatTarget(adapter, template, tokenizer, eos_ids, reply_format)


def _prepare(
    backend: Backend, target: _ChatTarget, prompt: Prompt, so_far: str = ""
) -> PreparedRequest:
    adapter = _prepare_adapter(backend, target.adapter)
    return PreparedRequest(
        prompt, adapter, target.tokenizer, target.eos_ids, target.template.stop, so_far,
        target.reply_format,
    )  # fmt: skip


def _encode_for_reply(backend: Backend, request: ChatRequest, target: _ChatTarget) -> Prompt:
    """Encodes the chat up to the place where the model goes on."""
    so_far = target.reply_format.written(request.so_far) if request.so_far else ""
    return encode_chat(
        request.messages, target.template, target.tokenizer,
        _max_prompt_tokens(request, backend.engine), request.drop_oldest, so_far,
    )  # fmt: skip


def _encode_current(backend: Backend, request: ChatRequest, target: _ChatTarget) -> Prompt:
    """Encodes the chat as `_encode_for_reply` if a reply is due, else up to its last message."""
    if request.so_far or (request.messages and request.messages[-1].role == "user"):
        return _encode_for_reply(backend, request, target)
    return encode_without_generation_prompt(
        request.messages, target.template, target.tokenizer,
        _max_prompt_tokens(request, backend.engine), request.drop_oldest,
    )  # fmt: skip


def _find_adapter(backend: Backend, request: ChatRequest | CompletionRequest) -> Adapter | None:
    """Returns the requested adapter, as its folder is now; None for the base."""
    if not 0 <= request.adapter_scale <= MAX_ADAPTER_SCALE:
        raise RequestError("adapter_scale_range", max_scale=MAX_ADAPTER_SCALE)
    if request.adapter is None:
        return None
    return backend.registry.get(request.adapter)


def _vocabulary(
    backend: Backend, adapter: Adapter | None, adapter_scale: float
) -> tuple[Tokenizer, frozenset[int]]:
    """Returns the tokenizer and the ids that end a reply: the adapter's own, if it has a tokenizer
    of its own; and also the base's where both share a vocabulary.

    With an `adapter_scale` of 0 the base replies alone, in its own vocabulary.
    """
    if adapter is None or adapter.tokenizer is None or not adapter_scale:
        return backend.tokenizer, backend.eos_ids
    eos_id = adapter.tokenizer.eos_id
    own_ids = frozenset() if eos_id is None else frozenset([eos_id])
    return adapter.tokenizer, own_ids if adapter.replaces_vocabulary else own_ids | backend.eos_ids


def _prepare_adapter(backend: Backend, adapter: Adapter | None) -> PreparedAdapter | None:
    """Loads the adapter. The handle can be submitted even if the folder goes in between."""
    return backend.engine.prepare(adapter.name, adapter.digest) if adapter else None


def _max_prompt_tokens(request: ChatRequest, engine: Engine) -> int:
    """Tokens that the prompt may have. With `drop_oldest` the requested length of the reply stays
    free, up to a share of the context; without it one token does."""
    if not request.drop_oldest:
        return engine.context_length - 1
    max_reserved = engine.context_length // REPLY_SHARE
    return engine.context_length - min(request.sampling.max_tokens or max_reserved, max_reserved)


def _completion_ids(
    request: CompletionRequest, tokenizer: Tokenizer, context_length: int
) -> tuple[int, ...]:
    if isinstance(request.prompt, str):
        ids = (*tokenizer.prefix_ids, *tokenizer.encode([TextSpan(request.prompt)]))
    else:
        ids = request.prompt
    if not ids:
        raise RequestError("prompt_empty")
    _check_ids(ids, tokenizer)
    if len(ids) >= context_length:
        raise PromptTooLongError("prompt_too_long", tokens=len(ids), room=context_length - 1)
    return ids


def _check_ids(ids: Sequence[int], tokenizer: Tokenizer) -> None:
    if not all(0 <= i < tokenizer.vocab_size for i in ids):
        raise RequestError("token_id_range", vocab_size=tokenizer.vocab_size - 1)


def build_detokenizer(prepared: PreparedRequest) -> Detokenizer:
    """Returns a detokenizer for the reply, whose text follows the prompt's and `so_far`."""
    tokenizer = prepared.tokenizer
    context = decode_context(prepared.prompt.ids, tokenizer)
    detokenizer = IncrementalDetokenizer(tokenizer.decode, tokenizer.token_bytes, context)
    space = _dropped_space(tokenizer.decode(context), prepared.so_far)
    return _WithoutLeadingSpace(detokenizer, space) if space else detokenizer


def _dropped_space(context: str, so_far: str) -> str:
    """Returns the space at the end of `so_far` that the tokenizer has dropped.

    Args:
        context: the decoded text of the last ids of `so_far`.
        so_far: the text that the reply begins with.
    """
    if not context.strip():
        return ""  # all of it is space, and there may be more before it
    space = so_far[len(so_far.rstrip()) :]
    return space[len(context) - len(context.rstrip()) :]


class _WithoutLeadingSpace:
    """A detokenizer without the space at the beginning of its text.

    `so_far` ends with that space, but its tokenizer has dropped it: so the first word of the
    reply brings the space once more.
    """

    def __init__(self, detokenizer: Detokenizer, space: str) -> None:
        self._detokenizer = detokenizer
        self._space = space
        self.token_bytes = detokenizer.token_bytes

    def push(self, token_id: int) -> str:
        return self._cut(self._detokenizer.push(token_id))

    def flush(self) -> str:
        return self._cut(self._detokenizer.flush())

    def _cut(self, text: str) -> str:
        while text and text[:1] == self._space[:1]:
            text, self._space = text[1:], self._space[1:]
        self._space = "" if text else self._space
        return text
