"""What is trained is what is served: the ids before and in each reply that is learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from model.errors import RequestError
from model.text.fast_tokenizer import FastTokenizer
from model.text.prompt import decode_continuation, encode_chat
from model.text.prompt_template import PromptTemplate
from model.text.reply_format import ReplyStart, find_reply_format
from model.text.spm_tokenizer import SpmTokenizer
from model.text.tokenizer import Tokenizer
from model.text.training_sequences import ChatEncoder, EncodedChat, TrainingSequence
from model.types import Message
from tests.model.text.chats import CHATML, chat, template
from tests.model.text.family_templates import FAMILIES, family_tokenizer
from tests.model.tokenizers import END, LIKE_T5, make_spm

THOUGHT = "<think>\nHm, 世界.\n</think>\n\n"
PLAIN = ("Hello there.", " spaces around ", "So 世界.", "two\nlines\n")
THOUGHTFUL = (THOUGHT + "Hello.", "<think>\n\n</think>\n\nSo.", THOUGHT + "two\nlines")


def encoder(
    prompt_template: PromptTemplate, tokenizer: Tokenizer, end_ids: frozenset[int] | None = None,
    cutoff: int = 2000, train_on_inputs: bool = False,
) -> ChatEncoder:  # fmt: skip
    if end_ids is None:
        end_ids = frozenset() if tokenizer.eos_id is None else frozenset([tokenizer.eos_id])
    reply_format = find_reply_format(prompt_template, tokenizer)
    return ChatEncoder(prompt_template, tokenizer, reply_format, end_ids, cutoff, train_on_inputs)


def turns(replies: Sequence[str]) -> list[Message]:
    return chat(*(text for i, reply in enumerate(replies) for text in (f"Question {i}", reply)))


def learned_ids(sequence: TrainingSequence) -> list[int]:
    pairs = zip(sequence.ids, sequence.learned, strict=True)
    return [token for token, is_learned in pairs if is_learned]


def assert_served(encoded: EncodedChat, messages: list[Message], by: ChatEncoder) -> None:
    """Each reply follows the prompt of serving, and is shown as its text; it ends once."""
    places = [reply.message for sequence in encoded.sequences for reply in sequence.replies]
    assert places == [i for i, m in enumerate(messages) if m.role == "assistant"]
    for sequence in encoded.sequences:
        learned = []
        for reply in sequence.replies:
            prompt = encode_chat(messages[: reply.message], by.template, by.tokenizer, 9999).ids
            assert tuple(sequence.ids[: reply.start]) == prompt
            *ids, end = sequence.ids[reply.start : reply.stop]
            assert end in by.end_ids
            assert not by.end_ids & {*ids}
            shown = ReplyStart(by.reply_format).push(decode_continuation(prompt, ids, by.tokenizer))
            wanted = messages[reply.message].content
            assert shown.strip() == wanted.strip()
            learned += [*ids, end]
        assert learned_ids(sequence) == learned
    assert by.check(messages, encoded)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("replies", [PLAIN, THOUGHTFUL], ids=["plain", "thoughts"])
def test_families_learn_what_is_served(
    family: str, replies: tuple[str, ...], tmp_path: Path
) -> None:
    tokenizer, end_ids = family_tokenizer(family, tmp_path)
    prompt_template = PromptTemplate(
        family, FAMILIES[family][0], opens_thought=replies is THOUGHTFUL
    )
    by = encoder(prompt_template, tokenizer, end_ids)
    messages = turns(replies)
    assert_served(by.encode(messages), messages, by)


@pytest.mark.parametrize("name", ["alpaca", "alpaca_legacy", "alpaca_short", "chinese-alpaca",
                                  "linly"])  # fmt: skip
@pytest.mark.parametrize("replies", [PLAIN, THOUGHTFUL], ids=["plain", "thoughts"])
def test_own_templates_learn_what_is_served(
    name: str, replies: tuple[str, ...], fast: FastTokenizer, spm: SpmTokenizer,
    templates: dict[str, PromptTemplate],
) -> None:  # fmt: skip
    for tokenizer in (fast, spm):
        by = encoder(templates[name], tokenizer)
        messages = turns(replies)
        assert_served(by.encode(messages), messages, by)


def test_all_own_templates_are_tried(templates: dict[str, PromptTemplate]) -> None:
    assert set(templates) == {"alpaca", "alpaca_legacy", "alpaca_short", "chinese-alpaca", "linly"}


def test_replies_share_a_sequence_where_the_next_prompt_begins_with_it(
    fast: FastTokenizer, templates: dict[str, PromptTemplate]
) -> None:
    messages = turns(PLAIN)
    assert len(encoder(template(CHATML), fast).encode(messages).sequences) == 1
    # Its prompts have no end token behind earlier replies.
    assert len(encoder(templates["linly"], fast).encode(messages).sequences) == len(PLAIN)


def test_unlearned_replies_are_only_read(fast: FastTokenizer) -> None:
    (sequence,) = (
        encoder(template(CHATML), fast).encode(turns(("One", "Two", "Three")), {1, 5}).sequences
    )
    assert fast.decode(learned_ids(sequence)) == "Two"
    assert "One" in fast.decode(sequence.ids)
    assert "Three" not in fast.decode(sequence.ids)


def test_all_is_learned_with_train_on_inputs(fast: FastTokenizer) -> None:
    (sequence,) = (
        encoder(template(CHATML), fast, train_on_inputs=True).encode(turns(PLAIN)).sequences
    )
    assert all(sequence.learned)


def test_a_reply_ends_with_eos_where_serving_does_not_end_at_the_templates_token(
    spm: SpmTokenizer,
) -> None:
    """A base without ChatML's token is served with its own eos."""
    (sequence,) = encoder(template(CHATML), spm).encode(turns(["Hi"])).sequences
    assert learned_ids(sequence)[-1] == spm.eos_id
    assert learned_ids(sequence).count(2) == 1


