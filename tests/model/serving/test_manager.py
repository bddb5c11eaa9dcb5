"""ModelManager over a real engine: continued replies, context usage and prefill."""

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
from model.sampling import Sampling
from model.serving.delta_queue import DeltaStream
from model.serving.manager import ModelManager
from model.types import (
    ChatRequest,
    ContextUsage,
    Delta,
    Detokenizer,
    Emit,
    EngineRequest,
    FinishReason,
    Message,
    Stats,
    TruncatedTurns,
)
from tests.model.text.test_prompt import chat

GREEDY = Sampling(temperature=0, max_tokens=32, ignore_eos=True)
CONTEXT = 512  # the tiny model's
CHAT = tuple(chat("Hello there", "The quick brown fox. 你好", "x = 1?", "jumps over the lazy dog"))
QUESTION = Message("user", "How are you today?")


@contextmanager
def open_manager(base: Path, adapters: Path, cache: Path) -> Iterator[ModelManager]:
    manager = ModelManager(
        Settings(
            base_model=str(base), adapters_dir=adapters, quantization="none",
            prompts_dir=CHECKOUT / "prompts", cache_dir=cache, threads=1,
        )
    )  # fmt: skip
    manager.start()
    assert manager.wait(120).ready
    try:
        yield manager
    finally:
        manager.close()


@pytest.fixture
def manager(tiny_folder: Path, tiny_adapters: Path, tmp_path: Path) -> Iterator[ModelManager]:
    with open_manager(tiny_folder, tiny_adapters, tmp_path) as manager:
        yield manager


@pytest.fixture(scope="module")
def other(
    tiny_folder: Path, tiny_adapters: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelManager]:
    """A manager for tests that do not depend on what is cached."""
    with open_manager(tiny_folder, tiny_adapters, tmp_path_factory.mktemp("cache")) as manager:
        yield manager


def deltas(stream: DeltaStream) -> list[Delta]:
    async def collect() -> list[Delta]:
        return [delta async for batch in stream for delta in batch]

    return asyncio.run(collect())


def stats(reply: list[Delta]) -> Stats:
    assert reply[-1].stats
    return reply[-1].stats


def text(reply: list[Delta]) -> str:
    return "".join(delta.text for delta in reply)


def chat_request(*messages: Message, **fields: object) -> ChatRequest:
    return ChatRequest(messages, **{"sampling": GREEDY, **fields})  # type: ignore[arg-type]


# Continued replies


@dataclass
class RecordingDetokenizer:
    """Records the ids that it got, and the text of each."""

    inner: Detokenizer
    ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def push(self, token_id: int) -> str:
        self.ids.append(token_id)
        self.texts.append(self.inner.push(token_id))
        return self.texts[-1]

    def flush(self) -> str:
        return self.inner.flush()

    def token_bytes(self, token_id: int) -> bytes:
        return self.inner.token_bytes(token_id)


