"""A request made ready for the engine: its adapter, its vocabulary and its prompt.

Rendering and tokenising a long chat take time, and so does loading an adapter: none of this
belongs on an event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.engine.protocol import Engine
from model.errors import PromptTooLongError, RequestError
from model.serving.adapter_registry import Adapter
from model.serving.backend import Backend
from model.suggestions import did_you_mean
from model.text.detokenizer import IncrementalDetokenizer
from model.text.prompt import Prompt, decode_context, encode_chat, encode_without_generation_prompt
from model.text.prompt_template import PromptTemplate
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

REPLY_SHARE = 4  # when old turns are dropped, at most one in this many tokens is kept for the reply


@dataclass(frozen=True)
class PreparedRequest:
    """What to continue, with which adapter, in whose vocabulary (`eos_ids` end a reply in it),
    where its template stops, and what the reply begins with. With `prefill_only` no reply comes."""

    prompt: Prompt
    adapter: PreparedAdapter | None
    tokenizer: Tokenizer
    eos_ids: frozenset[int]
    stop: tuple[str, ...] = ()
    so_far: str = ""
    prefill_only: bool = False


@dataclass(frozen=True)
class _Voice:
    """Who is to answer, and how it reads and writes."""

    adapter: Adapter | None
    template: PromptTemplate
    tokenizer: Tokenizer
    eos_ids: frozenset[int]


def plan_chat(serving: Backend, request: ChatRequest) -> PreparedRequest:
    """What answers `request.messages`.

    Raises:
        UnknownModelError, AdapterError, RequestError, PromptTooLongError
    """
    if not request.messages:
        raise RequestError("no_messages")
    voice = _voice(serving, request)
    return _planned(serving, voice, _to_answer(serving, request, voice), request.so_far)


def plan_reading(serving: Backend, request: ChatRequest) -> PreparedRequest:
    """What computes as much of a chat as its next question's prompt will begin with.

    Raises: as `plan_chat`, but for there being no messages.
    """
    voice = _voice(serving, request)
    return replace(_planned(serving, voice, _as_it_is(serving, request, voice)), prefill_only=True)


def plan_completion(serving: Backend, request: CompletionRequest) -> PreparedRequest:
    """What continues `request.prompt`.

    Raises: as `plan_chat`.
    """
    adapter = _chosen_adapter(serving, request)
    tokenizer, eos_ids = _vocabulary(serving, adapter, request.adapter_scale)
    prompt = Prompt(_completion_ids(request, tokenizer, serving.engine.context_length))
    return PreparedRequest(prompt, _prepared(serving, adapter), tokenizer, eos_ids)


def prompt_text(serving: Backend, request: CompletionRequest) -> str:
    """The prompt as text, also where it was sent as token ids.

    Raises: as `plan_completion`, before anything is loaded.
    """
    if isinstance(request.prompt, str):
        return request.prompt
    adapter = _chosen_adapter(serving, request)
    tokenizer, _ = _vocabulary(serving, adapter, request.adapter_scale)
    return tokenizer.decode(_completion_ids(request, tokenizer, serving.engine.context_length))


def context_usage(serving: Backend, request: ChatRequest) -> ContextUsage:
    """How much of the context a chat takes. Loads nothing and asks no engine.

    Raises: as `plan_chat`, but for there being no messages.
    """
    prompt = _as_it_is(serving, request, _voice(serving, request))
    return ContextUsage(len(prompt.ids), serving.engine.context_length, prompt.dropped)


def resolve_template(serving: Backend, name: str | None, adapter: Adapter | None) -> PromptTemplate:
    """The template of that name, else the adapter's, else the base's.

    Raises:
        RequestError: there is none of that name.
    """
    name = name or (adapter.template if adapter else None) or serving.default_template
    if name not in serving.templates:
        remedy = did_you_mean(name, serving.templates, "there_are", names=tuple(serving.templates))
        raise RequestError("unknown_template", name=name, remedy=remedy)
    return serving.templates[name]


def build_engine_request(
    serving: Backend, request: ChatRequest | CompletionRequest, plan: PreparedRequest
) -> EngineRequest:
    """What the engine is asked for.

    Raises:
        RequestError: `logit_bias` names a token that there is not.
    """
    ids, sampling = plan.prompt.ids, request.sampling
    _check_ids([i for i, _ in sampling.logit_bias], plan.tokenizer)
    left = serving.engine.context_length - len(ids)
    most = min(sampling.max_tokens or left, left)
    return EngineRequest(
        id=request.id,
        prompt_ids=ids,
        sampling=replace(sampling, max_tokens=most, stop=(*sampling.stop, *plan.stop)),
        eos_ids=plan.eos_ids,
        detokenizer=_detokenizer(plan),
        adapter=plan.adapter,
        adapter_scale=request.adapter_scale,
        vocab_size=plan.tokenizer.vocab_size,
        so_far=plan.so_far,
        prefill_only=plan.prefill_only,
        affinity=request.affinity,
        prompt_text=""
        if serving.engine.accepts_token_ids
        else to_text_with_control_tokens(plan.tokenizer, ids),
    )


def _voice(serving: Backend, request: ChatRequest) -> _Voice:
    adapter = _chosen_adapter(serving, request)
    template = resolve_template(serving, request.template, adapter)
    tokenizer, eos_ids = _vocabulary(serving, adapter, request.adapter_scale)
    return _Voice(adapter, template, tokenizer, eos_ids)


def _planned(serving: Backend, voice: _Voice, prompt: Prompt, so_far: str = "") -> PreparedRequest:
    adapter = _prepared(serving, voice.adapter)
    return PreparedRequest(
        prompt, adapter, voice.tokenizer, voice.eos_ids, voice.template.stop, so_far
    )


def _to_answer(serving: Backend, request: ChatRequest, voice: _Voice) -> Prompt:
    """The chat up to where its answer goes on."""
    return encode_chat(
        request.messages, voice.template, voice.tokenizer, _room(request, serving.engine),
        request.drop_oldest, request.so_far,
    )  # fmt: skip


def _as_it_is(serving: Backend, request: ChatRequest, voice: _Voice) -> Prompt:
    """The chat as it will be sent if somebody is to be answered, else up to its last message."""
    if request.so_far or (request.messages and request.messages[-1].role == "user"):
        return _to_answer(serving, request, voice)
    return encode_without_generation_prompt(
        request.messages, voice.template, voice.tokenizer, _room(request, serving.engine),
        request.drop_oldest,
    )  # fmt: skip


def _chosen_adapter(serving: Backend, request: ChatRequest | CompletionRequest) -> Adapter | None:
    """The adapter that is asked for, as its folder is now; None for the base."""
    if not 0 <= request.adapter_scale <= MAX_ADAPTER_SCALE:
        raise RequestError("adapter_scale_range", max_scale=MAX_ADAPTER_SCALE)
    if request.adapter is None:
        return None
    return serving.registry.get(request.adapter)


def _vocabulary(
    serving: Backend, adapter: Adapter | None, scale: float
) -> tuple[Tokenizer, frozenset[int]]:
    """The tokenizer, and the ids that end a reply: an adapter's own, if it brings a vocabulary.

    At strength 0 the base answers alone, and knows no other ids than its own.
    """
    own = adapter.tokenizer if adapter and scale else None
    if own is None:
        return serving.tokenizer, serving.eos_ids
    return own, frozenset() if own.eos_id is None else frozenset([own.eos_id])


def _prepared(serving: Backend, adapter: Adapter | None) -> PreparedAdapter | None:
    """Loaded; whoever holds it can submit it, whatever happens to its folder."""
    return serving.engine.prepare(adapter.name, adapter.digest) if adapter else None


def _room(request: ChatRequest, engine: Engine) -> int:
    """Tokens that the prompt may have, beside those that are kept free for the reply: what was
    asked for while turns may go, else just one."""
    if not request.drop_oldest:
        return engine.context_length - 1
    most = engine.context_length // REPLY_SHARE
    return engine.context_length - min(request.sampling.max_tokens or most, most)


def _completion_ids(
    request: CompletionRequest, tokenizer: Tokenizer, context: int
) -> tuple[int, ...]:
    if isinstance(request.prompt, str):
        ids = (*tokenizer.prefix_ids, *tokenizer.encode([TextSpan(request.prompt)]))
    else:
        ids = request.prompt
    if not ids:
        raise RequestError("prompt_empty")
    _check_ids(ids, tokenizer)
    if len(ids) >= context:
        raise PromptTooLongError(
            "prompt_too_long",
            tokens=len(ids),
            room=context - 1,
        )
    return ids


def _check_ids(ids: Sequence[int], tokenizer: Tokenizer) -> None:
    if not all(0 <= i < tokenizer.vocab_size for i in ids):
        raise RequestError("token_id_range", vocab_size=tokenizer.vocab_size - 1)


def _detokenizer(plan: PreparedRequest) -> Detokenizer:
    """What writes the reply down behind its prompt."""
    tokenizer = plan.tokenizer
    context = decode_context(plan.prompt.ids, tokenizer)
    made = IncrementalDetokenizer(tokenizer.decode, tokenizer.token_text, context)
    lost = _lost_space(tokenizer.decode(context), plan.so_far)
    return _WithoutLead(made, lost) if lost else made


def _lost_space(read: str, so_far: str) -> str:
    """The space at the end of `so_far` that is not in `read`, what its last ids say."""
    if not read.strip():
        return ""  # all of it is space, and there may be more before it
    space = so_far[len(so_far.rstrip()) :]
    return space[len(read) - len(read.rstrip()) :]


class _WithoutLead:
    """Text that begins behind a space which its tokenizer does not write: there it is already,
    and the first word brings it once more."""

    def __init__(self, detokenizer: Detokenizer, lead: str) -> None:
        self._detokenizer = detokenizer
        self._lead = lead
        self.token_text = detokenizer.token_text

    def push(self, token_id: int) -> str:
        return self._cut(self._detokenizer.push(token_id))

    def flush(self) -> str:
        return self._cut(self._detokenizer.flush())

    def _cut(self, text: str) -> str:
        while text and text[:1] == self._lead[:1]:
            text, self._lead = text[1:], self._lead[1:]
        self._lead = "" if text else self._lead
        return text