def test_control_token_in_a_reply_is_learned_as_text(fast: FastTokenizer) -> None:
    by = encoder(template(CHATML), fast)
    messages = turns([f"a{END}b"])
    assert_served(by.encode(messages), messages, by)


def test_model_without_an_end_token_is_refused(folder: Path) -> None:
    tokenizer = FastTokenizer(folder / "tokenizer.json", None, None)
    with pytest.raises(RequestError, match="no token that ends a reply"):
        encoder(template("{{ messages[-1].content }}"), tokenizer).encode(turns(["Hi"]))


def test_a_long_chat_loses_its_last_replies_and_the_first_one_its_end(fast: FastTokenizer) -> None:
    messages = turns(("One", "Two"))
    full = encoder(template(CHATML), fast).encode(messages)
    first = full.sequences[0].replies[0].stop
    for cutoff, expected in ((first + 2, first), (first - 1, first - 1)):
        by = encoder(template(CHATML), fast, cutoff=cutoff)
        encoded = by.encode(messages)
        assert encoded.truncated
        assert encoded.sequences[0].ids == full.sequences[0].ids[:expected]
        by.check(messages, encoded)
    assert not encoder(template(CHATML), fast, cutoff=5).encode(messages).sequences


def test_check_tells_that_the_tokenizer_changes_a_reply(tmp_path: Path) -> None:
    """SentencePiece's normaliser drops zero-width characters."""
    by = encoder(template("{{ messages[-1].content }}"), make_spm(tmp_path, **LIKE_T5))
    for reply, is_exact in (("hi there", True), ("hi\u200b there", False)):
        assert by.check(turns([reply]), by.encode(turns([reply]))) is is_exact


@pytest.mark.parametrize("place", ["prompt", "later prompt", "end", "end within the reply"])
def test_check_refuses_what_differs_from_serving(place: str, fast: FastTokenizer) -> None:
    by, messages = encoder(template(CHATML), fast), turns(("One", "Two"))
    encoded = by.encode(messages)
    assert by.check(messages, encoded)
    (sequence,) = encoded.sequences
    first, second = sequence.replies
    index = {"prompt": first.start - 1, "later prompt": second.start - 1, "end": first.stop - 1,
             "end within the reply": first.start}[place]  # fmt: skip
    end = fast.eos_id
    assert end is not None
    sequence.ids[index] = end if place == "end within the reply" else sequence.ids[first.start]
    with pytest.raises(RequestError, match="would differ"):
        by.check(messages, encoded)


def test_check_tells_that_a_reply_differs(fast: FastTokenizer) -> None:
    by, messages = encoder(template(CHATML), fast), turns(["One"])
    encoded = by.encode(messages)
    encoded.sequences[0].ids[encoded.sequences[0].replies[0].start] += 1
    assert not by.check(messages, encoded)
