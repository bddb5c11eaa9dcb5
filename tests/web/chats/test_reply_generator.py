"""Replies in the making: they belong to the server, and what they say is kept."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from model.types import Delta, Emit, EngineRequest, Queued, Sampling
from tests.fake import FakeEngine, echo, fake_manager
from web.chats.chat_service import ChatService
from web.chats.cluster.file_lock import ServerLock
from web.chats.identity import Owner
from web.chats.reply_generator import SAVE_SECONDS, ReplyGenerator
from web.chats.reproducibility import NotExactError
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import ReplyBusyError, StoreError
from web.chats.store.models import ChatMessage, ChatSettings, MessageState
from web.chats.tab_sessions import TabSession, TabSessions

ANNA = "browser:anna"
GREEDY = ChatSettings(sampling=Sampling(temperature=0))


@dataclass
class World:
    """A store, a scripted engine, and what ties them."""

    engine: FakeEngine
    path: Path
    spoken: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = ChatStore(self.path)
        self.manager = fake_manager(self.engine)
        self.manager.wait()
        self.visits = TabSessions()
        self.replies = ReplyGenerator(
            self.manager, self.store, "server", self.visits.changed,
            lambda owner, chat: self.spoken.append((owner, chat)),
        )  # fmt: skip
        self.talk = ChatService(self.manager, self.store, self.visits, self.replies)
        self.visit = TabSession(Owner(ANNA))

    @property
    def branch(self) -> list[ChatMessage]:
        talk = self.talk.conversation(self.visit)
        return talk.branch if talk else []

    async def ended(self) -> None:
        while self.replies.count:
            await asyncio.sleep(0.005)


MakeWorld = Callable[..., World]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[MakeWorld]:
    made: list[World] = []

    def make(engine: FakeEngine) -> World:
        made.append(World(engine, tmp_path / "chats.sqlite3"))
        return made[-1]

    yield make
    for each in made:
        each.manager.close()
        each.store.close()


def run(coroutine: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(coroutine, 20)

    asyncio.run(bounded())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


def texts(branch: list[ChatMessage]) -> list[str]:
    return [message.text for message in branch]


def test_a_question_and_its_reply_are_kept(world: MakeWorld) -> None:
    here = world(FakeEngine(echo))

    async def chat() -> None:
        here.talk.send(here.visit, "hello there", GREEDY)
        await here.ended()
        here.talk.send(here.visit, "again", replace(GREEDY, adapter="pirate"))
        await here.ended()

    run(chat())
    assert texts(here.branch) == [
        "hello there", "base heard: hello there ", "again", "pirate heard: again ",
    ]  # fmt: skip
    (made,) = here.branch[3].runs
    assert (made.settings.adapter, made.adapter_digest) == ("pirate", "d1" * 32)
    assert made.settings.template
    assert made.completion_tokens == 3
    assert here.store.chats(ANNA)[0].title == "hello there"


def test_what_streams_is_in_the_store_before_it_ends(world: MakeWorld) -> None:
    """Were the process killed now, the text would be there, and who had said it."""
    here = world(FakeEngine(lambda p, r: ["word "] * 9, ticking=True))

    async def chat() -> None:
        here.talk.send(here.visit, "go on", replace(GREEDY, adapter="linly"))
        here.engine.tick(3)
        await until(lambda: "word word word" in here.branch[-1].text)
        assert here.branch[-1].state is MessageState.STREAMING
        (run,) = here.branch[-1].runs
        assert (run.settings.template, run.adapter_digest) == ("linly", "d2" * 32)
        here.engine.tick(6)
        await here.ended()

    run(chat())
    assert SAVE_SECONDS < 0.5
    assert here.branch[-1].state is MessageState.DONE


def test_a_reply_needs_no_tab(world: MakeWorld) -> None:
    here = world(FakeEngine(echo, ticking=True))

    async def chat() -> None:
        visit = here.visits.open(here.visit.owner)
        here.talk.send(visit, "hello", GREEDY)
        here.visits.close(visit)
        here.visit.chat = visit.chat
        here.engine.tick(9)
        await here.ended()

    run(chat())
    assert here.branch[-1].text == "base heard: hello "


def test_stop_keeps_what_is_there_and_can_be_continued(world: MakeWorld) -> None:
    def script(prompt: str, request: EngineRequest) -> list[str]:
        assert prompt.endswith(("assistant\n", "assistant\none "))
        return ["two"] if prompt.endswith("one ") else ["one ", "two ", "three "]

    here = world(FakeEngine(script, ticking=True))

    async def chat() -> None:
        here.talk.send(here.visit, "count", GREEDY)
        here.engine.tick()
        (reply,) = here.replies.active_in_chat(here.visit.chat or "")
        await until(lambda: reply.text == "one ")
        here.talk.stop(here.visit)
        await here.ended()
        assert here.branch[-1].state is MessageState.STOPPED
        here.engine.tick(5)
        here.talk.continue_reply(here.visit, here.branch[-1].id, ChatSettings())
        await here.ended()

    run(chat())
    last = here.branch[-1]
    assert (last.text, last.state) == ("one two", MessageState.DONE)
    assert [one.begins for one in last.runs] == [0, 4]
    assert {one.settings.sampling.temperature for one in last.runs} == {0}


def test_stop_before_the_model_is_loaded(tmp_path: Path, world: MakeWorld) -> None:
    loading = threading.Event()
    here = world(FakeEngine(echo))
    here.replies._manager = fake_manager(here.engine, loading)

    async def chat() -> None:
        here.talk.send(here.visit, "early", GREEDY)
        await until(lambda: bool(here.spoken))
        (reply,) = here.replies.active_in_chat(here.visit.chat or "")
        assert reply.loading
        here.talk.stop(here.visit)
        await here.ended()
        loading.set()

    run(chat())
    assert here.branch[-1].state is MessageState.STOPPED
    assert here.engine.requests == []


def test_one_reply_at_a_time_in_a_chat(world: MakeWorld) -> None:
    here = world(FakeEngine(echo, ticking=True))

    async def chat() -> None:
        here.talk.send(here.visit, "first", GREEDY)
        with pytest.raises(ReplyBusyError):
            here.talk.send(here.visit, "second", GREEDY)
        with pytest.raises(ReplyBusyError):
            here.talk.edit(here.visit, here.branch[0].id, "other", GREEDY)
        with pytest.raises(ReplyBusyError):
            here.talk.regenerate(here.visit, None, GREEDY)
        here.engine.tick(9)
        await here.ended()

    run(chat())
    assert texts(here.branch) == ["first", "base heard: first "]


def test_edit_and_regenerate_make_branches(world: MakeWorld) -> None:
    here = world(FakeEngine(echo))

    async def chat() -> None:
        here.talk.send(here.visit, "one", GREEDY)
        await here.ended()
        first = here.branch[0]
        here.talk.edit(here.visit, first.id, "two", GREEDY)
        await here.ended()
        assert texts(here.branch) == ["two", "base heard: two "]
        here.talk.regenerate(here.visit, here.branch[1].id, replace(GREEDY, adapter="pirate"))
        await here.ended()
        assert texts(here.branch) == ["two", "pirate heard: two "]
        here.talk.branch(here.visit, first.id)

    run(chat())
    assert texts(here.branch) == ["one", "base heard: one "]


@pytest.mark.parametrize("stopped", [False, True])
def test_run_again_exactly(world: MakeWorld, stopped: bool) -> None:
    """The same seed, prompt and adapter; and where it was stopped, it ends at the same letter."""

    def script(prompt: str, request: EngineRequest) -> list[str]:
        return [f"{request.sampling.seed} ", "and ", "so ", "on"]

    here = world(FakeEngine(script, ticking=True))

    async def chat() -> None:
        here.talk.send(here.visit, "hello", replace(ChatSettings(), adapter="pirate"))
        here.engine.tick(2)
        (reply,) = here.replies.active_in_chat(here.visit.chat or "")
        await until(lambda: reply.text.endswith("and "))
        if stopped:
            here.talk.stop(here.visit)
        here.engine.tick(0 if stopped else 2)
        await here.ended()
        here.engine.tick(4)
        here.talk.rerun_exactly(here.visit, here.branch[-1].id)
        await here.ended()

    run(chat())
    *_, first, second = here.store.messages(ANNA, here.visit.chat or "").values()
    assert second.repeats == first.id
    assert second.text == first.text
    assert second.state is first.state
    assert len(here.engine.requests) == 2
    assert here.engine.requests[0].prompt_ids == here.engine.requests[1].prompt_ids


def test_an_adapter_that_changed_is_not_run_again(world: MakeWorld) -> None:
    here = world(FakeEngine(echo))

    async def chat() -> None:
        here.talk.send(here.visit, "hello", replace(GREEDY, adapter="pirate"))
        await here.ended()
        reply = here.branch[-1]
        changed = replace(reply, runs=(replace(reply.runs[0], adapter_digest="other"),))
        here.store.finish(changed)
        with pytest.raises(NotExactError, match="pirate"):
            here.talk.rerun_exactly(here.visit, reply.id)

    run(chat())


def test_replies_side_by_side(world: MakeWorld) -> None:
    here = world(FakeEngine(echo, ticking=True))
    rivals = [GREEDY, replace(GREEDY, adapter="pirate"), replace(GREEDY, adapter="linly")]

    async def chat() -> None:
        here.talk.compare(here.visit, "who?", rivals)
        await until(lambda: len(here.engine.requests) == 3)
        here.engine.tick(20)
        await here.ended()
        talk = here.talk.conversation(here.visit)
        assert talk
        assert texts(talk.branch) == ["who?"]
        assert len(talk.compared) == 3
        pirate = talk.compared[1]
        here.talk.vote(here.visit, pirate.comparison or "", pirate.id)
        here.talk.send(here.visit, "and then?", GREEDY)  # the best goes on
        here.engine.tick(9)
        await here.ended()

    run(chat())
    assert texts(here.branch)[:3] == ["who?", "pirate heard: who? ", "and then?"]
    assert here.store.votes(ANNA)[0].winner == here.branch[1].id


def test_choosing_a_rival_makes_it_the_branch(world: MakeWorld) -> None:
    here = world(FakeEngine(echo))

    async def chat() -> None:
        here.talk.send(here.visit, "who?", GREEDY)
        await here.ended()
        here.talk.compare(here.visit, "", [GREEDY, replace(GREEDY, adapter="linly")])
        await here.ended()
        talk = here.talk.conversation(here.visit)
        assert talk
        here.talk.choose(here.visit, talk.compared[1].id)
        assert here.branch[-1].text.startswith("linly heard")
        here.talk.side_by_side(here.visit, here.branch[-1].id)

    run(chat())
    assert texts(here.branch) == ["who?"]


class Dying(FakeEngine):
    """Ends everything by itself, as an engine does whose program is told to end."""

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        super().submit(request, emit)
        self.tick()
        self.aborted.add(request.id)


def test_an_end_that_nobody_asked_for_is_an_interruption(world: MakeWorld) -> None:
    here = world(Dying(echo, ticking=True))

    async def chat() -> None:
        here.talk.send(here.visit, "hello", GREEDY)
        await here.ended()

    run(chat())
    assert here.branch[-1].state is MessageState.INTERRUPTED


def test_a_failure_is_a_sentence(world: MakeWorld) -> None:
    here = world(FakeEngine(lambda p, r: ["half", "<fail>"]))

    async def chat() -> None:
        here.talk.send(here.visit, "hello", GREEDY)
        await here.ended()
        here.talk.send(here.visit, "more", replace(GREEDY, adapter="torn"))
        await here.ended()

    run(chat())
    failed, broken = here.branch[1], here.branch[3]
    assert (failed.text, failed.state) == ("half", MessageState.FAILED)
    assert "memory" in failed.error
    assert broken.state is MessageState.FAILED
    assert "adapter_model.safetensors" in broken.error


class Crowded(FakeEngine):
    """Lets everybody wait a little before it answers."""

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        emit(Delta(queued=Queued(2, "memory", 7.4)))
        super().submit(request, emit)


def test_who_waits_is_told_where(world: MakeWorld) -> None:
    here = world(Crowded(echo, ticking=True))

    async def chat() -> None:
        here.talk.send(here.visit, "hello", GREEDY)
        (reply,) = here.replies.active_in_chat(here.visit.chat or "")
        await until(lambda: reply.queued is not None)
        here.engine.tick(9)
        await here.ended()

    run(chat())
    assert here.branch[-1].text == "base heard: hello "


def test_nobody_reaches_the_chats_of_others(world: MakeWorld) -> None:
    here = world(FakeEngine(echo))
    other = TabSession(Owner("browser:mallory"))

    async def chat() -> None:
        from web.chats.store.errors import UnknownChatError

        here.talk.send(here.visit, "secret", GREEDY)
        await here.ended()
        question, reply = here.branch
        with pytest.raises(UnknownChatError):
            here.talk.open(other, here.visit.chat)
        other.chat = here.visit.chat  # a page can send anything
        assert here.talk.conversation(other) is None
        other.chat = here.visit.chat
        attempts: list[Callable[[], object]] = [
            lambda: here.talk.edit(other, question.id, "mine", GREEDY),
            lambda: here.talk.regenerate(other, reply.id, GREEDY),
            lambda: here.talk.rerun_exactly(other, reply.id),
            lambda: here.talk.branch(other, reply.id),
            lambda: here.talk.choose(other, reply.id),
            lambda: here.talk.rename(other, here.visit.chat or "", "mine"),
            lambda: here.talk.delete(other, here.visit.chat or ""),
        ]
        for attempt in attempts:
            with pytest.raises(UnknownChatError):
                attempt()

    run(chat())
    assert len(here.store.messages(ANNA, here.visit.chat or "")) == 2


def test_a_stop_of_others_does_nothing(world: MakeWorld) -> None:
    here = world(FakeEngine(echo, ticking=True))
    other = TabSession(Owner("browser:mallory"))

    async def chat() -> None:
        here.talk.send(here.visit, "hello", GREEDY)
        other.chat = here.visit.chat
        here.talk.stop(other)
        here.engine.tick(9)
        await here.ended()

    run(chat())
    assert here.branch[-1].state is MessageState.DONE


def test_a_kept_text_is_no_older_than_half_a_second(world: MakeWorld) -> None:
    """Whatever the pace of the model, what it said is saved soon after, without another word."""
    here = world(FakeEngine(lambda p, r: ["a", "b", "c"], ticking=True))

    async def chat() -> None:
        here.talk.send(here.visit, "slow", GREEDY)
        for so_far in ("a", "ab"):
            here.engine.tick()
            began = time.monotonic()
            await until(lambda so_far=so_far: here.branch[-1].text == so_far)
            assert time.monotonic() - began < 10  # it comes at all; the bound is no measure
        here.engine.tick()
        await here.ended()

    run(chat())


def test_a_reply_that_cannot_be_saved_now_is_saved_later(
    world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full for a moment must not cost the text, nor leave the chat waiting."""
    here = world(FakeEngine(echo))
    whole = ChatStore.finish

    def full(self: ChatStore, message: ChatMessage) -> None:
        raise StoreError("The chats cannot be saved: the disk is full", "Free some space.")

    async def chat() -> None:
        monkeypatch.setattr(ChatStore, "finish", full)
        here.talk.send(here.visit, "precious", GREEDY)
        await here.ended()
        assert here.branch[-1].state is MessageState.STREAMING
        monkeypatch.setattr(ChatStore, "finish", whole)
        await until(lambda: here.branch[-1].state is MessageState.DONE)

    run(chat())
    assert here.branch[-1].text == "base heard: precious "


