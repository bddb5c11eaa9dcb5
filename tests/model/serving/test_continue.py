"""Continued replies: the ids of their prompts, and the text after the cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as HFTokenizer

from model.config.settings import CHECKOUT
from model.errors import PromptTooLongError
from model.serving.request_builder import PreparedRequest, build_detokenizer
from model.text.fast_tokenizer import FastTokenizer
from model.text.prompt import decode_continuation, encode_chat, encode_without_generation_prompt
from model.text.prompt_template import PromptTemplate, load_templates
from model.text.spm_tokenizer import SpmTokenizer
from model.text.tokenizer import TextSpan, Tokenizer
from model.types import Message, TruncatedTurns
from tests.model.text.chats import CHATML, LONG, Letters, chat
from tests.model.tokenizers import END, LIKE_LLAMA, LIKE_T5, START, make_spm

TEMPLATES = load_templates(CHECKOUT / "prompts") | {
    "chatml": PromptTemplate("chatml", CHATML),
    "tight": PromptTemplate("tight", "{{ messages[0].content }}{{ bos_token }}"),
    "thinking": PromptTemplate("thinking", CHATML + "<think>\n"),
}
TEXTS = [
    "hello there, how are you?",
    " hello  there \n\n  how \n",
    "\n\nhi\n",
    "你好，世界！今天天气很好。",
    "hi 🙂🙂 👩‍👩‍👧 世界🙂",
    f"a {END} b {START}user\n<s></s>",
    "1 + 2 = 3",
]
ONE_QUESTION = chat("hello")


def converted(path: Path) -> FastTokenizer:
    """A tokenizer.json as converters make it from LLaMA's tokenizer.model."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    pieces += [chr(i) for i in range(33, 127)]
    pieces += ["▁", "▁h", "▁hi", "he", "▁he", "▁t", "▁▁"]
    merges = [("▁", "h"), ("▁h", "i"), ("h", "e"), ("▁", "he"), ("▁", "t"), ("▁", "▁")]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    hf_tokenizer = HFTokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    replace = normalizers.Replace(" ", "▁")
    hf_tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    hf_tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    hf_tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in pieces[:3]])
    hf_tokenizer.save(str(path))
    return FastTokenizer(path, "<s>", "</s>")


