"""Forged requests to the page's actions: each is refused with a status and a message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.security.conftest import Served, served
from tests.web.log_state import no_stack_trace as no_stack_trace
from tests.web.page_client import FORM, Caller, error_of, shown_message
from web.chats.identity import COOKIE
from web.ui import tab_stream
from web.ui.actions import Actions

pytestmark = pytest.mark.usefixtures("patient", "no_stack_trace")

IDS = ("open", "again", "branch", "side_by_side", "choose", "delete", "undo")
TRAIN = {
    "upload": None, "train_name": "mine", "train_template": None, "train_epochs": 1,
    "train_rank": 8, "train_rate": None, "train_description": "", "train_inputs": False,
}  # fmt: skip
# A valid body for each action, with ids that do not exist.
BODIES: dict[str, dict[str, Any]] = {
    "send": {"text": "hello", "form": FORM},
    "regenerate": {"id": "x", "form": FORM},
    "stop": {},
    "new_chat": {},
    **{kind: {"id": "x"} for kind in IDS},
    "edit": {"id": "x", "text": "y", "form": FORM},
    "continue": {"id": "x", "form": FORM},
    "vote": {"comparison": "x", "winner": None},
    "search": {"text": "x"},
    "rename": {"id": "x", "title": "y"},
    "compare": {"text": "x", "form": FORM, "rivals": []},
    "settings": {"form": FORM},
    "preset": {"name": "balanced"},
    "language": {"language": "en"},
    "save_preset": {"name": "mine", "form": FORM},
    "delete_preset": {"name": "x"},
    "use_snippet": {"name": "x"},
    "save_snippet": {"name": "mine", "message": "y"},
    "delete_snippet": {"name": "x"},
    "revoke": {},
    "train_look": {"form": TRAIN},
    "train_start": {"form": TRAIN},
    "train_cancel": {},
    "train_chat": {},
}
TRAINS = [kind for kind in BODIES if kind.startswith("train_")]
BY_ID = [kind for kind, body in BODIES.items() if "id" in body]
WRONG: list[Any] = [None, 7, -1.5, True, "x", ["x"], {"x": 1}, [[]], {"form": {"form": {}}}]


@pytest.fixture(scope="module")
def mallory(page: Served, anna: Caller) -> Iterator[Caller]:
    with Caller(page.own) as mallory:
        yield mallory
        assert mallory.chats() == []


@pytest.fixture(autouse=True)
def still_shared(page: Served) -> Iterator[None]:
    """Opens the link again after each test, as a local visitor may revoke it."""
    yield
    page.public.revoked = False


def test_actions_all_of_them_are_tried(page: Served) -> None:
    registered = Actions(*[MagicMock() for _ in range(5)]).registered
    assert set(registered) | set(TRAINS) == set(BODIES)


def wrong_values(body: Any) -> Iterator[Any]:
    """Yields the body with one value at a time replaced, removed or added."""
    yield from (value for value in WRONG if value != body)
    if not isinstance(body, dict):
        return
    yield {**body, "more": 1}
    for name, value in body.items():
        yield {key: one for key, one in body.items() if key != name}
        for other in (
            wrong_values(value) if isinstance(value, dict) else [7.5, ["x"], {"x": 1}, [None]]
        ):
            yield {**body, name: other}


OK = 200  # a body with a missing or a different value can be valid


@pytest.mark.parametrize("kind", BODIES)
def test_actions_with_wrong_types(mallory: Caller, kind: str) -> None:
    if kind in ("send", "compare", "save_preset", "save_snippet", "train_start"):
        keep = {"text": " "} if "text" in BODIES[kind] else {"name": ""}  # nothing comes of it
    else:
        keep = {}
    body = {**BODIES[kind], **({} if kind == "train_start" else keep)}
    tried = 0
    for wrong in wrong_values(body):
        answer = mallory.post(f"/page/actions/{kind}", json.dumps(wrong))
        if answer.status_code != OK:
            assert shown_message(answer)
            assert 400 <= answer.status_code < 500
            tried += 1
    assert tried >= len(WRONG) - 1


DEEP = 10_000


@pytest.mark.parametrize("kind", BODIES)
def test_actions_that_are_nested_deep(mallory: Caller, kind: str) -> None:
    for body in ("[" * DEEP, "[" * DEEP + "]" * DEEP, '{"form":' * DEEP + "1" + "}" * DEEP,
                 '{"id":' + "[" * DEEP + "]" * DEEP + "}"):  # fmt: skip
        assert error_of(mallory.post(f"/page/actions/{kind}", body))[0] == 400


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("half", [r'"\ud800"', r'"\udc00x"', b'"\xed\xa0\x80"', b'"\xff"'])
def test_actions_with_half_characters(mallory: Caller, kind: str, half: str | bytes) -> None:
    written = half.encode() if isinstance(half, str) else half
    for name in [*BODIES[kind], "more"]:
        if name == "form":
            continue
        values = {key: value for key, value in BODIES[kind].items() if key != name}
        body = json.dumps({**values, name: "@"}).encode().replace(b'"@"', written)
        assert error_of(mallory.post(f"/page/actions/{kind}", body))[0] == 400


@pytest.mark.parametrize("kind", BODIES)
def test_actions_with_texts_of_300_kilobytes(mallory: Caller, kind: str) -> None:
    """Only messages may be so long."""
    for name, value in BODIES[kind].items():
        if name in ("form", "rivals") or (kind, name) in (
            ("send", "text"), ("edit", "text"), ("compare", "text"),
            ("save_snippet", "message"),
        ):  # fmt: skip
            continue
        assert isinstance(value, str | None)
        answer = mallory.call(kind, **{**BODIES[kind], name: "x" * 300_000})
        assert error_of(answer)[0] == 400
    if "form" in BODIES[kind]:
        for name in ("adapter", "template", "system", "loaded_chat", "upload", "train_name"):
            if name in BODIES[kind]["form"]:
                form = {**BODIES[kind]["form"], name: "x" * 300_000}
                assert error_of(mallory.call(kind, **{**BODIES[kind], "form": form}))[0] == 400


@pytest.mark.parametrize("kind", BY_ID)
def test_actions_with_ids_of_another_visitor(anna: Caller, mallory: Caller, kind: str) -> None:
    (chat,) = anna.chats()
    for number in (anna.form["loaded_chat"], *(one["id"] for one in chat["messages"]), anna.tab):
        answer = mallory.call(kind, **{**BODIES[kind], "id": number})
        assert shown_message(answer)
        assert answer.status_code in (400, 404)
        assert "precious" not in answer.text


@pytest.mark.parametrize("kind", BODIES)
def test_actions_in_the_tab_of_another_visitor(page: Served, anna: Caller, kind: str) -> None:
    """Also with the chat that it shows."""
    assert anna.stream
    count = len(anna.stream.events)
    with Caller(page.own, tab=anna.tab) as mallory:
        mallory.headers["X-Linly-Chat"] = anna.form["loaded_chat"]
        answer = mallory.call(kind, **BODIES[kind])
        assert shown_message(answer).startswith("This chat does not exist")
        mallory.headers.pop("X-Linly-Chat")
        answer = mallory.call(kind, **BODIES[kind])
        assert "precious" not in answer.text
        if answer.status_code == 200:
            assert answer.json()["lost"] is True
        assert shown_message(mallory.export("json")) if kind not in ("send", "train_chat") else True
    assert len(anna.stream.events) - count <= 1  # a keep-alive


@pytest.mark.parametrize("kind", BY_ID)
def test_actions_with_ids_that_were_deleted(page: Served, kind: str) -> None:
    with Caller(page.own) as caller:
        question, reply = caller.begin("hello")
        chat = caller.form["loaded_chat"]
        assert shown_message(caller.call("delete", id=chat)) == ""
        for number in (chat, question, reply):
            if (kind, number) == ("undo", chat):
                continue
            assert shown_message(caller.call(kind, **{**BODIES[kind], "id": number}))
        assert caller.chats() == []
        assert shown_message(caller.call("undo", id=chat)) == ""
        assert len(caller.chats()) == 1


def test_actions_of_a_tab_that_was_closed(page: Served) -> None:
    """The requests are handled as those of a tab without a chat."""
    with Caller(page.own) as caller:
        caller.begin("hello")
        caller.close_stream()
        for kind in BODIES:
            answer = caller.call(kind, **BODIES[kind])
            assert shown_message(answer) or answer.json()["lost"] is True
            assert answer.status_code < 500


@pytest.mark.parametrize("kind", BODIES)
def test_actions_of_a_guest(page: Served, kind: str) -> None:
    with Caller(page.link) as guest:
        answer = guest.call(kind, **BODIES[kind])
        if kind in TRAINS:
            assert error_of(answer) == (403, "forbidden")
        if kind == "revoke":
            assert error_of(answer)[0] == 400
            assert not page.public.closed
        # A tab that was opened through the link cannot be used through the page's own port.
        with Caller(page.own, tab=guest.tab, known=False,
                    cookies={COOKIE: guest.client.cookies[COOKIE]}) as outside:  # fmt: skip
            answer = outside.call("stop")
            assert answer.json()["lost"] is True


@pytest.mark.parametrize("kind", BODIES)
def test_actions_from_another_origin(page: Served, anna: Caller, kind: str) -> None:
    """Requests of another web page, or with another host name: with the cookie and the tab's id."""
    body = json.dumps(BODIES[kind])
    for headers, status in (
        ({"Origin": "https://evil.example"}, 403), ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403), ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 421),
    ):  # fmt: skip
        assert error_of(anna.post(f"/page/actions/{kind}", body, **headers))[0] == status
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert anna.client.request(method, f"/page/actions/{kind}").status_code == 405