def test_a_comparison_leaves_the_chat_s_settings(world: MakeWorld) -> None:
    here = world(FakeEngine(echo))
    pirate = replace(GREEDY, adapter="pirate")

    async def chat() -> None:
        here.talk.send(here.visit, "one", pirate)
        await here.ended()
        here.talk.compare(here.visit, "two", [GREEDY, replace(GREEDY, adapter="linly")], pirate)
        await here.ended()

    run(chat())
    assert here.store.chat(ANNA, here.visit.chat or "").settings == pirate


def test_a_reply_that_failed_is_run_again_to_where_it_failed(world: MakeWorld) -> None:
    here = world(FakeEngine(lambda p, r: ["half ", "<fail>"]))

    async def chat() -> None:
        here.talk.send(here.visit, "hello", GREEDY)
        await here.ended()
        here.engine.script = lambda p, r: ["half ", "and more"]
        here.talk.rerun_exactly(here.visit, here.branch[-1].id)
        await here.ended()

    run(chat())
    assert here.branch[-1].text == "half "


def test_a_reply_of_another_server_that_died(world: MakeWorld, tmp_path: Path) -> None:
    """Two servers share a folder: what the dead one was about to say can be continued here."""
    here = world(FakeEngine(echo))
    lock = ServerLock(tmp_path / "servers")
    there = ServerLock(tmp_path / "servers")
    here.talk._mend = lambda: here.store.interrupt(lock.alive)

    async def chat() -> None:
        here.talk.send(here.visit, "hello", GREEDY)
        await here.ended()
        question = here.branch[0].id
        theirs = ChatMessage("theirs", question, "assistant", "half", MessageState.STREAMING)
        here.store.add(ANNA, here.visit.chat or "", theirs, server=there.id)
        assert here.branch[-1].state is MessageState.STREAMING
        there.release()
        assert here.branch[-1].state is MessageState.INTERRUPTED

    run(chat())
    lock.release()


