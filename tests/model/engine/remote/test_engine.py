"""The remote engine: its requests to the server, and its replies from the responses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse

from model.errors import BusyError, EngineError, LinlyError, NotReadyError, RequestError
from model.sampling import Sampling
from model.serving.delta_queue import DeltaBatch
from model.serving.manager import ModelManager
from model.text.tokenizer import Tokenizer
from model.types import ChatRequest, CompletionRequest, Delta, FinishReason, Message
from tests.model.engine.remote.conftest import ManagerOpener, ask, text
from tests.model.engine.remote.fake_server import Server, refusal

Encode = Callable[[str], list[int]]

HELLO = (Message("user", "Hello, 世界"),)


def test_a_chat_is_rendered_by_this_program(
    open_manager: ManagerOpener, server: Server, tokenizer: Tokenizer
) -> None:
    manager = open_manager(server)
    deltas = ask(manager, ChatRequest(HELLO, sampling=Sampling(seed=5)))
    (request,) = server.requests
    assert tokenizer.decode(request["prompt"]) == "user\nHello, 世界\nassistant\n"
    assert text(deltas) == f"tiny read {len(request['prompt'])}"
    stats = deltas[-1].stats
    assert stats
    assert deltas[-1].finish_reason is FinishReason.STOP
    assert (stats.prompt_tokens, stats.seed) == (len(request["prompt"]), 5)
    assert stats.completion_tokens == len(encoded(server, text(deltas)))


def encoded(server: Server, reply: str) -> list[int]:
    assert server.encode
    return list(server.encode(reply))


def test_sampling_parameters_are_sent(open_manager: ManagerOpener, server: Server) -> None:
    manager = open_manager(server)
    sampling = Sampling(
        max_tokens=9, min_tokens=2, temperature=0.5, top_k=7, top_p=0.8, min_p=0.1,
        repetition_penalty=1.2, seed=3, stop=("x", "y"), logprobs=2, presence_penalty=0.3,
        frequency_penalty=0.4, logit_bias=((5, -1.0),),
    )  # fmt: skip
    ask(manager, CompletionRequest("abc", sampling=sampling, affinity="chat 7 名"))
    (request,) = server.requests
    expected = {
        "max_tokens": 9, "min_tokens": 2, "temperature": 0.5, "top_k": 7, "top_p": 0.8,
        "min_p": 0.1, "repetition_penalty": 1.2, "seed": 3, "stop": ["x", "y"], "logprobs": 2,
        "presence_penalty": 0.3, "frequency_penalty": 0.4, "logit_bias": {"5": -1.0},
        "stop_token_ids": [2], "model": "tiny", "stream": True,
    }  # fmt: skip
    assert request.items() >= expected.items()
    assert server.headers[0]["x-session-id"] == "chat 7 540d"


def test_parameters_that_are_off_are_not_sent(open_manager: ManagerOpener, server: Server) -> None:
    """Servers other than vLLM refuse fields that they do not know."""
    manager = open_manager(server)
    sampling = Sampling(temperature=0, top_k=0, top_p=1.0)
    ask(manager, CompletionRequest("abc", sampling=sampling))
    sent = server.requests[0].keys()
    assert not sent & {
        "top_k", "top_p", "min_p", "repetition_penalty", "min_tokens", "ignore_eos",
        "presence_penalty", "frequency_penalty", "logit_bias", "logprobs",
    }  # fmt: skip


def test_a_drawn_seed_is_in_the_stats(open_manager: ManagerOpener, server: Server) -> None:
    """With it the reply can be reproduced."""
    deltas = ask(open_manager(server), ChatRequest(HELLO))
    assert deltas[-1].stats
    assert deltas[-1].stats.seed == server.requests[0]["seed"]


def test_deltas_have_full_characters(
    open_manager: ManagerOpener, server: Server, encode: Encode
) -> None:
    server.script = lambda body: encode("你好，世界！🙂")
    deltas = ask(open_manager(server), ChatRequest(HELLO))
    assert text(deltas) == "你好，世界！🙂"
    assert all("�" not in delta.text for delta in deltas)


@pytest.mark.parametrize("sends_ids", [True, False])
def test_stop_strings_end_a_reply_wherever_it_is_split(
    open_manager: ManagerOpener,
    server: Server,
    tokenizer: Tokenizer,
    encode: Encode,
    sends_ids: bool,
) -> None:
    server.script = lambda body: encode("one two STOP three four")
    # ASCII tokens, one by one: the server need not hold back a part of a character.
    server.text = None if sends_ids else lambda ids: tokenizer.decode(list(ids))
    deltas = ask(open_manager(server), ChatRequest(HELLO, sampling=Sampling(stop=("STOP",))))
    assert text(deltas) == "one two "
    assert deltas[-1].finish_reason is FinishReason.STOP


def test_a_reply_continues_its_first_part(
    open_manager: ManagerOpener, server: Server, tokenizer: Tokenizer
) -> None:
    ask(open_manager(server), ChatRequest(HELLO, so_far="The quick brown"))
    assert tokenizer.decode(server.requests[0]["prompt"]).endswith("assistant\nThe quick brown")


def test_the_end_token_has_a_logprob_and_no_text(
    open_manager: ManagerOpener, server: Server, encode: Encode
) -> None:
    server.script = lambda body: [*encode("done"), 2]
    deltas = ask(open_manager(server), ChatRequest(HELLO, sampling=Sampling(logprobs=2)))
    assert text(deltas) == "done"
    names = [entry.token for delta in deltas for entry in delta.logprobs]
    assert "".join(names) == "done<|im_end|>"  # as with the local engine
    entries = [entry for delta in deltas for entry in delta.logprobs]
    assert entries[0].offset == 0
    assert entries[-1].offset == 4
    first = next(entry for delta in deltas for entry in delta.logprobs)
    assert [(entry.token, entry.logprob) for entry in first.top] == [("a", -0.5), ("b", -0.7)]


def test_logprobs_of_parts_of_characters(
    open_manager: ManagerOpener, server: Server, encode: Encode
) -> None:
    """In OpenAI's form, which this program's own API has too."""
    server.top = {"bytes: \\xe4\\xb8": -0.5, "\\xe4": -0.7}
    server.script = lambda body: encode("x")
    deltas = ask(open_manager(server), ChatRequest(HELLO, sampling=Sampling(logprobs=2)))
    first = next(entry for delta in deltas for entry in delta.logprobs)
    assert [entry.data for entry in first.top] == [b" \xe4\xb8", b"\\xe4"]


@pytest.mark.parametrize(("ignore_eos", "sent"), [(False, [2, 7]), (True, [7])])
def test_stop_tokens_are_sent_and_have_no_text(
    open_manager: ManagerOpener, server: Server, encode: Encode, ignore_eos: bool, sent: list[int]
) -> None:
    server.script = lambda body: [*encode("done"), 7]
    sampling = Sampling(stop_token_ids=(7,), ignore_eos=ignore_eos)
    deltas = ask(open_manager(server), ChatRequest(HELLO, sampling=sampling))
    assert server.requests[0]["stop_token_ids"] == sent
    assert text(deltas) == "done"


def test_a_server_that_sends_no_ids_is_not_asked_to_stop_at_them(
    open_manager: ManagerOpener, server: Server, encode: Encode
) -> None:
    """llama.cpp's server ignores `stop_token_ids`, and would go on."""
    server.script, server.text = lambda body: encode("on and on"), lambda ids: "on "
    request = ChatRequest(HELLO, sampling=Sampling(stop_token_ids=(7,)))
    with pytest.raises(RequestError, match="stop_token_ids"):
        ask(open_manager(server), request)


