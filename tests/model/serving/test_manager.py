"""The one door over a real engine: replies that go on, chats that are measured and read ahead."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from model.config.settings import CHECKOUT, Settings
from model.errors import NotReadyError, PromptTooLongError, RequestError, UnknownModelError
from model.serving.manager import Bursts, ModelManager
from model.types import (
    ChatRequest,
    ContextUsage,
    Delta,
    Detokenizer,
    Emit,
    EngineRequest,
    FinishReason,
    Message,
    Sampling,
    Stats,
    TruncatedTurns,
)
from tests.model.text.test_prompt import chat

GREEDY = Sampling(temperature=0, max_tokens=32, ignore_eos=True)
CONTEXT = 512  # the tiny model's
REST = tuple(chat("Hello there", "The quick brown fox. 你好", "x = 1?", "jumps over the lazy dog"))
QUESTION = Message("user", "How are you today?")


@contextmanager
def managing(base: Path, adapters: Path, cache: Path) -> Iterator[ModelManager]:
    made = ModelManager(
        Settings(
            base_model=str(base), adapters_dir=adapters, quantization="none",
            prompts_dir=CHECKOUT / "prompts", cache_dir=cache,
        )
    )  # fmt: skip
    made.start()
    assert made.wait(120).ready
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def manager(tiny_folder: Path, tiny_adapters: Path, tmp_path: Path) -> Iterator[ModelManager]:
    with managing(tiny_folder, tiny_adapters, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def other(
    tiny_folder: Path, tiny_adapters: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelManager]:
    """One whose cache no test looks at."""
    with managing(tiny_folder, tiny_adapters, tmp_path_factory.mktemp("cache")) as made:
        yield made


def deltas(bursts: Bursts) -> list[Delta]:
    async def every() -> list[Delta]:
        return [delta async for burst in bursts for delta in burst]

    return asyncio.run(every())


def stats(made: list[Delta]) -> Stats:
    assert made[-1].stats
    return made[-1].stats


def text(made: list[Delta]) -> str:
    return "".join(delta.text for delta in made)


def asked(*messages: Message, **wishes: object) -> ChatRequest:
    return ChatRequest(messages, **{"sampling": GREEDY, **wishes})  # type: ignore[arg-type]


# Replies that go on


@dataclass
class Noting:
    """A detokenizer that tells which ids it got, and what each of them gave."""

    inner: Detokenizer
    ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    def push(self, token_id: int) -> str:
        self.ids.append(token_id)
        self.pieces.append(self.inner.push(token_id))
        return self.pieces[-1]

    def flush(self) -> str:
        return self.inner.flush()

    def token_text(self, token_id: int) -> str:
        return self.inner.token_text(token_id)


class Watched:
    """A manager's chats with the ids that its engine got and chose."""

    def __init__(self, manager: ModelManager, monkeypatch: pytest.MonkeyPatch) -> None:
        serving = manager._loader.state.backend
        assert serving
        self._manager, self._submit = manager, serving.engine.submit
        monkeypatch.setattr(serving.engine, "submit", self._noting)

    def _noting(self, request: EngineRequest, emit: Emit) -> None:
        self.prompt, self.said = tuple(request.prompt_ids), Noting(request.detokenizer)
        self._submit(replace(request, detokenizer=self.said), emit)

    def ask(self, request: ChatRequest, **changes: object) -> str:
        another = replace(request, **{"id": uuid.uuid4().hex, **changes})  # type: ignore[arg-type]
        return text(deltas(self._manager.chat(another)))

    def cuts(self, request: ChatRequest) -> tuple[str, dict[str, tuple[int, ...]]]:
        """A reply, and how it may begin, with the ids that stand there by then."""
        whole = self.ask(request)
        prompt, said = self.prompt, self.said
        return whole, {
            request.so_far + "".join(said.pieces[:end]): (*prompt, *said.ids[:end])
            for end in reversed(range(1, len(said.ids)))
        }


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, "all", "extended"])
def test_a_cut_reply_goes_on_to_the_same_end(
    other: ModelManager, adapter: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its text has the same ids again: a random model says little that is text at all."""
    watched, compared = Watched(other, monkeypatch), 0
    for so_far in ("", "The quick", "x = 1 ", "你好，", "hello\n", "brown f", "a", "🙂", " "):
        request = asked(QUESTION, adapter=adapter, so_far=so_far)
        whole, beginnings = watched.cuts(request)
        for beginning, ids in beginnings.items():
            rest = watched.ask(request, so_far=beginning)
            if watched.prompt == ids:
                compared += 1
                both = beginning + rest
                assert both[: len(so_far + whole)] == (so_far + whole)[: len(both)]
    assert compared >= 5


def test_only_what_comes_after_is_told_and_counted(other: ModelManager) -> None:
    request = asked(QUESTION, so_far="Hello ", sampling=Sampling(temperature=0, max_tokens=4))
    made = deltas(other.chat(request))
    assert stats(made).completion_tokens <= 4
    assert not text(made).startswith("Hello")
    assert stats(made).prompt_tokens == other.context_usage(request).tokens


# Measuring


@pytest.mark.parametrize("adapter", [None, "extended"])
def test_measured_is_what_a_chat_takes(other: ModelManager, adapter: str | None) -> None:
    for request in (
        asked(QUESTION, adapter=adapter),
        asked(*REST, QUESTION, adapter=adapter),
        asked(Message("system", "Be kind."), QUESTION, adapter=adapter, so_far="Yes, "),
    ):
        measured = other.context_usage(request)
        assert measured == ContextUsage(measured.tokens, CONTEXT)
        assert measured.tokens == stats(deltas(other.chat(request))).prompt_tokens


def test_measured_at_rest_is_less_than_with_a_question(other: ModelManager) -> None:
    rest, more = (
        other.context_usage(asked(*REST)).tokens,
        other.context_usage(asked(*REST, QUESTION)).tokens,
    )
    assert 0 < other.context_usage(asked(*REST[:2])).tokens < rest < more


def test_measured_drops_what_the_chat_drops(other: ModelManager) -> None:
    long = chat(*["The quick brown fox. " * 5, "hello " * 9] * 6)
    request = asked(*long, QUESTION, drop_oldest=True)
    first, *_, last = deltas(other.chat(request))
    measured = other.context_usage(request)
    assert measured.dropped == first.dropped
    assert isinstance(measured.dropped, TruncatedTurns)
    assert last.stats
    assert measured.tokens == last.stats.prompt_tokens
    assert other.context_usage(asked(*long, drop_oldest=True)).dropped


def test_an_empty_chat_is_measured(other: ModelManager) -> None:
    assert other.context_usage(asked()) == ContextUsage(0, CONTEXT)
    system = other.context_usage(asked(Message("system", "Be kind.")))
    assert 0 < system.tokens < 30


def test_measuring_loads_no_adapter(other: ModelManager, monkeypatch: pytest.MonkeyPatch) -> None:
    serving = other._loader.state.backend
    assert serving
    monkeypatch.setattr(serving.engine, "prepare", None)
    assert other.context_usage(asked(QUESTION, adapter="rs")).tokens


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (asked(QUESTION, adapter="nobody"), UnknownModelError),
        (asked(QUESTION, template="nothing"), RequestError),
        (asked(QUESTION, adapter_scale=9.0), RequestError),
        (asked(Message("user", "hello " * 600)), PromptTooLongError),
        (asked(QUESTION, so_far="hello " * 600, drop_oldest=True), PromptTooLongError),
    ],
)
def test_measuring_and_reading_raise_as_chat_does(
    other: ModelManager, request_: ChatRequest, error: type[Exception]
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: deltas(other.chat(request_)),
        lambda: deltas(other.read_ahead(request_)),
        lambda: other.context_usage(request_),
    ]
    for call in calls:
        with pytest.raises(error):
            call()


def test_before_it_is_loaded_nothing_is_known() -> None:
    made = ModelManager(Settings())
    assert made.context_length is None
    with pytest.raises(NotReadyError):
        made.context_usage(asked(QUESTION))
    with pytest.raises(NotReadyError):
        deltas(made.read_ahead(asked(*REST)))


def test_the_context_is_the_engines(other: ModelManager) -> None:
    assert other.context_length == CONTEXT


# Reading ahead


@pytest.mark.parametrize(
    ("adapter", "scale"), [(None, 1.0), ("all", 1.0), ("all", 0.5), ("extended", 1.0)]
)
def test_the_next_question_finds_what_was_read(
    manager: ModelManager, other: ModelManager, adapter: str | None, scale: float
) -> None:
    rest = asked(*REST, adapter=adapter, adapter_scale=scale)
    (last,) = deltas(manager.read_ahead(rest))
    assert (last.text, last.finish_reason) == ("", FinishReason.STOP)
    assert last.stats
    read = last.stats
    assert (read.completion_tokens, read.cached_tokens, read.adapter) == (0, 0, adapter)
    assert read.prompt_tokens == manager.context_usage(rest).tokens
    question = asked(*REST, QUESTION, adapter=adapter, adapter_scale=scale)
    made = deltas(manager.chat(question))
    assert stats(made).cached_tokens >= read.prompt_tokens - 2
    assert text(made) == text(deltas(other.chat(question)))


def test_behind_a_reply_only_its_end_is_read(manager: ModelManager) -> None:
    """The chat's own turn has been computed; what a template puts behind it has not."""
    said = text(deltas(manager.chat(asked(QUESTION, so_far="Hello there"))))
    rest = asked(QUESTION, Message("assistant", "Hello there" + said))
    read = stats(deltas(manager.read_ahead(rest)))
    assert 16 <= read.cached_tokens < read.prompt_tokens
    again = stats(deltas(manager.read_ahead(rest)))
    assert again.cached_tokens == again.prompt_tokens == read.prompt_tokens


def test_an_empty_chat_is_read_in_no_time(manager: ModelManager) -> None:
    (last,) = deltas(manager.read_ahead(asked()))
    assert last.finish_reason is FinishReason.STOP
    assert stats([last]).prompt_tokens == 0


def test_reading_that_was_aborted_before_it_began_ends(manager: ModelManager) -> None:
    request = asked(*REST)
    bursts = manager.read_ahead(request)
    manager.abort(request.id)
    assert deltas(bursts)[-1].finish_reason is FinishReason.ABORT


# The embedded default


@pytest.mark.real_model
@pytest.mark.slow
@pytest.mark.parametrize(
    "question", ["Name three colours of the rainbow.", "Write a haiku about the sea 🌊.", "你好！"]
)
def test_the_embedded_default_goes_on(
    question: str, default_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(Message("user", question), sampling=Sampling(temperature=0, max_tokens=60))
    with managing(default_folder, CHECKOUT / "adapters", tmp_path) as manager:
        watched = Watched(manager, monkeypatch)
        whole, beginnings = watched.cuts(request)
        before, compared = manager.context_usage(request).tokens, 0
        chosen = list(beginnings.items())[::6]
        for so_far, ids in chosen:
            left = replace(request.sampling, max_tokens=60 - (len(ids) - before))
            rest = watched.ask(request, so_far=so_far, sampling=left)
            if watched.prompt == ids:
                compared += 1
                assert so_far + rest == whole
    assert compared >= len(chosen) // 2