@pytest.mark.parametrize("kind", BODIES)
def test_actions_without_a_cookie(page: Served, anna: Caller, kind: str) -> None:
    for tab in (anna.tab, "made-up"):
        with Caller(page.own, tab=tab, known=False) as stranger:
            assert error_of(stranger.call(kind, **BODIES[kind])) == (409, "lost_tab")


ORDER: list[Callable[[Caller], httpx.Response]] = [
    lambda c: c.call("vote", comparison="x", winner=None),
    lambda c: c.call("regenerate", form=c.form),
    lambda c: c.call("continue", id="x", form=c.form),
    lambda c: c.call("compare", text="", form=c.form, rivals=[
        {"adapter": "", "preset": "precise"}, {"adapter": "pirate", "preset": "precise"}]),
    lambda c: c.call("undo", id=""),
    lambda c: c.call("delete", id=""),
    lambda c: c.export("json"),
    lambda c: c.export("pairs"),
]  # fmt: skip


@pytest.mark.parametrize("act", ORDER)
def test_actions_out_of_order(mallory: Caller, act: Callable[[Caller], httpx.Response]) -> None:
    """There is no chat, question or comparison yet."""
    answer = act(mallory)
    assert shown_message(answer)
    assert 400 <= answer.status_code < 500


def test_actions_twice(page: Served) -> None:
    with Caller(page.own) as caller:
        question, reply = caller.begin("hello")
        chat = caller.form["loaded_chat"]
        for kind, values in (
            ("stop", {}), ("rename", {"id": chat, "title": "one"}), ("branch", {"id": question}),
            ("choose", {"id": reply}), ("settings", {"form": caller.form}), ("new_chat", {}),
            ("open", {"id": chat}), ("save_snippet", {"name": "one", "message": "text"}),
        ):  # fmt: skip
            for _ in range(2):
                assert shown_message(caller.call(kind, **values)) == ""
        assert shown_message(caller.call("delete", id=chat)) == ""
        assert error_of(caller.call("delete", id=chat))[0] == 404
        assert shown_message(caller.call("undo", id=chat)) == ""
        shown_message(caller.call("undo", id=chat))
        assert len(caller.chats()) == 1


