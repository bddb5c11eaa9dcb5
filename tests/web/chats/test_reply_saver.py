"""What the store has of a reply while it is written, and when saving fails or is slow."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest

from model.translations import verbatim
from tests.fake_engine import FakeEngine
from tests.web.chats.chat_app import GREEDY, ChatApp, run, wait_until
from tests.web.chats.conftest import MakeChatApp
from web.chats.reply_saver import SAVE_SECONDS
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import ReplyBusyError, StoreError
from web.chats.store.models import MessageState


def test_streaming_text_is_stored_before_the_reply_ends(make_chat_app: MakeChatApp) -> None:
    """If the process is killed, the text is there, and the adapter that wrote it."""
    chat_app = make_chat_app(FakeEngine(lambda p, r: ["word "] * 9, ticking=True))

    async def chat() -> None:
        chat_app.chat_service.send(chat_app.tab, "go on", replace(GREEDY, adapter="linly"))
        chat_app.engine.tick(3)
        await wait_until(lambda: "word word word" in chat_app.last.text)
        assert chat_app.last.state is MessageState.STREAMING
        (generated,) = chat_app.last.runs
        assert (generated.settings.template, generated.adapter_digest) == ("linly", "d2" * 32)
        chat_app.engine.tick(6)
        await chat_app.replies_ended()

    run(chat())
    assert SAVE_SECONDS < 0.5
    assert chat_app.branch[-1].state is MessageState.DONE


def test_each_token_is_stored_without_waiting_for_the_next(make_chat_app: MakeChatApp) -> None:
    chat_app = make_chat_app(FakeEngine(lambda p, r: ["a", "b", "c"], ticking=True))

    async def chat() -> None:
        chat_app.chat_service.send(chat_app.tab, "slow", GREEDY)
        chat_app.engine.tick()
        await wait_until(lambda: chat_app.last.text == "a")
        chat_app.engine.tick()
        await wait_until(lambda: chat_app.last.text == "ab")
        chat_app.engine.tick()
        await chat_app.replies_ended()

    run(chat())


def test_reply_that_cannot_be_saved_now_is_saved_later(
    chat_app: ChatApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full for a moment costs no text, and does not leave the chat busy."""
    finish = ChatStore.finish

    def fail(*_: object) -> None:
        raise StoreError(
            verbatim("The chats cannot be saved: the disk is full", "Free some space.")
        )

    async def chat() -> None:
        monkeypatch.setattr(ChatStore, "finish", fail)
        chat_app.chat_service.send(chat_app.tab, "precious", GREEDY)
        await chat_app.replies_ended()
        assert chat_app.last.state is MessageState.STREAMING
        monkeypatch.setattr(ChatStore, "finish", finish)
        await wait_until(lambda: chat_app.last.state is MessageState.DONE)

    run(chat())
    assert chat_app.last.text == "base heard: precious "


def test_chat_is_busy_while_its_reply_is_being_saved(
    chat_app: ChatApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question meanwhile was stored and then refused a reply, so the chat ended with it."""
    service, tab = chat_app.chat_service, chat_app.tab
    saving, may_go_on = threading.Event(), threading.Event()
    finish = ChatStore.finish

    def finish_slowly(self: ChatStore, *args: Any) -> None:
        saving.set()
        assert may_go_on.wait(20)
        finish(self, *args)

    async def chat() -> None:
        monkeypatch.setattr(ChatStore, "finish", finish_slowly)
        service.send(tab, "hello", GREEDY)
        await wait_until(saving.is_set)
        with pytest.raises(ReplyBusyError):
            service.send(tab, "and on", GREEDY)
        may_go_on.set()
        await chat_app.replies_ended()
        assert chat_app.texts == ["hello", "base heard: hello "]
        service.send(tab, "and on", GREEDY)
        await chat_app.replies_ended()

    run(chat())
    assert chat_app.texts[2:] == ["and on", "base heard: and on "]


def test_fault_in_saving_does_not_leave_the_chat_busy(
    chat_app: ChatApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a fault")

    async def chat() -> None:
        monkeypatch.setattr(ChatStore, "finish", fail)
        chat_app.chat_service.send(chat_app.tab, "hello", GREEDY)
        (job,) = chat_app.reply_generator.active_in_chat(chat_app.chat)
        await chat_app.replies_ended()
        assert job.task
        await asyncio.wait([job.task])
        assert isinstance(job.task.exception(), ValueError)

    run(chat())
