"""Chat service: limits of the public link, refusals, and whose chats a tab reaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from model.errors import LinlyError, RequestError
from model.types import FinishReason
from tests.fake_engine import FakeEngine, echo
from tests.web.chats.chat_app import ANNA, GREEDY, ChatApp
from tests.web.chats.conftest import MakeChatApp
from web.chats.identity import Owner
from web.chats.store.errors import ReplyBusyError, UnknownChatError
from web.chats.store.models import ChatMessage, GenerationRun, MessageState
from web.chats.tab_sessions import TabSession
from web.public_link.limits import LinkLimitError, LinkRules
from web.ui.chat_view import log_value

PIRATE, LINLY = replace(GREEDY, adapter="pirate"), replace(GREEDY, adapter="linly")


def assert_refused(kind: type[LinlyError], action: Callable[[], object], match: str = ".") -> None:
    with pytest.raises(kind, match=match):
        action()


def test_link_limit_refuses_before_anything_is_stored(chat_app: ChatApp) -> None:
    """The question was stored, and stayed in the message box as well."""
    service, tab = chat_app.chat_service, chat_app.tab
    link = chat_app.come_through_link(LinkRules(messages=1))
    chat_app.run_each(lambda: service.send(tab, "one", GREEDY))
    assert (link.visitors, link.replies) == (1, 1)
    question, reply = chat_app.branch
    for action in (
        lambda: service.send(tab, "two", GREEDY),
        lambda: service.edit(tab, question.id, "other", GREEDY),
        lambda: service.regenerate(tab, None, GREEDY),
        lambda: service.rerun_exactly(tab, reply.id),
        lambda: service.compare(tab, "two", [GREEDY, PIRATE]),
    ):
        assert_refused(LinkLimitError, action, "allows 1 replies for each visitor")
    assert chat_app.message_count == 2
    assert link.replies == 1
    chat_app.chat_list.open(tab, None)
    assert_refused(LinkLimitError, lambda: service.send(tab, "in a new chat", GREEDY))
    assert len(chat_app.store.chats(ANNA)) == 1


def test_link_counts_each_reply_of_a_comparison(chat_app: ChatApp) -> None:
    service, tab = chat_app.chat_service, chat_app.tab
    link = chat_app.come_through_link(LinkRules(messages=2))
    rivals = [GREEDY, PIRATE, LINLY]
    assert_refused(
        LinkLimitError,
        lambda: service.compare(tab, "who?", rivals),
        "needs 3 replies, but you have only 2 of 2 left",
    )
    assert chat_app.store.chats(ANNA) == []
    chat_app.run_each(lambda: service.compare(tab, "who?", rivals[:2]))
    assert link.replies == 2


def test_link_does_not_count_what_is_refused_for_another_reason(
    make_chat_app: MakeChatApp,
) -> None:
    chat_app = make_chat_app(FakeEngine(echo, ticking=True))
    service, tab = chat_app.chat_service, chat_app.tab
    link = chat_app.come_through_link(LinkRules(messages=5))

    def send_while_busy() -> None:
        service.send(tab, "one", GREEDY)
        assert_refused(ReplyBusyError, lambda: service.send(tab, "two", GREEDY))
        assert_refused(ReplyBusyError, lambda: service.regenerate(tab, None, GREEDY))
        assert_refused(ReplyBusyError, lambda: service.compare(tab, "", [GREEDY, PIRATE]))
        question = chat_app.branch[0].id
        assert_refused(RequestError, lambda: service.edit(tab, question, " ", GREEDY))
        chat_app.engine.tick(9)

    chat_app.run_each(send_while_busy)
    assert link.replies == 1


def test_link_excludes_adapters(chat_app: ChatApp) -> None:
    service, tab = chat_app.chat_service, chat_app.tab
    link = chat_app.come_through_link(LinkRules(adapters=("pirate",)))
    assert_refused(LinkLimitError, lambda: service.send(tab, "a", LINLY), "does not offer linly")
    assert_refused(
        LinkLimitError, lambda: service.send(tab, "a", GREEDY), "does not offer the base"
    )
    rivals = [PIRATE, LINLY]
    assert_refused(
        LinkLimitError, lambda: service.compare(tab, "a", rivals), "does not offer linly"
    )
    chat_app.run_each(lambda: service.send(tab, "hello", PIRATE))
    assert_refused(LinkLimitError, lambda: service.regenerate(tab, None, LINLY))
    assert chat_app.message_count == 2

    # An imported chat can have replies of any adapter.
    settings = replace(LINLY, template="linly", sampling=replace(LINLY.sampling, seed=1))
    run = GenerationRun(settings, "fake-base", "8bit", "d2" * 32, FinishReason.ABORT)
    reply = ChatMessage(
        "r", chat_app.branch[0].id, "assistant", "Lin", MessageState.STOPPED, runs=(run,)
    )
    chat_app.store.add(ANNA, chat_app.chat, reply)
    assert_refused(LinkLimitError, lambda: service.rerun_exactly(tab, "r"), "does not offer linly")
    assert_refused(
        LinkLimitError, lambda: service.continue_reply(tab, "r", PIRATE), "does not offer linly"
    )
    assert link.replies == 1
    assert len(chat_app.engine.requests) == 1


def test_link_limits_only_its_guests(chat_app: ChatApp) -> None:
    link = chat_app.come_through_link(LinkRules(messages=0, adapters=()))
    chat_app.tab.guest = False
    chat_app.run_each(lambda: chat_app.chat_service.send(chat_app.tab, "hello", PIRATE))
    assert chat_app.last.text == "pirate heard: hello "
    assert (link.visitors, link.replies) == (0, 0)


def test_missing_adapter_is_refused_before_anything_is_stored(chat_app: ChatApp) -> None:
    service, tab = chat_app.chat_service, chat_app.tab
    chat_app.run_each(lambda: service.send(tab, "hello", PIRATE))
    chat_app.adapters.clear()
    for action in (
        lambda: service.send(tab, "more", PIRATE),
        lambda: service.edit(tab, chat_app.branch[0].id, "other", PIRATE),
        lambda: service.regenerate(tab, None, PIRATE),
    ):
        assert_refused(RequestError, action, "The adapter pirate no longer exists")
    assert chat_app.message_count == 2


def test_only_replies_can_be_regenerated(chat_app: ChatApp) -> None:
    """A reply to no question, or to another reply, was begun."""
    service, tab = chat_app.chat_service, chat_app.tab
    chat_app.run_each(
        lambda: service.send(tab, "one", GREEDY),
        lambda: service.send(tab, "two", GREEDY),
    )
    for question in (chat_app.branch[0].id, chat_app.branch[2].id):
        with pytest.raises(UnknownChatError):
            service.regenerate(tab, question, GREEDY)
        with pytest.raises(UnknownChatError):
            service.rerun_exactly(tab, question)
    assert chat_app.message_count == 4


def test_text_that_is_too_long_leaves_no_empty_chat(chat_app: ChatApp) -> None:
    text = "x" * 2_000_001
    assert_refused(
        RequestError, lambda: chat_app.chat_service.send(chat_app.tab, text, GREEDY), "longer"
    )
    assert chat_app.store.chats(ANNA) == []
    assert chat_app.tab.chat is None


def test_vote_needs_the_owner_s_own_comparison(chat_app: ChatApp) -> None:
    tab, shown_chat = chat_app.tab, chat_app.shown_chat
    chat_app.run_each(lambda: chat_app.chat_service.compare(tab, "who?", [GREEDY, PIRATE]))
    tree = shown_chat.message_tree(tab)
    assert tree
    first = tree.compared[0]
    comparison = first.comparison or ""
    other_tab = TabSession(Owner("browser:mallory"), chat=tab.chat)
    for voter, voted, winner in (
        (other_tab, comparison, first.id),
        (other_tab, comparison, None),
        (tab, "another", None),
        (tab, comparison, tree.branch[0].id),
    ):
        with pytest.raises(UnknownChatError):
            shown_chat.vote(voter, voted, winner)
    assert chat_app.store.votes(ANNA) == []


def test_provenance_names_each_base_of_a_continued_reply(chat_app: ChatApp) -> None:
    """It named the last base for the whole reply."""
    chat_app.run_each(lambda: chat_app.chat_service.send(chat_app.tab, "hello", PIRATE))
    reply = chat_app.last
    (run,) = reply.runs
    other = replace(run, base="other-base", quantization="none", adapter_digest="ff" * 32)
    chat_app.store.finish(replace(reply, runs=(run, other)))
    value = log_value(chat_app.shown_chat.message_tree(chat_app.tab), [], "en")
    shown = dict(value["messages"][-1]["provenance"])
    assert shown["Base model"] == "fake-base, other-base"
    assert shown["Quantisation"] == "8bit, none"
    assert shown["Its digest"] == "d1d1d1d1d1d1, ffffffffffff"
