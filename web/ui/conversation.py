"""What happens between a question and its answer on the page, free of Gradio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from model.manager import ModelManager
from model.types import (
    ChatRequest,
    Delta,
    FinishReason,
    LinlyError,
    Message,
    Queued,
    Role,
    Sampling,
    Stats,
)
from web.i18n import say

UPDATE_SECONDS = 0.05  # between two updates of the page while a reply streams
POLL_SECONDS = 0.3  # between two looks at a model that is still loading


@dataclass(frozen=True)
class Turn:
    """One message in the log. `facts` is the small line under a reply."""

    role: Role
    text: str
    facts: str = ""


@dataclass(frozen=True)
class Wishes:
    """How the visitor wants to be answered. None and "" mean the model's own."""

    adapter: str | None
    template: str | None
    system: str
    sampling: Sampling
    language: str


@dataclass(frozen=True)
class View:
    """What the page is to show now."""

    turns: tuple[Turn, ...]
    notice: str = ""
    busy: bool = True


@dataclass
class Ongoing:
    """A reply in the making. `stopped` keeps what is there; `discarded` shows nothing more."""

    request: ChatRequest | None = None
    stopped: bool = False
    discarded: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Replies:
    """The replies in the making by browser session: at most one in each."""

    manager: ModelManager
    _by_session: dict[str, Ongoing] = field(default_factory=dict)

    def begin(self, session: str) -> Ongoing | None:
        """A new one, or None while the session still has one."""
        if session in self._by_session:
            return None
        return self._by_session.setdefault(session, Ongoing())

    def end(self, session: str, ongoing: Ongoing) -> None:
        """It has shown its last."""
        del self._by_session[session]
        if ongoing.request:
            self.manager.abort(ongoing.request.id)
        ongoing.ended.set()

    def stop(self, session: str) -> Ongoing | None:
        """Stop the session's reply, if it has one; its model stops within one token."""
        ongoing = self._by_session.get(session)
        if ongoing is not None:
            ongoing.stopped = True
            if ongoing.request:
                self.manager.abort(ongoing.request.id)
        return ongoing

    async def discard(self, session: str) -> None:
        """Stop the session's reply and wait until it can show nothing any more."""
        ongoing = self.stop(session)
        if ongoing is not None:
            ongoing.discarded = True
            await ongoing.ended.wait()


async def answer(
    manager: ModelManager, turns: tuple[Turn, ...], wishes: Wishes, ongoing: Ongoing
) -> AsyncGenerator[View, None]:
    """Answer the last turn: views for the page, the last one with `busy` False."""
    language = wishes.language
    while not (status := manager.status()).ready:
        if status.error:
            yield View(turns, say(language, "failed", error=status.error), busy=False)
            return
        if ongoing.stopped:
            yield View(turns, busy=False)
            return
        percent = round(status.progress * 100)
        yield View(turns, say(language, "waiting_for_model", percent=percent))
        await asyncio.sleep(POLL_SECONDS)
    ongoing.request = _request(turns, wishes)
    view = View(turns)
    try:
        async with aclosing(_stream(manager, ongoing.request, turns, language)) as views:
            async for view in views:
                yield view
    except LinlyError as error:
        midway = len(view.turns) > len(turns)
        key = "failed_midway" if midway else "failed"
        yield replace(view, notice=say(language, key, error=_sentence(error)), busy=False)


async def _stream(
    manager: ModelManager, request: ChatRequest, turns: tuple[Turn, ...], language: str
) -> AsyncGenerator[View, None]:
    text, notice = "", ""
    async with aclosing(manager.chat(request, UPDATE_SECONDS)) as bursts:
        async for burst in bursts:
            text += "".join(delta.text for delta in burst)
            for delta in burst:
                if delta.dropped:
                    notice = say(language, "dropped", **vars(delta.dropped))
            queued = burst[-1].queued
            if burst[-1].finish_reason:
                yield _last_view(turns, text, burst[-1], notice, language, manager)
            else:
                reply = (Turn("assistant", text),) if text else ()
                yield View((*turns, *reply), _queue_line(queued, language) if queued else notice)


def _queue_line(queued: Queued, language: str) -> str:
    """What a reply waits for, and for how long."""
    place, seconds = queued.ahead + 1, round(queued.seconds)
    return say(language, f"queued_{queued.reason}", place=place, seconds=seconds)


def _last_view(
    turns: tuple[Turn, ...],
    text: str,
    last: Delta,
    notice: str,
    language: str,
    manager: ModelManager,
) -> View:
    if last.error:
        key = "failed_midway" if text else "failed"
        notice = say(language, key, error=last.error)
    line = facts_line(last.stats, last.finish_reason, language, manager) if last.stats else ""
    reply = (Turn("assistant", text, line),) if text or not last.error else ()
    return View((*turns, *reply), notice, busy=False)


def facts_line(
    stats: Stats, reason: FinishReason | None, language: str, manager: ModelManager
) -> str:
    """Tokens, speed and who answered, and why the reply ended if that needs saying."""
    line = say(
        language, "facts",
        completion=stats.completion_tokens,
        prompt=stats.prompt_tokens,
        speed=f"{stats.tokens_per_second:.1f}",
        who=stats.adapter or manager.status().base_model,
    )  # fmt: skip
    endings = {FinishReason.ABORT: "stopped", FinishReason.LENGTH: "cut"}
    ending = endings.get(reason) if reason else None
    return f"{line} · {say(language, ending)}" if ending else line


def _request(turns: tuple[Turn, ...], wishes: Wishes) -> ChatRequest:
    system = (Message("system", wishes.system),) if wishes.system.strip() else ()
    return ChatRequest(
        messages=(*system, *(Message(turn.role, turn.text) for turn in turns)),
        adapter=wishes.adapter,
        sampling=wishes.sampling,
        template=wishes.template,
        drop_oldest=True,
    )


def _sentence(error: LinlyError) -> str:
    text = str(error)
    return text if text.endswith((".", "?", "!")) else f"{text}."
