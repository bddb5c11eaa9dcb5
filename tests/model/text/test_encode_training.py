"""Training examples: token ids of a chat, and which of them are learned."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.text.fast_tokenizer import FastTokenizer
from model.text.prompt import encode_chat, encode_training
from model.text.prompt_template import PromptTemplate
from model.text.spm_tokenizer import SpmTokenizer
from model.text.tokenizer import TextSpan
from tests.model.text.chats import CHATML, chat, template
from tests.model.tokenizers import END, LIKE_T5, make_spm


def learned_part(ids: list[int], learned: list[bool]) -> list[int]:
    assert len(ids) == len(learned)
    return [token_id for token_id, is_learned in zip(ids, learned, strict=True) if is_learned]


def encoded(tokenizer: FastTokenizer | SpmTokenizer, *texts: str) -> list[int]:
    """The ids of the texts, each encoded as its own span."""
    return [token_id for text in texts for token_id in tokenizer.encode([TextSpan(text)])]


def test_chatml_learns_replies_and_the_templates_end_token(fast: FastTokenizer) -> None:
    messages = chat("Hi", "Hello there.", "Why?", "So 世界.", system="Be kind.")
    ids, learned = encode_training(messages, template(CHATML), fast)
    assert learned_part(ids, learned) == encoded(fast, f"Hello there.{END}", f"So 世界.{END}")
    assert fast.decode(ids) == (
        "system\nBe kind.\nuser\nHi\nassistant\nHello there.\nuser\nWhy?\nassistant\nSo 世界.\n"
    )
    ends = [i for i, token_id in enumerate(ids) if fast.token_text(token_id) == END]
    assert [learned[i] for i in ends] == [False, False, True, False, True]


def test_linly_learns_replies_and_the_tokenizers_eos(
    spm: SpmTokenizer, templates: dict[str, PromptTemplate]
) -> None:
    ids, learned = encode_training(chat("hello", "hi", "how?", "so"), templates["linly"], spm)
    hi, so = encoded(spm, "hi"), encoded(spm, "so")
    assert learned_part(ids, learned) == [*hi, 2, *so, 2]
    assert ids.count(2) == 2


@pytest.mark.parametrize("name", ["alpaca", "chinese-alpaca"])
def test_alpaca_learns_the_reply_and_eos(
    name: str, spm: SpmTokenizer, templates: dict[str, PromptTemplate]
) -> None:
    ids, learned = encode_training(chat("hello", "hi there"), templates[name], spm)
    assert learned_part(ids, learned) == [*encoded(spm, "hi there"), 2]


def test_reply_at_the_very_end_of_a_template_gets_its_eos(spm: SpmTokenizer) -> None:
    source = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    ids, learned = encode_training(chat("hello", "hi"), template(source), spm)
    assert ids == [*encoded(spm, "hello", "hi"), 2]
    assert learned_part(ids, learned) == [*encoded(spm, "hi"), 2]


def test_training_begins_with_the_prompt_of_inference(
    fast: FastTokenizer, spm: SpmTokenizer, templates: dict[str, PromptTemplate]
) -> None:
    """Otherwise an adapter would get other ids than in its training."""
    for tokenizer, prompt_template in ((fast, template(CHATML)), (spm, templates["linly"])):
        prompt = encode_chat(chat("hello 世界"), prompt_template, tokenizer, room=500).ids
        ids, learned = encode_training(chat("hello 世界", "hi"), prompt_template, tokenizer)
        assert tuple(ids[: len(prompt)]) == prompt
        assert not any(learned[: len(prompt)])
        assert learned[len(prompt)]


def test_tokenizer_without_eos_learns_the_reply_alone(
    folder: Path, templates: dict[str, PromptTemplate]
) -> None:
    without_names = FastTokenizer(folder / "tokenizer.json", None, None)
    ids, learned = encode_training(chat("Hi", "Hello."), templates["linly"], without_names)
    assert without_names.decode(learned_part(ids, learned)) == "Hello."


def test_control_token_in_a_reply_is_learned_as_text(fast: FastTokenizer) -> None:
    ids, learned = encode_training(chat("Hi", f"a{END}b"), template(CHATML), fast)
    learned_ids = learned_part(ids, learned)
    assert [i for i in learned_ids if fast.is_control(i)] == learned_ids[-1:]
    assert fast.decode(learned_ids) == f"a{END}b"


def test_chat_without_replies_learns_nothing(fast: FastTokenizer) -> None:
    ids, learned = encode_training(chat("Hi"), template(CHATML), fast)
    assert learned_part(ids, learned) == []
    assert fast.decode(ids) == "user\nHi\n"


@pytest.mark.parametrize(
    ("source", "reply"),
    [
        ("{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}", "\u200b"),
        ("{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}", "hi"),
    ],
    ids=["reply", "end of the template"],
)
def test_text_that_has_no_ids_does_not_shift_the_mask(
    source: str, reply: str, tmp_path: Path
) -> None:
    """SentencePiece's normaliser drops zero-width characters and space at the edges."""
    unigram = make_spm(tmp_path, **LIKE_T5)
    ids, learned = encode_training(chat("hello", reply), template(source), unigram)
    assert learned_part(ids, learned) == [*encoded(unigram, reply), 2]
