"""A chat on the terminal: its turns, and replies that are printed while they are generated."""

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

UPDATE_SECONDS = 0.05  # between two parts of a reply
ENDINGS = {
    FinishReason.ABORT: " · stopped",
    FinishReason.LENGTH: " · cut off at the longest reply",
}


@dataclass
class TerminalChat:
    """A chat with the manager's model: the turns so far, and the settings of the next request."""

    manager: ModelManager
    console: Console
    defaults: RequestDefaults
    turns: tuple[Message, ...] = ()

    def ask(self, text: str) -> bool:
        """Answers `text`; False if the reply is empty; then the question is not added to the
        chat."""
        question = Message("user", text)
        request = self.defaults.request((*self.turns, question), drop_oldest=True)
        reply = _Reply(self.manager, self.console)
        try:
            asyncio.run(reply.stream(request))
        except KeyboardInterrupt:  # before or after the reply's own signal handler
            reply.end_line()
        except Exception as error:  # an error of one reply does not end the chat
            reply.end_line()
            self.console.print_error(error_sentence(error))
        if not reply.text:
            return False
        self.turns = (*self.turns, question, Message("assistant", reply.text))
        return True


@dataclass
class _Reply:
    """A reply being generated; `text` is its text so far, also after an error."""

    manager: ModelManager
    console: Console
    text: str = ""

    async def stream(self, request: ChatRequest) -> None:
        with _ctrl_c_aborts(self.manager, request.id):
            async with aclosing(self.manager.chat(request, UPDATE_SECONDS)) as batches:
                async for batch in batches:
                    self._show(batch)

    def end_line(self) -> None:
        if self.text and not self.text.endswith("\n"):
            self.console.write("\n")

    def _show(self, batch: DeltaBatch) -> None:
        for delta in batch:
            if delta.dropped:
                self.console.print_error(
                    f"The chat had grown too long: its oldest {delta.dropped.messages} messages "
                    "were left out of this question."
                )
            if delta.queued and not self.text:
                ahead, seconds = delta.queued.ahead, delta.queued.seconds
                self.console.show_status(
                    f"Waiting: {ahead} before this one, about {seconds:.0f} s …"
                )
        new_text = "".join(delta.text for delta in batch)
        if new_text:
            self.text += new_text
            self.console.write(new_text)
        if batch[-1].finish_reason:
            self._finish(batch[-1])

    def _finish(self, last: Delta) -> None:
        self.end_line()
        if last.error:
            prefix = "The reply broke off" if self.text else "No reply"
            self.console.print_error(f"{prefix}: {last.error}")
        elif not self.text:
            aborted = last.finish_reason is FinishReason.ABORT
            self.console.print_error("Stopped." if aborted else "The model said nothing.")
        elif last.stats and last.finish_reason:
            speed = f"{last.stats.tokens_per_second:.1f} tokens/s"
            ending = ENDINGS.get(last.finish_reason, "")
            self.console.print_note(f"{last.stats.completion_tokens} tokens · {speed}{ending}")


@contextmanager
def _ctrl_c_aborts(manager: ModelManager, request_id: str) -> Iterator[None]:
    """Within the block, Ctrl-C only aborts the reply, at its next token."""
    loop = asyncio.get_running_loop()

    def abort(*_: object) -> None:
        # Later, on the loop: a signal handler must not wait for locks that its thread may hold.
        loop.call_soon_threadsafe(manager.abort, request_id)

    previous = signal.signal(signal.SIGINT, abort)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