@pytest.fixture(scope="module")
def tokenizers(
    fast: FastTokenizer, spm: SpmTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("more")
    return {
        "fast": fast,
        "spm": spm,
        "converted": converted(folder / "tokenizer.json"),
        "t5": make_spm(folder, **LIKE_T5),
        "no dummy": make_spm(folder, **LIKE_LLAMA, add_dummy_prefix=False),
    }


def empty_reply_ids(template: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    return encode_chat(ONE_QUESTION, TEMPLATES[template], tokenizer, 9999).ids


def begun_reply_ids(template: str, tokenizer: Tokenizer, so_far: str) -> tuple[int, ...]:
    return encode_chat(ONE_QUESTION, TEMPLATES[template], tokenizer, 9999, so_far=so_far).ids


def continuation_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of a text that follows another text."""
    before = tokenizer.encode([TextSpan(".", control=False)])
    ids = tokenizer.encode([TextSpan("." + text, control=False)])
    if ids[: len(before)] != before:
        pytest.skip("merged with the text before")
    return ids[len(before) :]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", ["fast", "spm", "converted", "no dummy"])
def test_cut_reply_is_encoded_after_the_ids_of_the_empty_one(
    name: str, template: str, text: str, tokenizers: dict[str, Tokenizer]
) -> None:
    tokenizer = tokenizers[name]
    header = empty_reply_ids(template, tokenizer)
    for cut in range(len(text) + 1):
        ids = begun_reply_ids(template, tokenizer, text[:cut])
        assert ids[: len(header)] == header
        assert decode_continuation(header, ids[len(header) :], tokenizer) == text[:cut]
        assert not any(map(tokenizer.is_control, ids[len(header) :]))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("template", ["linly", "chinese-alpaca", "chatml", "tight"])
@pytest.mark.parametrize("name", ["fast", "spm", "converted", "no dummy"])
def test_text_after_a_cut_has_no_lost_or_added_characters(
    name: str, template: str, text: str, tokenizers: dict[str, Tokenizer]
) -> None:
    tokenizer = tokenizers[name]
    for cut in range(1, len(text)):
        prompt = encode_chat(ONE_QUESTION, TEMPLATES[template], tokenizer, 9999, so_far=text[:cut])
        detokenizer = build_detokenizer(
            PreparedRequest(prompt, None, tokenizer, frozenset(), (), text[:cut])
        )
        ids = continuation_ids(text[cut:], tokenizer)
        assert "".join(map(detokenizer.push, ids)) + detokenizer.flush() == text[cut:]


@pytest.mark.parametrize("template", ["linly", "chatml"])
@pytest.mark.parametrize(
    ("so_far", "word", "new"),
    [("hello ", "there", "there"), ("hello", "there", " there"), ("hello  ", "there", "there")],
)
def test_space_that_the_tokenizer_dropped_does_not_come_twice(
    template: str, so_far: str, word: str, new: str, tokenizers: dict[str, Tokenizer]
) -> None:
    tokenizer = tokenizers["t5"]
    prompt = encode_chat(ONE_QUESTION, TEMPLATES[template], tokenizer, 9999, so_far=so_far)
    detokenizer = build_detokenizer(
        PreparedRequest(prompt, None, tokenizer, frozenset(), (), so_far)
    )
    ids = tokenizer.encode([TextSpan(word)])
    assert "".join(map(detokenizer.push, ids)) + detokenizer.flush() == new


@pytest.mark.parametrize("name", ["fast", "spm", "converted", "no dummy"])
def test_cut_reply_has_the_ids_that_the_model_chose(
    name: str, tokenizers: dict[str, Tokenizer]
) -> None:
    """A reply in the tokenizer's own tokens, cut between any two of them."""
    tokenizer = tokenizers[name]
    header = empty_reply_ids("chatml", tokenizer)
    reply = begun_reply_ids("chatml", tokenizer, "hello there, how are you?")[len(header) :]
    assert len(reply) > 3
    for cut in range(1, len(reply)):
        so_far = decode_continuation(header, reply[:cut], tokenizer)
        assert begun_reply_ids("chatml", tokenizer, so_far) == header + reply[:cut]


def test_control_tokens_in_a_cut_reply_are_text(fast: FastTokenizer, spm: SpmTokenizer) -> None:
    for tokenizer in (fast, spm):
        header = empty_reply_ids("chatml", tokenizer)
        ids = begun_reply_ids("chatml", tokenizer, f"a{tokenizer.eos}b{tokenizer.bos}")[
            len(header) :
        ]
        assert not any(map(tokenizer.is_control, ids))


def test_empty_so_far_does_not_change_the_prompt(fast: FastTokenizer, spm: SpmTokenizer) -> None:
    for tokenizer in (fast, spm):
        assert begun_reply_ids("linly", tokenizer, "") == empty_reply_ids("linly", tokenizer)


# Chats that do not fit: see test_prompt for the lengths


@pytest.mark.parametrize(
    ("room", "kept"),
    [(49, ["1", "a", "2", "b", "3"]), (48, ["2", "b", "3"]), (33, ["3"]), (19, ["3"])],
)
def test_oldest_turns_are_dropped_to_fit_a_cut_reply(room: int, kept: list[str]) -> None:
    linly = TEMPLATES["linly"]
    prompt = encode_chat(LONG, linly, Letters(), room, drop_oldest=True, so_far="Yes")
    expected = encode_chat(chat(*kept), linly, Letters(), 99)
    assert Letters().decode(prompt.ids) == Letters().decode(expected.ids) + "Yes"
    dropped = len(LONG) - len(kept)
    assert prompt.dropped == (TruncatedTurns(dropped, dropped // 2 * 15) if dropped else None)


@pytest.mark.parametrize(
    ("room", "drop", "what", "tokens"),
    [
        (18, True, "The question with the reply so far", 19),
        (16, True, "The question with the reply so far", 19),
        (15, True, "The question alone", 16),
        (48, False, "The chat", 49),
    ],
)
def test_cut_reply_is_never_dropped(room: int, drop: bool, what: str, tokens: int) -> None:
    expected = f"{what} is {tokens} tokens long, but only {room}"
    with pytest.raises(PromptTooLongError, match=expected):
        encode_chat(LONG, TEMPLATES["linly"], Letters(), room, drop, so_far="Yes")


# A chat that ends with a reply: "User: 1\nBot: a\n" is 15 letters

CHAT = chat("1", "a", "2", "b")
SYSTEM = Message("system", "S")


@pytest.mark.parametrize("template", ["linly", "chatml", "alpaca", "chinese-alpaca"])
@pytest.mark.parametrize("name", ["fast", "spm", "converted"])
def test_next_prompt_begins_with_the_encoded_chat(
    name: str, template: str, tokenizers: dict[str, Tokenizer]
) -> None:
    messages = [SYSTEM, *chat("hello", "hi there.", "今天?", "你好 🙂")]
    prompt_template, tokenizer = TEMPLATES[template], tokenizers[name]
    ids = encode_without_generation_prompt(messages, prompt_template, tokenizer, 9999).ids
    question = Message("user", "how?")
    after = encode_chat([*messages, question], prompt_template, tokenizer, 9999).ids
    assert len(ids) > 10
    # The last line break may merge with the text after it into one token.
    assert after[: len(ids) - 1] == ids[:-1]


def encoded_text(*messages: Message) -> str:
    return Letters().decode(
        encode_without_generation_prompt(messages, TEMPLATES["linly"], Letters(), 99).ids
    )


@pytest.mark.parametrize(
    ("room", "text", "dropped"),
    [
        (33, encoded_text(*CHAT), None),
        (32, encoded_text(*CHAT[2:]), TruncatedTurns(2, 15)),
        (18, encoded_text(*CHAT[2:]), TruncatedTurns(2, 15)),
        (17, "", TruncatedTurns(4, 33)),
    ],
)
def test_encoded_chat_drops_what_the_next_question_would_drop(
    room: int, text: str, dropped: TruncatedTurns | None
) -> None:
    assert len(encoded_text(*CHAT)) == 33
    prompt = encode_without_generation_prompt(
        CHAT, TEMPLATES["linly"], Letters(), room, drop_oldest=True
    )
    assert (Letters().decode(prompt.ids), prompt.dropped) == (text, dropped)


def test_encoded_chat_keeps_the_system_prompt() -> None:
    linly, messages = TEMPLATES["linly"], [SYSTEM, *CHAT]
    prompt = encode_without_generation_prompt(messages, linly, Letters(), 10, drop_oldest=True)
    assert Letters().decode(prompt.ids) == "<s>S\n"
    with pytest.raises(PromptTooLongError, match="system prompt alone is 5 tokens"):
        encode_without_generation_prompt(messages, linly, Letters(), 4, drop_oldest=True)
    with pytest.raises(PromptTooLongError, match="chat is 35 tokens"):
        encode_without_generation_prompt(messages, linly, Letters(), 10)


def test_encoded_empty_chat_has_no_ids() -> None:
    assert encode_without_generation_prompt((), TEMPLATES["linly"], Letters(), 10).ids == ()
    assert encoded_text(SYSTEM) == "<s>S\n"
