"""Replies in the making: they belong to the server, and what they have so far is stored."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from model.types import Delta, Emit, EngineRequest, Queued
from tests.fake_engine import FakeEngine, echo
from tests.web.chats.chat_app import ANNA, GREEDY, ChatApp, run, wait_until
from tests.web.chats.conftest import MakeChatApp
from web.chats.cluster.file_lock import ServerLock
from web.chats.identity import Owner
from web.chats.reproducibility import NotExactError
from web.chats.store.errors import ReplyBusyError, UnknownChatError
from web.chats.store.models import ChatMessage, ChatSettings, MessageState
from web.chats.tab_sessions import TabSession

PIRATE, LINLY = replace(GREEDY, adapter="pirate"), replace(GREEDY, adapter="linly")


def test_question_and_reply_are_stored(chat_app: ChatApp) -> None:
    service, tab = chat_app.chat_service, chat_app.tab
    chat_app.run_each(
        lambda: service.send(tab, "hello there", GREEDY),
        lambda: service.send(tab, "again", PIRATE),
    )
    assert chat_app.texts == [
        "hello there", "base heard: hello there ", "again", "pirate heard: again ",
    ]  # fmt: skip
    (generated,) = chat_app.last.runs
    assert (generated.settings.adapter, generated.adapter_digest) == ("pirate", "d1" * 32)
    assert generated.settings.template
    assert generated.completion_tokens == 3
    assert chat_app.store.chats(ANNA)[0].title == "hello there"


def test_reply_goes_on_without_its_tab(make_chat_app: MakeChatApp) -> None:
    chat_app = make_chat_app(FakeEngine(echo, ticking=True))

    async def chat() -> None:
        tab = chat_app.tab_sessions.open(chat_app.tab.owner)
        chat_app.chat_service.send(tab, "hello", GREEDY)
        chat_app.tab_sessions.close(tab)
        chat_app.tab.chat = tab.chat
        chat_app.engine.tick(9)
        await chat_app.replies_ended()

    run(chat())
    assert chat_app.last.text == "base heard: hello "


def test_stopped_reply_keeps_its_text_and_can_be_continued(make_chat_app: MakeChatApp) -> None:
    def script(prompt: str, request: EngineRequest) -> list[str]:
        assert prompt.endswith(("assistant\n", "assistant\none "))
        return ["two"] if prompt.endswith("one ") else ["one ", "two ", "three "]

    chat_app = make_chat_app(FakeEngine(script, ticking=True))
    service, tab = chat_app.chat_service, chat_app.tab

    async def chat() -> None:
        service.send(tab, "count", GREEDY)
        chat_app.engine.tick()
        (job,) = chat_app.reply_generator.active_in_chat(chat_app.chat)
        await wait_until(lambda: job.text == "one ")
        service.stop(tab)
        await chat_app.replies_ended()
        assert chat_app.last.state is MessageState.STOPPED
        chat_app.engine.tick(5)
        service.continue_reply(tab, chat_app.last.id, ChatSettings())
        await chat_app.replies_ended()

    run(chat())
    last = chat_app.last
    assert (last.text, last.state) == ("one two", MessageState.DONE)
    assert [generated.begins for generated in last.runs] == [0, 4]
    assert {generated.settings.sampling.temperature for generated in last.runs} == {0}


def test_reply_can_be_stopped_before_the_model_is_loaded(make_chat_app: MakeChatApp) -> None:
    loading = threading.Event()
    chat_app = make_chat_app(loading=loading)

    async def chat() -> None:
        chat_app.chat_service.send(chat_app.tab, "early", GREEDY)
        await wait_until(lambda: chat_app.progress)
        (job,) = chat_app.reply_generator.active_in_chat(chat_app.chat)
        assert job.model_status
        chat_app.chat_service.stop(chat_app.tab)
        await chat_app.replies_ended()
        loading.set()

    run(chat())
    assert chat_app.last.state is MessageState.STOPPED
    assert chat_app.engine.requests == []


def test_chat_has_one_reply_at_a_time(make_chat_app: MakeChatApp) -> None:
    chat_app = make_chat_app(FakeEngine(echo, ticking=True))
    service, tab = chat_app.chat_service, chat_app.tab

    async def chat() -> None:
        service.send(tab, "first", GREEDY)
        with pytest.raises(ReplyBusyError):
            service.send(tab, "second", GREEDY)
        with pytest.raises(ReplyBusyError):
            service.edit(tab, chat_app.branch[0].id, "other", GREEDY)
        with pytest.raises(ReplyBusyError):
            service.regenerate(tab, None, GREEDY)
        chat_app.engine.tick(9)
        await chat_app.replies_ended()

    run(chat())
    assert chat_app.texts == ["first", "base heard: first "]


def test_edit_and_regenerate_make_branches(chat_app: ChatApp) -> None:
    service, tab = chat_app.chat_service, chat_app.tab
    chat_app.run_each(lambda: service.send(tab, "one", GREEDY))
    first = chat_app.branch[0]
    chat_app.run_each(lambda: service.edit(tab, first.id, "two", GREEDY))
    assert chat_app.texts == ["two", "base heard: two "]
    chat_app.run_each(lambda: service.regenerate(tab, chat_app.branch[1].id, PIRATE))
    assert chat_app.texts == ["two", "pirate heard: two "]
    chat_app.shown_chat.show_branch(tab, first.id)
    assert chat_app.texts == ["one", "base heard: one "]


@pytest.mark.parametrize("stopped", [False, True])
def test_rerun_exactly_repeats_seed_prompt_adapter_and_end(
    make_chat_app: MakeChatApp, stopped: bool
) -> None:
    """A reply that was stopped ends at the same character."""

    def script(prompt: str, request: EngineRequest) -> list[str]:
        return [f"{request.sampling.seed} ", "and ", "so ", "on"]

    chat_app = make_chat_app(FakeEngine(script, ticking=True))
    service, tab = chat_app.chat_service, chat_app.tab

    async def chat() -> None:
        service.send(tab, "hello", ChatSettings("pirate"))
        chat_app.engine.tick(2)
        (job,) = chat_app.reply_generator.active_in_chat(chat_app.chat)
        await wait_until(lambda: job.text.endswith("and "))
        if stopped:
            service.stop(tab)
        chat_app.engine.tick(0 if stopped else 2)
        await chat_app.replies_ended()
        chat_app.engine.tick(4)
        service.rerun_exactly(tab, chat_app.last.id)
        await chat_app.replies_ended()

    run(chat())
    *_, first, second = chat_app.store.messages(ANNA, chat_app.chat).values()
    assert second.repeats == first.id
    assert second.text == first.text
    assert second.state is first.state
    assert len(chat_app.engine.requests) == 2
    assert chat_app.engine.requests[0].prompt_ids == chat_app.engine.requests[1].prompt_ids


def test_rerun_exactly_ends_where_a_failed_reply_ended(make_chat_app: MakeChatApp) -> None:
    chat_app = make_chat_app(FakeEngine(lambda p, r: ["half ", "<fail>"]))
    service, tab = chat_app.chat_service, chat_app.tab
    chat_app.run_each(lambda: service.send(tab, "hello", GREEDY))
    chat_app.engine.script = lambda p, r: ["half ", "and more"]
    chat_app.run_each(lambda: service.rerun_exactly(tab, chat_app.last.id))
    assert chat_app.last.text == "half "


def test_rerun_exactly_is_refused_after_the_adapter_changed(chat_app: ChatApp) -> None:
    service, tab = chat_app.chat_service, chat_app.tab
    chat_app.run_each(lambda: service.send(tab, "hello", PIRATE))
    reply = chat_app.last
    changed = replace(reply, runs=(replace(reply.runs[0], adapter_digest="other"),))
    chat_app.store.finish(changed)
    with pytest.raises(NotExactError, match="pirate"):
        service.rerun_exactly(tab, reply.id)


def test_comparison_goes_on_with_the_best_reply(make_chat_app: MakeChatApp) -> None:
    chat_app = make_chat_app(FakeEngine(echo, ticking=True))
    service, tab = chat_app.chat_service, chat_app.tab

    async def chat() -> None:
        service.compare(tab, "who?", [GREEDY, PIRATE, LINLY])
        await wait_until(lambda: len(chat_app.engine.requests) == 3)
        chat_app.engine.tick(20)
        await chat_app.replies_ended()
        tree = chat_app.shown_chat.message_tree(tab)
        assert tree
        assert chat_app.texts == ["who?"]
        assert len(tree.compared) == 3
        pirate = tree.compared[1]
        chat_app.shown_chat.vote(tab, pirate.comparison or "", pirate.id)
        service.send(tab, "and then?", GREEDY)
        chat_app.engine.tick(9)
        await chat_app.replies_ended()

    run(chat())
    assert chat_app.texts[:3] == ["who?", "pirate heard: who? ", "and then?"]
    assert chat_app.store.votes(ANNA)[0].winner == chat_app.branch[1].id


def test_choosing_a_compared_reply_makes_it_the_branch(chat_app: ChatApp) -> None:
    service, tab, shown_chat = chat_app.chat_service, chat_app.tab, chat_app.shown_chat
    chat_app.run_each(
        lambda: service.send(tab, "who?", GREEDY),
        lambda: service.compare(tab, "", [GREEDY, LINLY]),
    )
    tree = shown_chat.message_tree(tab)
    assert tree
    shown_chat.choose(tab, tree.compared[1].id)
    assert chat_app.last.text.startswith("linly heard")
    shown_chat.show_comparison(tab, chat_app.last.id)
    assert chat_app.texts == ["who?"]


def test_comparison_leaves_the_chat_s_settings(chat_app: ChatApp) -> None:
    service, tab = chat_app.chat_service, chat_app.tab
    chat_app.run_each(
        lambda: service.send(tab, "one", PIRATE),
        lambda: service.compare(tab, "two", [GREEDY, LINLY], PIRATE),
    )
    assert chat_app.store.chat(ANNA, chat_app.chat).settings == PIRATE


class EndingEngine(FakeEngine):
    """Ends each request by itself, as an engine does when the program shuts down."""

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        super().submit(request, emit)
        self.tick()
        self.aborted.add(request.id)


def test_end_that_no_user_asked_for_is_an_interruption(make_chat_app: MakeChatApp) -> None:
    chat_app = make_chat_app(EndingEngine(echo, ticking=True))
    chat_app.run_each(lambda: chat_app.chat_service.send(chat_app.tab, "hello", GREEDY))
    assert chat_app.last.state is MessageState.INTERRUPTED


def test_failed_reply_has_a_sentence(make_chat_app: MakeChatApp) -> None:
    chat_app = make_chat_app(FakeEngine(lambda p, r: ["half", "<fail>"]))
    service, tab = chat_app.chat_service, chat_app.tab
    chat_app.run_each(
        lambda: service.send(tab, "hello", GREEDY),
        lambda: service.send(tab, "more", replace(GREEDY, adapter="torn")),
    )
    failed, broken = chat_app.branch[1], chat_app.branch[3]
    assert (failed.text, failed.state) == ("half", MessageState.FAILED)
    assert "memory" in failed.error
    assert broken.state is MessageState.FAILED
    assert "adapter_model.safetensors" in broken.error


class CrowdedEngine(FakeEngine):
    """Lets each request wait in a queue before it begins."""

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        emit(Delta(queued=Queued(2, "memory", 7.4)))
        super().submit(request, emit)


def test_waiting_reply_has_its_place_in_the_queue(make_chat_app: MakeChatApp) -> None:
    chat_app = make_chat_app(CrowdedEngine(echo, ticking=True))

    async def chat() -> None:
        chat_app.chat_service.send(chat_app.tab, "hello", GREEDY)
        (job,) = chat_app.reply_generator.active_in_chat(chat_app.chat)
        await wait_until(lambda: job.queued is not None)
        chat_app.engine.tick(9)
        await chat_app.replies_ended()

    run(chat())
    assert chat_app.last.text == "base heard: hello "


def test_owner_s_chat_is_unknown_to_other_owners(chat_app: ChatApp) -> None:
    service, shown_chat, chat_list = (
        chat_app.chat_service,
        chat_app.shown_chat,
        chat_app.chat_list,
    )
    other = TabSession(Owner("browser:mallory"))
    chat_app.run_each(lambda: service.send(chat_app.tab, "secret", GREEDY))
    question, reply = chat_app.branch
    with pytest.raises(UnknownChatError):
        chat_list.open(other, chat_app.chat)
    other.chat = chat_app.chat  # a page can send any id
    assert shown_chat.message_tree(other) is None
    other.chat = chat_app.chat
    attempts: list[Callable[[], object]] = [
        lambda: service.edit(other, question.id, "mine", GREEDY),
        lambda: service.regenerate(other, reply.id, GREEDY),
        lambda: service.rerun_exactly(other, reply.id),
        lambda: shown_chat.show_branch(other, reply.id),
        lambda: shown_chat.choose(other, reply.id),
        lambda: chat_list.rename(other, chat_app.chat, "mine"),
        lambda: chat_list.delete(other, chat_app.chat),
    ]
    for attempt in attempts:
        with pytest.raises(UnknownChatError):
            attempt()
    assert chat_app.message_count == 2


def test_stop_by_another_owner_does_nothing(make_chat_app: MakeChatApp) -> None:
    chat_app = make_chat_app(FakeEngine(echo, ticking=True))
    other = TabSession(Owner("browser:mallory"))

    async def chat() -> None:
        chat_app.chat_service.send(chat_app.tab, "hello", GREEDY)
        other.chat = chat_app.chat
        chat_app.chat_service.stop(other)
        chat_app.engine.tick(9)
        await chat_app.replies_ended()

    run(chat())
    assert chat_app.last.state is MessageState.DONE


def test_reply_of_a_server_that_died_is_interrupted(chat_app: ChatApp, tmp_path: Path) -> None:
    """Two servers share a folder; the living one marks the reply, so that it can be continued."""
    other_server = ServerLock(tmp_path / "servers")
    chat_app.run_each(lambda: chat_app.chat_service.send(chat_app.tab, "hello", GREEDY))
    question = chat_app.branch[0].id
    theirs = ChatMessage("theirs", question, "assistant", "half", MessageState.STREAMING)
    chat_app.store.add(ANNA, chat_app.chat, theirs, server=other_server.id)
    before = chat_app.last.state
    other_server.release()
    assert (before, chat_app.last.state) == (MessageState.STREAMING, MessageState.INTERRUPTED)


def test_worker_threads_start_replies_on_the_event_loop(chat_app: ChatApp) -> None:
    """As on the page: every operation runs in a thread, every reply is a task of the loop."""

    async def chat() -> None:
        chat_app.on_loop.bind()
        tabs = [chat_app.tab_sessions.open(Owner(f"browser:{n}")) for n in range(8)]

        async def ask(tab: TabSession) -> None:
            for text in ("one", "two"):
                await asyncio.to_thread(chat_app.chat_service.send, tab, text, GREEDY)
                await wait_until(
                    lambda: not chat_app.reply_generator.active_in_chat(tab.chat or "")
                )

        await asyncio.gather(*map(ask, tabs))
        for tab in tabs:
            assert tab.chats_changed.is_set()
            tree = chat_app.shown_chat.message_tree(tab)
            assert tree
            assert [message.text for message in tree.branch] == [
                "one", "base heard: one ", "two", "base heard: two ",
            ]  # fmt: skip

    run(chat())
