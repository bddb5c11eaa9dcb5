"""What the peers with an OpenAI-compatible server have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.peers.base import PeerError, PeerReply, Question
from bench.peers.process_peer import ProcessPeer
from bench.streaming import ask_all, first_token

Json = dict[str, Any]


class HttpPeer(ProcessPeer):
    """Asks a server at `address`. Subclasses start it, and know how it is told the adapter."""

    name: str

    def __init__(self) -> None:
        super().__init__()
        self.address = ""

    def ask(self, questions: Sequence[Question]) -> list[PeerReply]:
        replies = ask_all(self.address, [self._body(question) for question in questions])
        short = [
            r for r, q in zip(replies, questions, strict=True) if q.exact and r.tokens < q.tokens
        ]
        if short:
            raise PeerError(f"a reply ended after {short[0].tokens} tokens")
        return replies

    def first_token(self, question: Question, count: int) -> dict[str, float]:
        """The `count` likeliest first tokens of the reply, each with its log probability."""
        return first_token(self.address, self._body(question), count)

    def _body(self, question: Question) -> Json:
        return {
            "messages": [{"role": t.role, "content": t.content} for t in question.turns],
            "max_tokens": question.tokens,
            "temperature": 0,
            "ignore_eos": question.exact,
            **self._selection(question.adapter),
        }

    def _selection(self, adapter: int | None) -> Json:
        """The fields that select an adapter, or the base."""
        raise NotImplementedError
