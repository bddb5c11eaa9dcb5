"""The format of replies that a template's prompt begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.text.fast_tokenizer import FastTokenizer
from model.text.prompt_template import PromptTemplate
from model.text.reply_format import ReplyFormat, ReplyStart, find_reply_format
from tests.model.text.chats import template
from tests.model.text.family_templates import FAMILIES, family_tokenizer


@pytest.mark.parametrize(
    ("family", "opened", "space", "trimmed", "end"),
    [
        ("chatml", "", "", False, "<|im_end|>"),
        ("llama-2", "", " ", True, "</s>"),
        ("llama-3", "", "", True, "<|eot_id|>"),
        ("mistral", "", " ", False, "</s>"),
        ("qwen", "", "", False, "<|im_end|>"),
        ("r1-distill", "<think>\n", "", False, "</s>"),
        ("gemma", "", "", True, "<end_of_turn>"),
        ("phi", "", "", False, "<|end|>"),
    ],
)
def test_format_of_families(
    family: str, opened: str, space: str, trimmed: bool, end: str, tmp_path: Path
) -> None:
    tokenizer, _ = family_tokenizer(family, tmp_path)
    found = find_reply_format(PromptTemplate(family, FAMILIES[family][0]), tokenizer)
    assert (found.opened, found.space, found.trimmed) == (opened, space, trimmed)
    assert found.end_id is not None
    assert tokenizer.token_text(found.end_id) == end


def test_template_that_renders_no_probe_is_taken_as_plain(fast: FastTokenizer) -> None:
    assert find_reply_format(template("{{ raise_exception('no') }}"), fast) == ReplyFormat()


def test_template_that_needs_a_system_prompt_is_probed_with_one(fast: FastTokenizer) -> None:
    source = (
        "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}"
        "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    found = find_reply_format(template(source), fast)
    assert (found.trimmed, found.end_id) == (True, fast.eos_id)


@pytest.mark.parametrize(
    ("reply", "learned"),
    [
        ("<think>\nHm.\n</think>\nYes. ", "Hm.\n</think>\nYes."),
        ("<think>Hm.</think>Yes.", "Hm.</think>Yes."),
        ("<think>\n\n</think>\n\nYes.", "\n</think>\n\nYes."),
        ("Yes.", "Yes."),
    ],
)
def test_opened_thought_is_not_learned(reply: str, learned: str) -> None:
    assert ReplyFormat(opened="<think>\n").learned(reply) == learned


@pytest.mark.parametrize(
    ("deltas", "text"),
    [
        ([" ", "Hi", " you"], "Hi you"),
        ([" Hi"], "Hi"),
        (["  Hi"], " Hi"),
        (["Hi ", " you"], "Hi  you"),
        (["", " ", ""], ""),
    ],
)
def test_start_of_a_reply_loses_the_templates_space(deltas: list[str], text: str) -> None:
    start = ReplyStart(ReplyFormat(space=" "))
    assert "".join(map(start.push, deltas)) == text


def test_start_of_a_reply_has_the_tag_that_the_prompt_opened() -> None:
    start = ReplyStart(ReplyFormat(opened="<think>\n"))
    assert [start.push(text) for text in ("", "Hm.", "</think>")] == [
        "",
        "<think>\nHm.",
        "</think>",
    ]