class RecordingManager:
    """Runs chats, and records the ids that the engine got and chose."""

    def __init__(self, manager: ModelManager, monkeypatch: pytest.MonkeyPatch) -> None:
        assert manager.backend
        self._manager, self._submit = manager, manager.backend.engine.submit
        monkeypatch.setattr(manager.backend.engine, "submit", self._record)

    def _record(self, request: EngineRequest, emit: Emit) -> None:
        self.prompt = tuple(request.prompt_ids)
        self.detokenizer = RecordingDetokenizer(request.detokenizer)
        self._submit(replace(request, detokenizer=self.detokenizer), emit)

    def ask(self, request: ChatRequest, **changes: object) -> str:
        changed = replace(request, **{"id": uuid.uuid4().hex, **changes})  # type: ignore[arg-type]
        return text(deltas(self._manager.chat(changed)))

    def cuts(self, request: ChatRequest) -> tuple[str, dict[str, tuple[int, ...]]]:
        """Returns a reply, and its beginnings with the ids of the prompt and the beginning."""
        reply = self.ask(request)
        prompt, texts, ids = self.prompt, self.detokenizer.texts, self.detokenizer.ids
        return reply, {
            request.so_far + "".join(texts[:end]): (*prompt, *ids[:end])
            for end in reversed(range(1, len(ids)))
        }


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, "all", "extended"])
def test_cut_greedy_reply_is_completed_to_the_same_text(
    other: ModelManager, adapter: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared only where the text has the same ids again: a random model emits few such texts."""
    recording, compared = RecordingManager(other, monkeypatch), 0
    for so_far in ("", "The quick", "x = 1 ", "你好，", "hello\n", "brown f", "a", "🙂", " "):
        request = chat_request(QUESTION, adapter=adapter, so_far=so_far)
        reply, beginnings = recording.cuts(request)
        full_text = so_far + reply
        for beginning, ids in beginnings.items():
            if other.context_usage(replace(request, so_far=beginning)).tokens != len(ids):
                continue  # other ids, for which no reply is needed
            continuation = recording.ask(request, so_far=beginning)
            if recording.prompt == ids:
                compared += 1
                continued = beginning + continuation
                assert continued[: len(full_text)] == full_text[: len(continued)]
    assert compared >= 5


def test_continued_reply_emits_and_counts_only_new_text(other: ModelManager) -> None:
    request = chat_request(
        QUESTION, so_far="Hello ", sampling=Sampling(temperature=0, max_tokens=4)
    )
    reply = deltas(other.chat(request))
    assert stats(reply).completion_tokens <= 4
    assert not text(reply).startswith("Hello")
    assert stats(reply).prompt_tokens == other.context_usage(request).tokens


# Context usage


@pytest.mark.parametrize("adapter", [None, "extended"])
def test_context_usage_equals_the_prompt_tokens_of_a_chat(
    other: ModelManager, adapter: str | None
) -> None:
    for request in (
        chat_request(QUESTION, adapter=adapter),
        chat_request(*CHAT, QUESTION, adapter=adapter),
        chat_request(Message("system", "Be kind."), QUESTION, adapter=adapter, so_far="Yes, "),
    ):
        usage = other.context_usage(request)
        assert usage == ContextUsage(usage.tokens, CONTEXT)
        assert usage.tokens == stats(deltas(other.chat(request))).prompt_tokens


def test_context_usage_is_less_without_a_question(other: ModelManager) -> None:
    idle, with_question = (
        other.context_usage(chat_request(*CHAT)).tokens,
        other.context_usage(chat_request(*CHAT, QUESTION)).tokens,
    )
    assert 0 < other.context_usage(chat_request(*CHAT[:2])).tokens < idle < with_question


def test_context_usage_drops_what_the_chat_drops(other: ModelManager) -> None:
    long = chat(*["The quick brown fox. " * 5, "hello " * 9] * 6)
    request = chat_request(*long, QUESTION, drop_oldest=True)
    first, *_, last = deltas(other.chat(request))
    usage = other.context_usage(request)
    assert usage.dropped == first.dropped
    assert isinstance(usage.dropped, TruncatedTurns)
    assert last.stats
    assert usage.tokens == last.stats.prompt_tokens
    assert other.context_usage(chat_request(*long, drop_oldest=True)).dropped


def test_context_usage_of_an_empty_chat(other: ModelManager) -> None:
    assert other.context_usage(chat_request()) == ContextUsage(0, CONTEXT)
    system = other.context_usage(chat_request(Message("system", "Be kind.")))
    assert 0 < system.tokens < 30


def test_context_usage_loads_no_adapter(
    other: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert other.backend
    monkeypatch.setattr(other.backend.engine, "prepare", None)
    assert other.context_usage(chat_request(QUESTION, adapter="rs")).tokens


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (chat_request(QUESTION, adapter="nobody"), UnknownModelError),
        (chat_request(QUESTION, template="nothing"), RequestError),
        (chat_request(QUESTION, adapter_scale=9.0), RequestError),
        (chat_request(Message("user", "hello " * 600)), PromptTooLongError),
        (chat_request(QUESTION, so_far="hello " * 600, drop_oldest=True), PromptTooLongError),
    ],
)
def test_context_usage_and_prefill_raise_as_chat_does(
    other: ModelManager, request_: ChatRequest, error: type[Exception]
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: deltas(other.chat(request_)),
        lambda: deltas(other.prefill(request_)),
        lambda: other.context_usage(request_),
    ]
    for call in calls:
        with pytest.raises(error):
            call()


def test_manager_is_not_ready_before_loading() -> None:
    manager = ModelManager(Settings())
    assert manager.context_length is None
    with pytest.raises(NotReadyError):
        manager.context_usage(chat_request(QUESTION))
    with pytest.raises(NotReadyError):
        deltas(manager.prefill(chat_request(*CHAT)))


def test_context_length_is_the_engines(other: ModelManager) -> None:
    assert other.context_length == CONTEXT


# Prefill


@pytest.mark.parametrize(
    ("adapter", "adapter_scale"), [(None, 1.0), ("all", 1.0), ("all", 0.5), ("extended", 1.0)]
)
def test_next_question_reuses_the_prefill(
    manager: ModelManager, other: ModelManager, adapter: str | None, adapter_scale: float
) -> None:
    request = chat_request(*CHAT, adapter=adapter, adapter_scale=adapter_scale)
    (last,) = deltas(manager.prefill(request))
    assert (last.text, last.finish_reason) == ("", FinishReason.STOP)
    assert last.stats
    prefill = last.stats
    assert (prefill.completion_tokens, prefill.cached_tokens, prefill.adapter) == (0, 0, adapter)
    assert prefill.prompt_tokens == manager.context_usage(request).tokens
    question = chat_request(*CHAT, QUESTION, adapter=adapter, adapter_scale=adapter_scale)
    reply = deltas(manager.chat(question))
    assert stats(reply).cached_tokens >= prefill.prompt_tokens - 2
    assert text(reply) == text(deltas(other.chat(question)))


def test_prefill_after_a_reply_computes_only_its_end(manager: ModelManager) -> None:
    """The reply is cached; the text that the template adds after it is not."""
    reply = text(deltas(manager.chat(chat_request(QUESTION, so_far="Hello there"))))
    request = chat_request(QUESTION, Message("assistant", "Hello there" + reply))
    first = stats(deltas(manager.prefill(request)))
    assert 16 <= first.cached_tokens < first.prompt_tokens
    again = stats(deltas(manager.prefill(request)))
    assert again.cached_tokens == again.prompt_tokens == first.prompt_tokens


def test_prefill_of_an_empty_chat_ends_at_once(manager: ModelManager) -> None:
    (last,) = deltas(manager.prefill(chat_request()))
    assert last.finish_reason is FinishReason.STOP
    assert stats([last]).prompt_tokens == 0


def test_prefill_aborted_before_its_start_ends(manager: ModelManager) -> None:
    request = chat_request(*CHAT)
    stream = manager.prefill(request)
    manager.abort(request.id)
    assert deltas(stream)[-1].finish_reason is FinishReason.ABORT


# The embedded default


@pytest.fixture(scope="module")
def default(
    default_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelManager]:
    adapters = CHECKOUT / "adapters"
    with open_manager(default_folder, adapters, tmp_path_factory.mktemp("cache")) as manager:
        yield manager


@pytest.mark.real_model
@pytest.mark.slow
@pytest.mark.parametrize(
    "question", ["Name three colours of the rainbow.", "Write a haiku about the sea 🌊.", "你好！"]
)
def test_embedded_default_completes_a_cut_reply(
    question: str, default: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = chat_request(
        Message("user", question), sampling=Sampling(temperature=0, max_tokens=60)
    )
    recording = RecordingManager(default, monkeypatch)
    reply, beginnings = recording.cuts(request)
    before, compared = default.context_usage(request).tokens, 0
    chosen = list(beginnings.items())[::12]
    for so_far, ids in chosen:
        sampling = replace(request.sampling, max_tokens=60 - (len(ids) - before))
        continuation = recording.ask(request, so_far=so_far, sampling=sampling)
        if recording.prompt == ids:
            compared += 1
            assert so_far + continuation == reply
    assert compared >= len(chosen) // 2