def test_worker_threads_and_the_event_loop_meet(world: MakeWorld) -> None:
    """As the page does it: every operation in a thread, every reply a task of the loop."""
    here = world(FakeEngine(echo))
    here.replies._on_loop = here.visits.on_loop

    async def chat() -> None:
        here.visits.on_loop.bind()
        visits = [here.visits.open(Owner(f"browser:{n}")) for n in range(8)]

        async def ask(visit: TabSession) -> None:
            for text in ("one", "two"):
                await asyncio.to_thread(here.talk.send, visit, text, GREEDY)
                await until(lambda: not here.replies.active_in_chat(visit.chat or ""))

        await asyncio.gather(*map(ask, visits))
        for visit in visits:
            assert visit.changed.is_set()
            talk = here.talk.conversation(visit)
            assert talk
            assert texts(talk.branch) == [
                "one", "base heard: one ", "two", "base heard: two ",
            ]  # fmt: skip

    run(chat())


def test_replies_a_question_while_the_reply_before_is_being_saved(
    world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was kept, and then refused its answer: the chat ended with a question for good."""
    here = world(FakeEngine(echo))
    saving, may_go_on = threading.Event(), threading.Event()
    finish = ChatStore.finish

    def slow(self: ChatStore, *args: Any) -> None:
        saving.set()
        assert may_go_on.wait(20)
        finish(self, *args)

    async def chat() -> None:
        monkeypatch.setattr(ChatStore, "finish", slow)
        here.talk.send(here.visit, "hello", GREEDY)
        await until(saving.is_set)
        with pytest.raises(ReplyBusyError):
            here.talk.send(here.visit, "and on", GREEDY)
        may_go_on.set()
        await here.ended()
        assert texts(here.branch) == ["hello", "base heard: hello "]
        here.talk.send(here.visit, "and on", GREEDY)
        await here.ended()

    run(chat())
    assert texts(here.branch)[2:] == ["and on", "base heard: and on "]


def test_replies_a_fault_in_saving_does_not_leave_the_chat_busy(
    world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = world(FakeEngine(echo))

    def broken(*args: Any) -> None:
        raise ValueError("a fault")

    async def chat() -> None:
        monkeypatch.setattr(here.replies, "_finish", broken)
        here.talk.send(here.visit, "hello", GREEDY)
        (reply,) = here.replies.active_in_chat(here.visit.chat or "")
        await here.ended()
        assert reply.task
        await asyncio.wait([reply.task])
        assert isinstance(reply.task.exception(), ValueError)
        here.replies._saver.cancel()  # type: ignore[union-attr]

    run(chat())
