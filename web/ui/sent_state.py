"""What a tab has been sent, so that only what is new is sent again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from web.chats.reply_job import ReplyJob
from web.ui.chat_view import live_notice

Value = dict[str, Any]


@dataclass
class SentItems:
    """The items of a list, by hashes of their JSON."""

    hashes: dict[str, int] = field(default_factory=dict)

    def changed(self, items: Iterable[Value]) -> Value:
        """Their order, and those that are new or another than before, by id."""
        fresh: dict[str, Value] = {}
        hashes: dict[str, int] = {}
        for item in items:
            key = item["id"]
            hashes[key] = hash(json.dumps(item, ensure_ascii=False))
            if self.hashes.get(key) != hashes[key]:
                fresh[key] = item
        self.hashes = hashes
        return {"order": list(hashes), "changed": fresh}


@dataclass
class LiveTexts:
    """The texts of streaming replies that a tab has been sent, each reply with a short number."""

    count: int = 0
    # By message: the reply (a message that is continued has another), its number, text and notice.
    sent: dict[str, tuple[ReplyJob, int, str, str]] = field(default_factory=dict)

    def news(self, replies: Sequence[ReplyJob], language: str) -> list[Value | list[Any]]:
        """For each reply that has changed: [number, added text], or an object with all of it.

        Those that have ended since are among them, until `keep`.
        """
        running = {reply.message.id for reply in replies}
        ended = [reply for key, (reply, *_) in self.sent.items() if key not in running]
        return [one for reply in (*ended, *replies) if (one := self._of(reply, language))]

    def texts(self) -> dict[str, str]:
        """The texts by message."""
        return {key: text for key, (_, _, text, _) in self.sent.items()}

    def keep(self, messages: Sequence[str]) -> None:
        """Forget all others: the log has their last word."""
        self.sent = {key: one for key, one in self.sent.items() if key in messages}

    def _of(self, reply: ReplyJob, language: str) -> Value | list[Any]:
        key, text, notice = reply.message.id, reply.text, live_notice(reply, language)
        before = self.sent.get(key)
        if before is None or before[0] is not reply:
            self.count += 1
            before = None
        _, number, known, noticed = before or (reply, self.count, "", "")
        self.sent[key] = reply, number, text, notice
        if before is None or noticed != notice or not text.startswith(known):
            return {"n": number, "id": key, "text": text, "notice": notice}
        return [number, text[len(known) :]] if text != known else []