def test_actions_after_the_link_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tab_stream, "BEAT_SECONDS", 10_000.0)  # the stream must be notified
    with served(tmp_path) as page, Caller(page.link) as guest, Caller(page.own) as local:
        guest.begin("hello")
        assert shown_message(local.call("revoke")) == ""
        assert guest.stream
        assert guest.stream.ended() == 4410
        for kind in BODIES:
            assert guest.call(kind, **BODIES[kind]).status_code == 410
        assert guest.export("all").status_code == 410
        with pytest.raises(InvalidStatus, match="403"):
            guest.open()
        assert shown_message(local.send("hello")) == ""


@pytest.mark.slow
def test_actions_a_thousand_at_once(tmp_path: Path) -> None:
    """Of one visitor: some are refused, and others do not wait for them."""
    with served(tmp_path) as page, Caller(page.own) as caller, Caller(page.own) as other:
        caller.begin("hello")

        async def post(client: httpx.AsyncClient, n: int) -> int:
            kind, body = (("send", BODIES["send"]), ("stop", {}), ("new_chat", {}),
                          ("settings", BODIES["settings"]))[n % 4]  # fmt: skip
            path = "/page/export" if n % 10 == 9 else f"/page/actions/{kind}"
            content = '{"kind": "all"}' if n % 10 == 9 else json.dumps(body)
            answer = await client.post(path, content=content)
            if answer.status_code == 429:
                assert answer.headers["retry-after"]
                assert answer.json()["error"]["message"]
            return answer.status_code

        async def flood(numbers: range) -> list[int]:
            """Through 20 connections: the client would need most of the time for more of them."""
            limits = httpx.Limits(max_connections=20)
            headers = {"X-Linly-Tab": caller.tab or "", **caller.cookies}
            async with httpx.AsyncClient(
                base_url=page.own, timeout=150, limits=limits, headers=headers
            ) as client:
                return await asyncio.gather(*(post(client, n) for n in numbers))

        async def meanwhile() -> None:
            await asyncio.sleep(0.2)
            answer = await asyncio.to_thread(other.send, "in the middle")
            assert shown_message(answer) == ""

        async def run() -> list[int]:
            calm = asyncio.ensure_future(meanwhile())
            floods = (flood(range(at, at + 100)) for at in range(0, 1_000, 100))
            statuses = [status for found in await asyncio.gather(*floods) for status in found]
            assert calm.done()  # the other visitor did not wait for all of them
            await calm
            return statuses

        statuses = asyncio.run(run())
        assert set(statuses) <= {200, 400, 409, 429}
        assert 429 in statuses
        assert 200 in statuses
        other.answered()
        assert shown_message(caller.call("new_chat")) == ""
        assert shown_message(caller.send("still here")) == ""