def test_a_server_that_accepts_no_ids_gets_text(
    open_manager: ManagerOpener, server: Server, tokenizer: Tokenizer, encode: Encode
) -> None:
    server.encode, server.accepts_token_ids = None, False
    server.text = lambda ids: tokenizer.decode(list(ids))
    server.script = lambda body: encode("as text")
    deltas = ask(open_manager(server), ChatRequest(HELLO))
    prompt = server.requests[0]["prompt"]
    assert prompt == (
        "<|im_start|>user\nHello, 世界<|im_end|>\n<|im_start|>assistant\n"
    ).removeprefix("" if not tokenizer.prefix_ids else "<|im_start|>")
    assert text(deltas) == "as text"


def test_a_server_without_tokenize_is_used(open_manager: ManagerOpener, server: Server) -> None:
    server.encode = lambda text: []
    assert open_manager(server).status().ready


def test_a_server_of_llama_cpp_is_used(
    open_manager: ManagerOpener, server: Server, tokenizer: Tokenizer, encode: Encode
) -> None:
    """Its tokenize call has another field for the text; logprobs are as in chat completions."""
    server.llama, server.text = True, lambda ids: tokenizer.decode(list(ids))
    server.script = lambda body: encode("one two")
    deltas = ask(open_manager(server), ChatRequest(HELLO, sampling=Sampling(logprobs=1)))
    assert isinstance(server.requests[0]["prompt"], list)
    assert text(deltas) == "one two"
    entries = [entry for delta in deltas for entry in delta.logprobs]
    assert "".join(entry.token for entry in entries) == "one two"
    assert [(entry.token, entry.logprob) for entry in entries[0].top] == [("a", -0.5)]


