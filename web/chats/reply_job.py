"""A reply in the making, as a value: the runs that it takes, and how they end."""

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
    """A reply in the making: its text so far, and what it waits for.

    `message` is as it was at the beginning, with the first run of this job as its last one; `run`
    is the current run. `repeats` is the reply to reproduce exactly, if there is one. Where a user
    or a failure ended its run, the current run ends at `ends_at` characters of the text.
    `model_status` is set while the model loads, `queued` while the request waits. `saved` tells
    whether the store has all of `text`.
    """

    owner: str
    chat: str
    message: ChatMessage
    text: str
    run: GenerationRun
    repeats: ChatMessage | None = None
    ends_at: int | None = None
    model_status: Status | None = None
    queued: Queued | None = None
    request: ChatRequest | None = None
    stopped: bool = False
    saved: bool = True
    task: asyncio.Task[None] | None = None

    @property
    def reached_end(self) -> bool:
        """Whether the text is as long as that of the run that it reproduces."""
        return self.ends_at is not None and len(self.text) >= self.ends_at


def to_model_messages(branch: list[ChatMessage], system: str) -> tuple[Message, ...]:
    """Returns a branch as the model is sent it, without empty replies."""
    first = (Message("system", system),) if system.strip() else ()
    return (*first, *(Message(m.role, m.text) for m in branch if m.text or m.role == "user"))


def planned_runs(job: ReplyJob) -> list[tuple[GenerationRun, int | None]]:
    """Returns the runs to make, each with the length of the text where it is to be ended, or None
    if the model ends it."""
    if job.repeats is None:
        return [(job.run, None)]
    text, runs = job.repeats.text, job.repeats.runs
    ends = [*(run.begins for run in runs[1:]), len(text)]
    ended_from_outside = (None, FinishReason.ABORT, FinishReason.ERROR)
    return [
        (replace(run, reason=None), end if run.reason in ended_from_outside else None)
        for run, end in zip(runs, ends, strict=True)
    ]


def completed_run(run: GenerationRun, last: Delta) -> GenerationRun:
    """Returns the run with the statistics of its last Delta."""
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


def final_state(job: ReplyJob, last: Delta) -> MessageState:
    """Returns the state of a reply after its last Delta.

    An abort that no user asked for is an interruption: the program is shutting down.
    """
    if job.reached_end:
        return MessageState.STOPPED
    if last.finish_reason is FinishReason.ABORT and not job.stopped:
        return MessageState.INTERRUPTED
    return STATES.get(last.finish_reason or FinishReason.ERROR, MessageState.FAILED)
