"""The engine over a server elsewhere: what it asks for, what it makes of the answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse

from model.text.tokenizer import Tokenizer
from model.types import (
    BusyError,
    ChatRequest,
    CompletionRequest,
    Delta,
    EngineError,
    FinishReason,
    LinlyError,
    Message,
    NotReadyError,
    RequestError,
    Sampling,
)
from tests.model.engine.remote.conftest import Open, ask, text
from tests.model.engine.remote.fake_server import Server, refusal

Encode = Callable[[str], list[int]]

HELLO = (Message("user", "Hello, 世界"),)


def test_a_chat_is_rendered_here(opened: Open, server: Server, tokenizer: Tokenizer) -> None:
    manager = opened(server)
    said = ask(manager, ChatRequest(HELLO, sampling=Sampling(seed=5)))
    (asked,) = server.asked
    assert tokenizer.decode(asked["prompt"]) == "user\nHello, 世界\nassistant\n"
    assert text(said) == f"tiny read {len(asked['prompt'])}"
    stats = said[-1].stats
    assert stats
    assert said[-1].finish_reason is FinishReason.STOP
    assert (stats.prompt_tokens, stats.seed) == (len(asked["prompt"]), 5)
    assert stats.completion_tokens == len(tokenizer_ids(server, text(said)))


def tokenizer_ids(server: Server, said: str) -> list[int]:
    assert server.encode
    return list(server.encode(said))


def test_what_is_wished_for_arrives(opened: Open, server: Server) -> None:
    manager = opened(server)
    wishes = Sampling(
        max_tokens=9, min_tokens=2, temperature=0.5, top_k=7, top_p=0.8, min_p=0.1,
        repetition_penalty=1.2, seed=3, stop=("x", "y"), logprobs=2, presence_penalty=0.3,
        frequency_penalty=0.4, logit_bias=((5, -1.0),),
    )  # fmt: skip
    ask(manager, CompletionRequest("abc", sampling=wishes, affinity="chat 7 名"))
    (asked,) = server.asked
    told = {
        "max_tokens": 9, "min_tokens": 2, "temperature": 0.5, "top_k": 7, "top_p": 0.8,
        "min_p": 0.1, "repetition_penalty": 1.2, "seed": 3, "stop": ["x", "y"], "logprobs": 2,
        "presence_penalty": 0.3, "frequency_penalty": 0.4, "logit_bias": {"5": -1.0},
        "stop_token_ids": [2], "model": "tiny", "stream": True,
    }  # fmt: skip
    assert asked.items() >= told.items()
    assert server.headers[0]["x-session-id"] == "chat 7 540d"


def test_what_is_off_is_not_sent(opened: Open, server: Server) -> None:
    """Servers that are no vLLM refuse fields that they do not know."""
    manager = opened(server)
    wishes = Sampling(temperature=0, top_k=0, top_p=1.0)
    ask(manager, CompletionRequest("abc", sampling=wishes))
    sent = server.asked[0].keys()
    assert not sent & {
        "top_k", "top_p", "min_p", "repetition_penalty", "min_tokens", "ignore_eos",
        "presence_penalty", "frequency_penalty", "logit_bias", "logprobs",
    }  # fmt: skip


def test_a_drawn_seed_is_told(opened: Open, server: Server) -> None:
    """So that the reply can be made again."""
    said = ask(opened(server), ChatRequest(HELLO))
    assert said[-1].stats
    assert said[-1].stats.seed == server.asked[0]["seed"]


def test_characters_come_whole(opened: Open, server: Server, encode: Encode) -> None:
    server.script = lambda body: encode("你好，世界！🙂")
    said = ask(opened(server), ChatRequest(HELLO))
    assert text(said) == "你好，世界！🙂"
    assert all("�" not in delta.text for delta in said)


@pytest.mark.parametrize("told", [True, False])
def test_stop_strings_end_a_reply_wherever_they_are_cut(
    opened: Open, server: Server, encode: Encode, told: bool
) -> None:
    server.script = lambda body: encode("one two STOP three four")
    server.text = None if told else lambda ids: decoded(server, ids)
    said = ask(opened(server), ChatRequest(HELLO, sampling=Sampling(stop=("STOP",))))
    assert text(said) == "one two "
    assert said[-1].finish_reason is FinishReason.STOP


def decoded(server: Server, ids: object) -> str:
    """ASCII tokens one by one: nothing that a server would have to hold back."""
    return _tokenizer().decode(list(ids))  # type: ignore[call-overload]


_known: list[Tokenizer] = []


def _tokenizer() -> Tokenizer:
    return _known[0]


@pytest.fixture(autouse=True)
def known(tokenizer: Tokenizer) -> None:
    _known[:] = [tokenizer]


def test_a_reply_goes_on_behind_what_was_said(
    opened: Open, server: Server, tokenizer: Tokenizer
) -> None:
    ask(opened(server), ChatRequest(HELLO, so_far="The quick brown"))
    assert tokenizer.decode(server.asked[0]["prompt"]).endswith("assistant\nThe quick brown")


def test_the_end_token_is_no_text(opened: Open, server: Server, encode: Encode) -> None:
    server.script = lambda body: [*encode("done"), 2]
    said = ask(opened(server), ChatRequest(HELLO, sampling=Sampling(logprobs=2)))
    assert text(said) == "done"
    names = [entry.token for delta in said for entry in delta.logprobs]
    assert "".join(names) == "done"  # and its logprob is not told, as here
    first = next(entry for delta in said for entry in delta.logprobs)
    assert [(one.token, one.logprob) for one in first.top] == [("a", -0.5), ("b", -0.7)]


def test_a_server_that_takes_no_ids_is_given_text(
    opened: Open, server: Server, tokenizer: Tokenizer, encode: Encode
) -> None:
    server.encode, server.accepts_token_ids = None, False
    server.text = lambda ids: tokenizer.decode(list(ids))
    server.script = lambda body: encode("as text")
    said = ask(opened(server), ChatRequest(HELLO))
    prompt = server.asked[0]["prompt"]
    assert prompt == (
        "<|im_start|>user\nHello, 世界<|im_end|>\n<|im_start|>assistant\n"
    ).removeprefix("" if not tokenizer.prefix_ids else "<|im_start|>")
    assert text(said) == "as text"


def test_a_server_that_does_not_tell_its_ids_is_tried(opened: Open, server: Server) -> None:
    server.encode = lambda said: []
    assert opened(server).status().ready


def test_a_server_of_llama_cpp_s(opened: Open, server: Server, encode: Encode) -> None:
    """It has the same path for ids, with another word for the text, and logprobs as chats do."""
    server.llama, server.text = True, lambda ids: decoded(server, ids)
    server.script = lambda body: encode("one two")
    said = ask(opened(server), ChatRequest(HELLO, sampling=Sampling(logprobs=1)))
    assert isinstance(server.asked[0]["prompt"], list)
    assert text(said) == "one two"
    entries = [entry for delta in said for entry in delta.logprobs]
    assert "".join(entry.token for entry in entries) == "one two"
    assert [(one.token, one.logprob) for one in entries[0].top] == [("a", -0.5)]


def test_more_stop_strings_than_servers_take(opened: Open, server: Server, encode: Encode) -> None:
    server.script = lambda body: encode("one two STOP three")
    stops = (*(f"never {i}" for i in range(18)), "\ud800", "STOP")
    said = ask(opened(server), ChatRequest(HELLO, sampling=Sampling(stop=stops)))
    assert text(said) == "one two "
    assert len(server.asked[0]["stop"]) == 16


def test_the_context_is_the_shorter_one(opened: Open, server: Server) -> None:
    server.longest = 100
    assert opened(server).context_length == 100
    server.longest = 100_000
    assert opened(server).context_length == 512
    assert opened(server, context_length=64).context_length == 64


# Refusals


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (refusal(429, "busy", **{"Retry-After": "7"}), BusyError, "about 7 s"),
        (refusal(400, "max_tokens is too large"), RequestError, "max_tokens is too large"),
        (refusal(401, "Unauthorized"), EngineError, "--engine_key"),
        (refusal(500, "EngineCore died"), EngineError, "EngineCore died"),
        (refusal(503, "no replica"), NotReadyError, "not ready"),
        (PlainTextResponse("upstream\nis away", 502), NotReadyError, "not ready"),
        (PlainTextResponse("<html>", 404), LinlyError, "<html>"),
    ],
    ids=lambda value: str(getattr(value, "status_code", "")),
)
def test_a_refusal_keeps_its_kind(
    opened: Open, server: Server, answer: PlainTextResponse, kind: type[LinlyError], says: str
) -> None:
    server.refuse = answer
    manager = opened(server)
    with pytest.raises(kind) as caught:
        ask(manager, ChatRequest(HELLO))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert manager.status().running == manager.status().waiting == 0


def test_other_strengths_are_refused(opened: Open, server: Server) -> None:
    manager = opened(server)
    with pytest.raises(RequestError, match="strength 1"):
        ask(manager, ChatRequest(HELLO, adapter="qv", adapter_scale=0.5))
    assert text(ask(manager, ChatRequest(HELLO, adapter="qv", adapter_scale=0))).startswith("tiny")


def test_reading_ahead_is_left_to_the_server(opened: Open, server: Server) -> None:
    import asyncio

    manager = opened(server)

    async def read() -> list[Delta]:
        request = ChatRequest((*HELLO, Message("assistant", "Yes.")))
        return [delta async for burst in manager.read_ahead(request) for delta in burst]

    assert asyncio.run(read())[-1].finish_reason is FinishReason.STOP
    assert server.asked == []


# The wrong server


@pytest.mark.parametrize("name", ["tiny", "models/tiny", "org/tiny", "whatever"])
def test_the_base_is_known_by_any_name_if_it_is_the_only_one(
    opened: Open, server: Server, name: str
) -> None:
    server.base = name
    manager = opened(server)
    assert manager.status().ready
    assert text(ask(manager, ChatRequest(HELLO))).startswith(name)


@pytest.mark.parametrize("llama", [False, True])
def test_another_tokenizer_is_refused(opened: Open, server: Server, llama: bool) -> None:
    server.llama = llama
    server.encode = lambda said: [ord(letter) % 300 for letter in said]
    status = opened(server).status()
    assert "another tokenizer than tiny" in (status.error or "")


def test_ids_that_there_are_not_are_another_tokenizers(
    opened: Open, server: Server, encode: Encode
) -> None:
    server.encode = lambda said: [*encode(said), 40_000]
    assert "another tokenizer" in (opened(server).status().error or "")


def test_a_space_more_in_front_is_none(opened: Open, server: Server, encode: Encode) -> None:
    server.encode = lambda said: [5, *encode(said)]
    assert opened(server).status().ready


def test_the_key_is_sent(opened: Open, server: Server) -> None:
    server.key = "sesame"
    assert opened(server, engine_key="sesame").status().ready
    status = opened(server, engine_key="wrong").status()
    assert "--engine_key" in (status.error or "")
    assert "wrong" not in (status.error or "")


def test_a_base_without_weights_will_do(
    opened: Open, server: Server, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    manager = opened(server, base_model=str(folder))
    assert text(ask(manager, ChatRequest(HELLO))).startswith("tiny read")
