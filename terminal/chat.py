"""A chat: what was said, and a reply that is printed while it is made."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from model.serving.delta_queue import DeltaBatch
from model.serving.manager import ModelManager
from model.types import ChatRequest, Delta, FinishReason, Message
from terminal.console import Console, error_sentence
from terminal.options import RequestDefaults

UPDATE_SECONDS = 0.05  # between two pieces of a reply
ENDINGS = {
    FinishReason.ABORT: " · stopped",
    FinishReason.LENGTH: " · cut off at the longest reply",
}


@dataclass
class TerminalChat:
    """A chat with the manager's model: the turns so far, and how the next is to be answered."""

    manager: ModelManager
    screen: Console
    defaults: RequestDefaults
    turns: tuple[Message, ...] = ()

    def ask(self, text: str) -> bool:
        """Answer `text`; False if nothing came, and the question is not part of the chat either."""
        question = Message("user", text)
        request = self.defaults.request((*self.turns, question), drop_oldest=True)
        reply = _Reply(self.manager, self.screen)
        try:
            asyncio.run(reply.stream(request))
        except KeyboardInterrupt:  # before or behind the reply's own handler
            reply.end_line()
        except Exception as error:  # one reply's trouble is not the chat's
            reply.end_line()
            self.screen.complain(error_sentence(error))
        if not reply.text:
            return False
        self.turns = (*self.turns, question, Message("assistant", reply.text))
        return True


@dataclass
class _Reply:
    """A reply in the making; `text` is what there is of it, whatever ends it."""

    manager: ModelManager
    screen: Console
    text: str = ""

    async def stream(self, request: ChatRequest) -> None:
        with _ctrl_c_stops(self.manager, request.id):
            async with aclosing(self.manager.chat(request, UPDATE_SECONDS)) as bursts:
                async for burst in bursts:
                    self._show(burst)

    def end_line(self) -> None:
        if self.text and not self.text.endswith("\n"):
            self.screen.write("\n")

    def _show(self, burst: DeltaBatch) -> None:
        for delta in burst:
            if delta.dropped:
                self.screen.complain(
                    f"The chat had grown too long: its oldest {delta.dropped.messages} messages "
                    "were left out of this question."
                )
            if delta.queued and not self.text:
                ahead, seconds = delta.queued.ahead, delta.queued.seconds
                self.screen.draw(f"Waiting: {ahead} before this one, about {seconds:.0f} s …")
        piece = "".join(delta.text for delta in burst)
        if piece:
            self.text += piece
            self.screen.write(piece)
        if burst[-1].finish_reason:
            self._end(burst[-1])

    def _end(self, last: Delta) -> None:
        self.end_line()
        if last.error:
            begun = "The reply broke off" if self.text else "No reply"
            self.screen.complain(f"{begun}: {last.error}")
        elif not self.text:
            stopped = last.finish_reason is FinishReason.ABORT
            self.screen.complain("Stopped." if stopped else "The model said nothing.")
        elif last.stats and last.finish_reason:
            speed = f"{last.stats.tokens_per_second:.1f} tokens/s"
            ending = ENDINGS.get(last.finish_reason, "")
            self.screen.remark(f"{last.stats.completion_tokens} tokens · {speed}{ending}")


@contextmanager
def _ctrl_c_stops(manager: ModelManager, request_id: str) -> Iterator[None]:
    """Within, Ctrl-C ends the reply at its next token, and nothing else."""
    loop = asyncio.get_running_loop()

    def stop(*_: object) -> None:
        # Later, on the loop: a handler must not wait for locks that its own thread may hold.
        loop.call_soon_threadsafe(manager.abort, request_id)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
