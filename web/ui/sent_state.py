"""The state that a tab has been sent, so that only changes are sent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from web.chats.reply_job import ReplyJob
from web.ui.chat_view import live_notice
from web.ui.controls import Encoded

Value = dict[str, Any]


@dataclass
class SentItems:
    """The items of a list, by hashes of their JSON."""

    hashes: dict[str, int] = field(default_factory=dict)

    def changes(self, items: Iterable[Value]) -> Value:
        """Returns the items' order, and those that are new or have changed, by id."""
        changed: dict[str, Value] = {}
        hashes: dict[str, int] = {}
        for item in items:
            key = item["id"]
            hashes[key] = hash(json.dumps(item, ensure_ascii=False))
            if self.hashes.get(key) != hashes[key]:
                changed[key] = item
        self.hashes = hashes
        return {"order": list(hashes), "changed": changed}


@dataclass(frozen=True)
class SentReply:
    """A streaming reply as it was sent last, with the short number that the tab knows it by."""

    reply: ReplyJob
    number: int
    text: str
    notice: str


@dataclass
class LiveTexts:
    """The texts of streaming replies that a tab has been sent."""

    count: int = 0
    # By message. A message that is continued gets another reply.
    sent: dict[str, SentReply] = field(default_factory=dict)

    def changes(self, replies: Sequence[ReplyJob], language: str) -> list[Value | list[Any]]:
        """Returns for each changed reply [number, added text], or an object with its full text.

        Replies that have ended since are included, until `keep`.
        """
        running = {reply.message.id for reply in replies}
        ended = [sent.reply for key, sent in self.sent.items() if key not in running]
        changes = [self._change(reply, language) for reply in (*ended, *replies)]
        return [change for change in changes if change]

    def texts(self) -> dict[str, str]:
        """Returns the texts by message."""
        return {key: sent.text for key, sent in self.sent.items()}

    def keep(self, messages: Sequence[str]) -> None:
        """Forgets all other messages: the log has sent their final state."""
        self.sent = {key: sent for key, sent in self.sent.items() if key in messages}

    def _change(self, reply: ReplyJob, language: str) -> Value | list[Any]:
        key, text, notice = reply.message.id, reply.text, live_notice(reply, language)
        before = self.sent.get(key)
        if before is None or before.reply is not reply:
            self.count += 1
            before = None
        number = before.number if before else self.count
        self.sent[key] = SentReply(reply, number, text, notice)
        if before is None or before.notice != notice or not text.startswith(before.text):
            return {"n": number, "id": key, "text": text, "notice": notice}
        return [number, text[len(before.text) :]] if text != before.text else []


@dataclass
class SentControls:
    """Updates of controls, by hashes of their JSON, and the numbers of choices."""

    hashes: dict[int, int] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    def forget(self, controls: Iterable[int]) -> None:
        """Forgets controls that are no longer as they were sent."""
        for number in controls:
            self.hashes.pop(number, None)

    def changes(self, updates: Encoded, components: Sequence[Any]) -> list[Encoded]:
        """Returns the updates that the tab does not have, in one or two messages.

        A drop-down that loses choices is hidden first: Gradio's list, while it is open, would fail
        on a missing choice.
        """
        changed: Encoded = []
        hidden: Encoded = []
        for number, properties in updates:
            digest = hash(json.dumps(properties, ensure_ascii=False))
            if self.hashes.get(number) == digest:
                continue
            self.hashes[number] = digest
            changed.append([number, properties])
            if isinstance(components[number], gr.Dropdown) and "choices" in properties:
                count = len(properties["choices"])
                if count < self.counts.get(number, 0):
                    hidden.append([number, {"visible": False}])
                    properties["visible"] = True
                self.counts[number] = count
        return [message for message in (hidden, changed) if message]
