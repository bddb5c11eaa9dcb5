"""What a visitor can do with chats, and what not: without Gradio, over a scripted engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from model.serving.adapter_registry import Adapter
from model.types import FinishReason, LinlyError, RequestError, Sampling
from tests.fake import ADAPTERS, FakeEngine, echo, fake_manager
from web.chats.chat_service import ChatService
from web.chats.identity import Owner
from web.chats.reply_generator import ReplyGenerator
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import ReplyBusyError, UnknownChatError
from web.chats.store.models import ChatMessage, ChatSettings, GenerationRun, MessageState
from web.chats.tab_sessions import TabSession, TabSessions
from web.public_link.limits import LinkLimitError, LinkRules, PublicLink
from web.ui.chat_view import log_value

ANNA = "browser:anna"
BASE = ChatSettings(sampling=Sampling(temperature=0))
PIRATE, LINLY = replace(BASE, adapter="pirate"), replace(BASE, adapter="linly")


class World:
    """A store and a scripted engine, and what ties them."""

    def __init__(self, path: Path) -> None:
        self.engine = FakeEngine(echo)
        self.adapters: list[Adapter] = list(ADAPTERS)
        self.manager = fake_manager(self.engine, adapters=self.adapters)
        self.manager.wait()
        self.store = ChatStore(path)
        visits = TabSessions()
        replies = ReplyGenerator(self.manager, self.store, "me", visits.changed, lambda *_: None)
        self.talk = ChatService(self.manager, self.store, visits, replies)
        self.visit = TabSession(Owner(ANNA))

    def by_link(self, rules: LinkRules) -> PublicLink:
        """From now on the visitor comes through a link with these rules."""
        self.talk.link = PublicLink(rules, lambda: None)
        self.visit.guest = True
        return self.talk.link

    def run(self, *deeds: Callable[[], object]) -> None:
        """Each, after the replies of the one before have ended."""

        async def all_of_them() -> None:
            for deed in deeds:
                deed()
                while self.talk.replies.count:
                    await asyncio.sleep(0.005)

        asyncio.run(asyncio.wait_for(all_of_them(), 20))

    @property
    def branch(self) -> list[ChatMessage]:
        talk = self.talk.conversation(self.visit)
        return talk.branch if talk else []

    @property
    def last(self) -> str:
        return self.branch[-1].id

    @property
    def messages(self) -> int:
        return len(self.store.messages(ANNA, self.visit.chat)) if self.visit.chat else 0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    here = World(tmp_path / "chats.sqlite3")
    yield here
    here.manager.close()
    here.store.close()


def refuses(kind: type[LinlyError], deed: Callable[[], object], match: str = ".") -> None:
    with pytest.raises(kind, match=match):
        deed()


def test_a_limit_refuses_before_anything_has_happened(world: World) -> None:
    """The question was in the chat, and in the box as well."""
    link = world.by_link(LinkRules(messages=1))
    world.run(lambda: world.talk.send(world.visit, "one", BASE))
    assert (link.visitors, link.replies) == (1, 1)
    reply = world.last
    for deed in (
        lambda: world.talk.send(world.visit, "two", BASE),
        lambda: world.talk.edit(world.visit, world.branch[0].id, "other", BASE),
        lambda: world.talk.regenerate(world.visit, None, BASE),
        lambda: world.talk.rerun_exactly(world.visit, reply),
        lambda: world.talk.compare(world.visit, "two", [BASE, PIRATE]),
    ):
        refuses(LinkLimitError, deed, "for 1 replies a visitor")
    assert world.messages == 2
    assert link.replies == 1
    world.talk.open(world.visit, None)
    refuses(LinkLimitError, lambda: world.talk.send(world.visit, "in a new chat", BASE))
    assert len(world.store.chats(ANNA)) == 1


def test_a_comparison_takes_a_reply_of_each(world: World) -> None:
    link = world.by_link(LinkRules(messages=2))
    three = [BASE, PIRATE, LINLY]
    deed = lambda: world.talk.compare(world.visit, "who?", three)  # noqa: E731
    refuses(LinkLimitError, deed, "takes 3 replies, and of 2 you have 2 left")
    assert world.store.chats(ANNA) == []
    world.run(lambda: world.talk.compare(world.visit, "who?", three[:2]))
    assert link.replies == 2


def test_what_is_refused_for_another_reason_is_not_counted(world: World) -> None:
    link = world.by_link(LinkRules(messages=5))
    world.engine.ticking = True

    def busy() -> None:
        world.talk.send(world.visit, "one", BASE)
        refuses(ReplyBusyError, lambda: world.talk.send(world.visit, "two", BASE))
        refuses(ReplyBusyError, lambda: world.talk.regenerate(world.visit, None, BASE))
        refuses(ReplyBusyError, lambda: world.talk.compare(world.visit, "", [BASE, PIRATE]))
        refuses(RequestError, lambda: world.talk.edit(world.visit, world.branch[0].id, " ", BASE))
        world.engine.tick(9)

    world.run(busy)
    assert link.replies == 1


def test_adapters_that_are_not_for_visitors(world: World) -> None:
    link = world.by_link(LinkRules(adapters=("pirate",)))
    refuses(LinkLimitError, lambda: world.talk.send(world.visit, "a", LINLY), "not for linly")
    refuses(LinkLimitError, lambda: world.talk.send(world.visit, "a", BASE), "not for the base")
    rivals = [PIRATE, LINLY]
    refuses(LinkLimitError, lambda: world.talk.compare(world.visit, "a", rivals), "not for linly")
    world.run(lambda: world.talk.send(world.visit, "hello", PIRATE))
    refuses(LinkLimitError, lambda: world.talk.regenerate(world.visit, None, LINLY))
    assert world.messages == 2

    # A chat may come from a file, with replies by whomever it names.
    made = replace(LINLY, template="linly", sampling=replace(LINLY.sampling, seed=1))
    run = GenerationRun(made, "fake-base", "8bit", "d2" * 32, FinishReason.ABORT)
    reply = ChatMessage(
        "r", world.branch[0].id, "assistant", "Lin", MessageState.STOPPED, runs=(run,)
    )
    world.store.add(ANNA, world.visit.chat or "", reply)
    refuses(LinkLimitError, lambda: world.talk.rerun_exactly(world.visit, "r"), "not for linly")
    refuses(
        LinkLimitError, lambda: world.talk.continue_reply(world.visit, "r", PIRATE), "not for linly"
    )
    assert link.replies == 1
    assert len(world.engine.requests) == 1


def test_who_is_no_guest_has_no_limits(world: World) -> None:
    link = world.by_link(LinkRules(messages=0, adapters=()))
    world.visit.guest = False
    world.run(lambda: world.talk.send(world.visit, "hello", PIRATE))
    assert world.branch[-1].text == "pirate heard: hello "
    assert (link.visitors, link.replies) == (0, 0)


def test_an_adapter_that_is_gone_is_refused_before_anything_has_happened(world: World) -> None:
    world.run(lambda: world.talk.send(world.visit, "hello", PIRATE))
    world.adapters.clear()
    for deed in (
        lambda: world.talk.send(world.visit, "more", PIRATE),
        lambda: world.talk.edit(world.visit, world.branch[0].id, "other", PIRATE),
        lambda: world.talk.regenerate(world.visit, None, PIRATE),
    ):
        refuses(RequestError, deed, "The adapter pirate is not here any more")
    assert world.messages == 2


def test_only_replies_are_answered_again(world: World) -> None:
    """An answer to nobody, or to another answer, was begun."""
    world.run(
        lambda: world.talk.send(world.visit, "one", BASE),
        lambda: world.talk.send(world.visit, "two", BASE),
    )
    for question in (world.branch[0].id, world.branch[2].id):
        refuses(
            UnknownChatError,
            lambda question=question: world.talk.regenerate(world.visit, question, BASE),
        )
        refuses(
            UnknownChatError,
            lambda question=question: world.talk.rerun_exactly(world.visit, question),
        )
    assert world.messages == 4


def test_a_text_that_is_too_long_leaves_no_empty_chat(world: World) -> None:
    refuses(RequestError, lambda: world.talk.send(world.visit, "x" * 2_000_001, BASE), "longer")
    assert world.store.chats(ANNA) == []
    assert world.visit.chat is None


def test_what_others_said_side_by_side_is_not_voted_on(world: World) -> None:
    world.run(lambda: world.talk.compare(world.visit, "who?", [BASE, PIRATE]))
    talk = world.talk.conversation(world.visit)
    assert talk
    first = talk.compared[0]
    other = TabSession(Owner("browser:mallory"), chat=world.visit.chat)
    compared = first.comparison or ""
    refuses(UnknownChatError, lambda: world.talk.vote(other, compared, first.id))
    refuses(UnknownChatError, lambda: world.talk.vote(other, compared, None))
    refuses(UnknownChatError, lambda: world.talk.vote(world.visit, "another", None))
    refuses(UnknownChatError, lambda: world.talk.vote(world.visit, compared, talk.branch[0].id))
    assert world.store.votes(ANNA) == []


def test_provenance_of_a_reply_that_another_base_continued(world: World) -> None:
    """It said that the last one had made all of it."""
    world.run(lambda: world.talk.send(world.visit, "hello", PIRATE))
    reply = world.branch[-1]
    (run,) = reply.runs
    other = replace(run, base="other-base", quantization="none", adapter_digest="ff" * 32)
    world.store.finish(replace(reply, runs=(run, other)))
    value = log_value(world.talk.conversation(world.visit), [], "en")
    shown = dict(value["messages"][-1]["provenance"])
    assert shown["Base model"] == "fake-base, other-base"
    assert shown["Quantisation"] == "8bit, none"
    assert shown["Its digest"] == "d1d1d1d1d1d1, ffffffffffff"