def test_more_stop_strings_than_servers_accept_are_applied(
    open_manager: ManagerOpener, server: Server, encode: Encode
) -> None:
    server.script = lambda body: encode("one two STOP three")
    stops = (*(f"never {i}" for i in range(18)), "\ud800", "STOP")
    deltas = ask(open_manager(server), ChatRequest(HELLO, sampling=Sampling(stop=stops)))
    assert text(deltas) == "one two "
    assert len(server.requests[0]["stop"]) == 16


def test_the_context_is_the_shorter_one(open_manager: ManagerOpener, server: Server) -> None:
    server.context_length = 100
    assert open_manager(server).context_length == 100
    server.context_length = 100_000
    assert open_manager(server).context_length == 512
    assert open_manager(server, context_length=64).context_length == 64


# Refusals


@pytest.mark.parametrize(
    ("response", "kind", "message"),
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
def test_an_error_response_becomes_the_error_of_its_kind(
    open_manager: ManagerOpener,
    server: Server,
    response: PlainTextResponse,
    kind: type[LinlyError],
    message: str,
) -> None:
    server.refuse = response
    manager = open_manager(server)
    with pytest.raises(kind) as caught:
        ask(manager, ChatRequest(HELLO))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert manager.status().running == manager.status().waiting == 0


def test_other_adapter_scales_are_refused(open_manager: ManagerOpener, server: Server) -> None:
    manager = open_manager(server)
    with pytest.raises(RequestError, match="strength 1"):
        ask(manager, ChatRequest(HELLO, adapter="qv", adapter_scale=0.5))
    assert text(ask(manager, ChatRequest(HELLO, adapter="qv", adapter_scale=0))).startswith("tiny")


def test_prefill_only_requests_are_not_sent(open_manager: ManagerOpener, server: Server) -> None:
    import asyncio

    manager = open_manager(server)

    async def read() -> list[Delta]:
        request = ChatRequest((*HELLO, Message("assistant", "Yes.")))
        return [delta async for batch in manager.prefill(request) for delta in batch]

    assert asyncio.run(read())[-1].finish_reason is FinishReason.STOP
    assert server.requests == []


# The wrong server


@pytest.mark.parametrize("name", ["tiny", "models/tiny", "org/tiny", "whatever"])
def test_a_single_base_may_have_any_name(
    open_manager: ManagerOpener, server: Server, name: str
) -> None:
    server.base = name
    manager = open_manager(server)
    assert manager.status().ready
    assert text(ask(manager, ChatRequest(HELLO))).startswith(name)


@pytest.mark.parametrize("llama", [False, True])
def test_another_tokenizer_is_refused(
    open_manager: ManagerOpener, server: Server, llama: bool
) -> None:
    server.llama = llama
    server.encode = lambda text: [ord(letter) % 300 for letter in text]
    status = open_manager(server).status()
    assert "another tokenizer than tiny" in str(status.error)


def test_ids_beyond_the_vocabulary_are_another_tokenizer(
    open_manager: ManagerOpener, server: Server, encode: Encode
) -> None:
    server.encode = lambda text: [*encode(text), 40_000]
    assert "another tokenizer" in str(open_manager(server).status().error)


def test_a_leading_space_more_is_the_same_tokenizer(
    open_manager: ManagerOpener, server: Server, encode: Encode
) -> None:
    server.encode = lambda text: [5, *encode(text)]
    assert open_manager(server).status().ready


def test_the_key_is_sent(open_manager: ManagerOpener, server: Server) -> None:
    server.key = "sesame"
    assert open_manager(server, engine_key="sesame").status().ready
    status = open_manager(server, engine_key="wrong").status()
    assert "--engine_key" in str(status.error)
    assert "wrong" not in str(status.error)


def test_a_base_folder_without_weights_is_enough(
    open_manager: ManagerOpener, server: Server, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    manager = open_manager(server, base_model=str(folder))
    assert text(ask(manager, ChatRequest(HELLO))).startswith("tiny read")


def test_requests_beyond_max_waiting_are_refused(
    open_manager: ManagerOpener, server: Server
) -> None:
    server.resume = threading.Event()
    manager = open_manager(server, max_waiting=2)
    assert manager.max_waiting == 2
    requests = [CompletionRequest("Hi", id=f"r{n}") for n in range(3)]

    async def run() -> None:
        waiting = [asyncio.ensure_future(first_batch(manager, r)) for r in requests[:2]]
        while len(server.requests) < 2:
            await asyncio.sleep(0.005)
        with pytest.raises(BusyError, match="2 requests wait already"):
            await first_batch(manager, requests[2])
        server.resume.set()
        await asyncio.gather(*waiting)
        await first_batch(manager, requests[2])

    asyncio.run(run())


async def first_batch(manager: ModelManager, request: CompletionRequest) -> DeltaBatch:
    async with aclosing(manager.complete(request)) as batches:
        return await anext(batches)
