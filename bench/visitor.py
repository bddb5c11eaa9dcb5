"""A visitor of the page without a browser: what Gradio's own script would send, and what it gets.

Plain sockets, as in `streaming`: the client shares the cores with the server that it measures.
"""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from bench.peers.base import PeerError

Json = dict[str, Any]

DATA = b"data: "
MOST_SECONDS = 600.0


@dataclass(frozen=True)
class Heard:
    """A reply as the visitor saw it. Seconds since the question; `updates` came while it streamed,
    of `sizes` bytes each."""

    text: str
    first: float
    total: float
    tokens: int
    sizes: tuple[int, ...]

    @property
    def updates_per_second(self) -> float:
        return len(self.sizes) / max(1e-9, self.total - self.first)


class Visitor:
    """One open tab: the page's configuration is read, its watcher runs.

    Args:
        address: of the server.
        settings: values of the page's controls by their label, where they are not the first ones.
    """

    def __init__(self, address: str, settings: Json) -> None:
        self._where = urlsplit(address)
        self._session = uuid.uuid4().hex[:11]
        self._cookie = self._visit()
        config = json.loads(self._ask("GET", "/config"))
        self._components = {c["id"]: c["props"] for c in config["components"]}
        self._events = config["dependencies"]
        for number, props in self._components.items():
            if props.get("label") in settings:
                self._components[number] = {**props, "value": settings[props["label"]]}
        self._open = self._connection()  # what streams to this tab
        self._predict(self._event("load", "arrive"), {0: "en", 1: ""})
        self._stream = self._watch()
        self._answered = ""  # the id of the last reply that was followed

    def close(self) -> None:
        """The tab is closed."""
        self._stream.close()
        self._open.close()

    def new_chat(self) -> None:
        """Leave what was said behind."""
        self._predict(self._event("click", "new_chat"), {})

    def ask(self, question: str) -> Heard:
        """Send a question and follow its reply to the end."""
        began = time.perf_counter()
        self._predict(self._event("click", "send"), {0: "", 1: question})
        text, first, sizes = "", 0.0, []
        for live, log, size in self._stream:
            now = time.perf_counter() - began
            said = "".join(reply["text"] for reply in live.get("replies", {}).values())
            if said:
                first = first or now
                text = said
                sizes.append(size)
            last = (log.get("messages") or [{}])[-1]
            ended = last.get("role") == "assistant" and last["state"] != "streaming"
            if ended and last["id"] != self._answered:
                self._answered = last["id"]
                tokens = int(last["facts"].split()[0])
                return Heard(last["text"], first, now, tokens, tuple(sizes))
        raise PeerError(f"the page went silent after {len(text)} characters")

    def _visit(self) -> str:
        connection = self._connection()
        connection.request("GET", "/")
        response = connection.getresponse()
        response.read()
        connection.close()
        return (response.getheader("set-cookie") or "").partition(";")[0]

    def _event(self, trigger: str, name: str) -> Json:
        """What the page knows of a handler, by its trigger and its name."""
        for event in self._events:
            if event.get("api_name") == name and any(t[1] == trigger for t in event["targets"]):
                return dict(event)
        raise PeerError(f"the page has no handler {name!r}")

    def _predict(self, event: Json, given: dict[int, Any]) -> None:
        self._ask("POST", "/gradio_api/run/predict", self._body(event, given))

    def _body(self, event: Json, given: dict[int, Any]) -> Json:
        values = [self._components[number].get("value") for number in event["inputs"]]
        data = [given.get(place, value) for place, value in enumerate(values)]
        return {"data": data, "fn_index": event["id"], "session_hash": self._session,
                "event_data": None, "trigger_id": None}  # fmt: skip

    def _watch(self) -> Generator[tuple[Json, Json, int], None, None]:
        """Live value, log and size of each update."""
        running = [self._join("watch"), self._join("listen")]
        path = f"/gradio_api/queue/data?session_hash={self._session}"
        self._open.request("GET", path, headers=self._headers())
        values: dict[str, list[Any]] = {}
        shown: Json = {}
        for line in self._open.getresponse():
            if not line.startswith(DATA):
                continue
            message = json.loads(line[len(DATA) :])
            if message["msg"] != "process_generating" or not message["success"]:
                continue
            event = message["event_id"]
            values[event] = patched(values.get(event, []), message["output"]["data"])
            for name, value in zip(dict(running)[event], values[event], strict=True):
                if name in ("live", "log") and _says(value):
                    shown[name] = value
            yield shown.get("live", {}), shown.get("log", {}), len(line)

    def _join(self, name: str) -> tuple[str, list[str]]:
        """Have a handler run; what its run is called, and the ids of what it draws."""
        event = next(e for e in self._events if e.get("api_name") == name)
        body = self._body(event, {0: "en", 1: ""})
        answer = json.loads(self._ask("POST", "/gradio_api/queue/join", body))
        return answer["event_id"], [self._components[n].get("elem_id") for n in event["outputs"]]

    def _ask(self, method: str, path: str, body: Json | None = None) -> bytes:
        connection = self._connection()
        content = None if body is None else json.dumps(body).encode()
        connection.request(method, path, content, self._headers())
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        if response.status != http.client.OK:
            raise PeerError(f"{path}: {response.status} {answer[:300].decode(errors='replace')}")
        return answer

    def _headers(self) -> dict[str, str]:
        return {"Content-Type": "application/json", "Cookie": self._cookie}

    def _connection(self) -> http.client.HTTPConnection:
        where = self._where
        return http.client.HTTPConnection(where.hostname or "", where.port, timeout=MOST_SECONDS)


def _says(output: Any) -> bool:
    """Whether an update has something to say about a component's value."""
    return isinstance(output, dict) and "__type__" not in output


def patched(values: list[Any], sent: list[Any]) -> list[Any]:
    """The outputs after an update: the first comes whole, later ones as edits."""
    if not values:
        return sent
    return [apply(value, edits) for value, edits in zip(values, sent, strict=True)]


def apply(value: Any, edits: list[Any]) -> Any:
    """Gradio's edits: (what is done, the path to where, the value)."""
    for action, path, new in edits:
        value = _edited(value, action, path, new)
    return value


def _edited(value: Any, action: str, path: list[Any], new: Any) -> Any:
    if not path:
        return value + new if action == "append" else new
    key, *rest = path
    copy = list(value) if isinstance(value, list) else dict(value)
    if rest:
        copy[key] = _edited(copy[key], action, rest, new)
    elif action == "delete":
        del copy[key]
    elif action == "add" and isinstance(copy, list):
        copy.insert(key, new)
    else:
        copy[key] = copy[key] + new if action == "append" else new
    return copy
