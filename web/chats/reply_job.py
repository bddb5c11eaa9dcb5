"""A reply in the making, as a value: what its runs are asked for, and how they end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from model.types import ChatRequest, Delta, FinishReason, Message, Queued, Stats, Status
from web.chats.store.models import ChatMessage, GenerationRun, MessageState

STATES = {
    FinishReason.STOP: MessageState.DONE,
    FinishReason.LENGTH: MessageState.CUT,
    FinishReason.ABORT: MessageState.STOPPED,
    FinishReason.ERROR: MessageState.FAILED,
}


@dataclass
class ReplyJob:
    """One in the making: what it has said, and what it waits for, if it waits.

    `message` is as it began, its last run being the one in the making. `repeats` is the reply
    that it is to repeat exactly, if there is one, and `until` where the run in the making was
    ended from outside then, in characters.
    """

    owner: str
    chat: str
    message: ChatMessage
    text: str
    run: GenerationRun
    repeats: ChatMessage | None = None
    until: int | None = None
    loading: Status | None = None
    queued: Queued | None = None
    request: ChatRequest | None = None
    stopped: bool = False
    saved: bool = True
    task: asyncio.Task[None] | None = None

    @property
    def done(self) -> bool:
        """Whether a repetition has come to where the first one was ended."""
        return self.until is not None and len(self.text) >= self.until


def to_model_messages(messages: list[ChatMessage], system: str) -> tuple[Message, ...]:
    """A branch as the model is sent it. Replies that came to nothing are left out."""
    first = (Message("system", system),) if system.strip() else ()
    return (*first, *(Message(m.role, m.text) for m in messages if m.text or m.role == "user"))


def planned_runs(reply: ReplyJob) -> list[tuple[GenerationRun, int | None]]:
    """The runs to make, and where each is to end if the model does not end it by itself."""
    if reply.repeats is None:
        return [(reply.run, None)]
    text, runs = reply.repeats.text, reply.repeats.runs
    ends = [*(run.begins for run in runs[1:]), len(text)]
    from_outside = (None, FinishReason.ABORT, FinishReason.ERROR)
    return [
        (replace(run, reason=None), end if run.reason in from_outside else None)
        for run, end in zip(runs, ends, strict=True)
    ]


def completed_run(run: GenerationRun, last: Delta) -> GenerationRun:
    """The run with what its last Delta tells."""
    stats = last.stats or Stats(0, 0, 0.0, 0.0, seed=run.settings.sampling.seed or 0)
    return replace(
        run,
        adapter_digest=stats.adapter_digest or "",
        reason=last.finish_reason,
        prompt_tokens=stats.prompt_tokens,
        cached_tokens=stats.cached_tokens,
        completion_tokens=stats.completion_tokens,
        tokens_per_second=stats.tokens_per_second,
        first_token_seconds=stats.first_token_seconds,
    )


def final_state(reply: ReplyJob, last: Delta) -> MessageState:
    """An end that nobody asked for is an interruption: the program is going down."""
    if reply.done:
        return MessageState.STOPPED
    if last.finish_reason is FinishReason.ABORT and not reply.stopped:
        return MessageState.INTERRUPTED
    return STATES.get(last.finish_reason or FinishReason.ERROR, MessageState.FAILED)


def ensure_full_stop(text: str) -> str:
    """With a full stop, if it has no end of its own."""
    return text if text.endswith((".", "?", "!", "。")) else f"{text}."
