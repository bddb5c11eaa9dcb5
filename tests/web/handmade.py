"""Requests to the page's handlers as anybody can make them by hand, without the page."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

import httpx

OF_CHAT = ("send", "regenerate", "compare", "stop")  # what also says the chat of the address
WISHES = 11  # how many values say how a reply is wanted


class Caller:
    """One visitor with a session and, once the page was asked for, a cookie.

    `wishes` are what the page's controls say, in their order.
    """

    def __init__(self, url: str, session: str = "handmade") -> None:
        self._client = httpx.Client(base_url=url, timeout=30)
        self.session: str | None = session
        self._client.get("/")
        config = self._client.get("/config").json()
        self._handlers = {one["api_name"]: one for one in config["dependencies"]}
        first = {one["id"]: one["props"].get("value") for one in config["components"]}
        self._filled, *wishes = self._handlers["regenerate"]["inputs"][1:]
        self.wishes = [first[number] for number in wishes]
        self.of = ""  # the chat that the controls are about
        assert len(self.wishes) == WISHES
        self.call("arrive", "en", "")

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self._client.close()

    def with_adapter(self, adapter: Any) -> list[Any]:
        """The wishes with another adapter."""
        return [adapter, *self.wishes[1:]]

    def call(self, handler: str, *data: Any, event: Any = None) -> httpx.Response:
        """What the server answers."""
        found = self._handlers[handler]
        sent = list(data)
        if handler in OF_CHAT:
            sent.insert(0, "")
        if self._filled in found["inputs"]:
            sent.insert(found["inputs"].index(self._filled), self.of)
        body = {
            "fn_index": found["id"], "data": sent, "event_data": event,
            "session_hash": self.session,
        }  # fmt: skip
        # As Python writes JSON: it has numbers that others refuse.
        headers = {"content-type": "application/json"}
        url = f"/gradio_api/run/{handler}"
        answer = self._client.post(url, content=json.dumps(body), headers=headers)
        self._hear(found["outputs"], answer)
        return answer

    def _hear(self, outputs: list[int], answer: httpx.Response) -> None:
        """As the page does: the answer may say which chat the controls are about now."""
        if answer.status_code == 200 and self._filled in outputs:
            value = answer.json()["data"][outputs.index(self._filled)]
            if isinstance(value, str):
                self.of = value

    def act(self, event: Any, wishes: list[Any] | None = None) -> httpx.Response:
        """Something that is done in the log."""
        return self.call("act", *(wishes or self.wishes), event=event)


def said(response: httpx.Response) -> str:
    """The sentence for the visitor; "" if there is none. The request itself is never an error."""
    assert response.status_code == 200, response.text
    letters = [value for value in response.json()["data"] if isinstance(value, dict)]
    return next((one["say"] or "" for one in letters if "say" in one), "")
