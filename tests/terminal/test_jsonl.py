"""Input lines of a batch, read as rows."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from model.config.settings import CHECKOUT
from model.text.prompt_template import PromptTemplate, load_templates
from model.types import Message
from terminal.jsonl import BatchRow, read_rows
from training.formats import read_chat


def rows(data: bytes | str) -> list[BatchRow]:
    return list(read_rows(io.BytesIO(data.encode() if isinstance(data, str) else data)))


CHAT = '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, %s]'


@pytest.mark.parametrize(
    ("line", "question"),
    [
        ('{"prompt": "hello"}', "hello"),
        ('{"instruction": "Add", "input": "1 2"}', "Add\n1 2"),
        ('{"instruction": "Add", "input": "", "output": "x"}', "Add"),
        ('{"instruction": "Add", "input": null}', "Add"),
        ('"a string"', "a string"),
        ("What is {x}?", "What is {x}?"),
        ("{x} is what?", "{x} is what?"),
        ('"Well," she said, "what?"', '"Well," she said, "what?"'),
        ("  你好\r", "你好"),
    ],
)
def test_each_form_of_a_line_is_a_question(line: str, question: str) -> None:
    (row,) = rows(line + "\n")
    assert row.to_messages(PromptTemplate("plain", "")) == (Message("user", question),)
    assert row.problem == ""


def test_an_input_is_written_as_in_training() -> None:
    """Else the adapter would get another form of question than it was trained on."""
    row = {"instruction": "Add {input}", "input": "1 2", "output": "3"}
    (batch_row,) = rows(json.dumps(row))
    for template in load_templates(CHECKOUT / "prompts").values():
        assert batch_row.to_messages(template) == read_chat(row, template).messages[:-1]


LIST = [{"id": n, "instruction": f"Say {n}"} for n in (1, 2, 3)]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(LIST),
        json.dumps(LIST, indent=2),
        "\ufeff\n[\n" + ",\n".join(map(json.dumps, LIST)) + "\n]\n",
        "\ufeff" + json.dumps(LIST, indent="\t").replace("[\n", "[ \r\n"),
    ],
    ids=["one line", "indented", "a row a line", "Windows"],
)
def test_a_list_has_a_row_for_each_element(text: str) -> None:
    assert [(row.number, row.fields, row.problem) for row in rows(text)] == [
        (n, fields, "") for n, fields in enumerate(LIST, 1)
    ]


def test_a_list_may_have_strings_and_bad_elements() -> None:
    first, second, third = rows('["a",\n 3, {"prompt": ""}]')
    assert first.messages == (Message("user", "a"),)
    assert (second.number, second.problem) == (2, "The JSON is neither an object nor a string.")
    assert "empty" in third.problem


@pytest.mark.parametrize("text", ["[", '[{"prompt": "a"},', '[{"prompt": "a"}]\nb', "[{" * 100_000])
def test_a_broken_list_is_one_bad_row(text: str) -> None:
    (row,) = rows(text)
    assert row.problem.startswith("The JSON list cannot be read")


@pytest.mark.parametrize("text", ["[INST] Hi [/INST]", "[1, 2]: what is the sum?", '["a" is what?'])
def test_a_question_may_begin_with_a_bracket(text: str) -> None:
    (row,) = rows(text)
    assert row.fields == {"prompt": text}


def test_an_empty_list_has_no_rows() -> None:
    assert rows("[\n]") == rows("[]") == []


def test_a_line_with_messages_is_a_chat() -> None:
    (row,) = rows('{"messages": ' + CHAT % '{"role": "user", "content": "c"}' + "}")
    assert [message.content for message in row.messages] == ["a", "b", "c"]
    assert [message.role for message in row.messages] == ["user", "assistant", "user"]


def test_a_row_keeps_its_fields() -> None:
    plain, with_id = rows('hello\n{"id": 7, "prompt": "x"}\n')
    assert (plain.fields, with_id.fields) == ({"prompt": "hello"}, {"id": 7, "prompt": "x"})


def test_empty_lines_are_counted_and_a_byte_order_mark_is_skipped() -> None:
    parsed = rows(b"\xef\xbb\xbfa\n\n  \nb")
    assert [(row.number, row.messages[0].content) for row in parsed] == [(1, "a"), (4, "b")]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"prompt": "torn', "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("[1, 2]", "neither an object nor a string"),
        ("42", "neither an object nor a string"),
        ("[" * 5000, "is nested too deeply"),
        ('{"text": "hello"}', 'has none of "prompt"'),
        ('{"prompt": 3}', '"prompt" is not text'),
        ('{"prompt": " "}', '"prompt" is not text, or empty'),
        ('{"instruction": "a", "input": 3}', '"input" is not text'),
        ('{"prompt": "\\ud800"}', "invalid character"),
        ('{"messages": []}', '"messages" is not a list'),
        ('{"messages": "hello"}', '"messages" is not a list'),
        ('{"messages": ["hello"]}', "A message is not"),
        ('{"messages": ' + CHAT % '{"role": "bot", "content": "c"}' + "}", "a role of system"),
        ('{"messages": ' + CHAT % '{"role": ["user"], "content": "c"}' + "}", "a role of system"),
        ('{"messages": ' + CHAT % '{"role": "user", "content": 1}' + "}", "with text"),
        (
            '{"messages": ' + CHAT % '{"role": "assistant", "content": "c"}' + "}",
            "is not the user's",
        ),
        (b"\xc4\xe3\xba\xc3", "is not UTF-8"),
    ],
)
def test_a_bad_line_has_a_problem_and_the_next_line_is_read(line: Any, problem: str) -> None:
    bad, fine = rows((line if isinstance(line, bytes) else line.encode()) + b"\nfine\n")
    assert problem in bad.problem
    assert "\n" not in bad.problem
    assert bad.messages == ()
    assert fine.messages == (Message("user", "fine"),)
