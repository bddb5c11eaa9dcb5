"""Tokenizers and chat templates from strangers: none hangs the program or fills its memory."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from model.errors import ModelFolderError, RequestError
from model.text.prompt import PromptTemplate
from model.text.tokenizer_files import read_tokenizer
from model.types import Message
from tests.model.tokenizers import make_spm
from tests.security.own_process import survives
from tests.tiny_model import write_tokenizer

# Tokenizers


def with_tokenizer(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write_tokenizer(folder)
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps({**data, **changes}), encoding="utf-8")
    return folder


def split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False,
    }  # fmt: skip


READ = """
import sys
from pathlib import Path
from model.text.tokenizer_files import read_tokenizer
from model.text.tokenizer import TextSpan
from model.errors import LinlyError
try:
    read_tokenizer(Path(sys.argv[1]))[0].encode([TextSpan("a" * 200_000, control=False)])
    print("read")
except LinlyError as error:
    print(error)
"""


def test_a_pre_tokenizer_that_backtracks_does_not_hang_the_program(tmp_path: Path) -> None:
    """It held the GIL: 100,000 letters took 16 seconds, 200,000 a minute."""
    inner = {"type": "Sequence", "pretokenizers": [split(r"a+b")]}
    folder = with_tokenizer(tmp_path / "t", pre_tokenizer=inner)
    assert "a+b" in survives(READ, folder)


def test_a_normaliser_that_grows_exponentially_does_not_fill_the_memory(tmp_path: Path) -> None:
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    twice = {"type": "Sequence", "normalizers": [double] * 40}
    folder = with_tokenizer(tmp_path / "t", normalizer=twice)
    assert "without limit" in survives(READ, folder)


def test_a_sentencepiece_normaliser_that_grows_is_refused(tmp_path: Path) -> None:
    from sentencepiece import sentencepiece_model_pb2 as proto

    make_spm(tmp_path)
    file = tmp_path / "tokenizer.model"
    model = proto.ModelProto.FromString(file.read_bytes())
    model.normalizer_spec.precompiled_charsmap = struct.pack("<I", 4) + b"\0\0\0\0" + b"x" * 9999
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFolderError, match="not a SentencePiece model"):
        read_tokenizer(tmp_path)


# Templates

ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a long range": "{% for i in range(10**9) %}{% endfor %}",
    "repetition": '{{ "x" * 10**10 }}',
    "lists": '{{ ["x" * 999999] * 99999 }}',
    "numbers": "{{ 10 ** (9 ** 9) }}",
    "doubling": '{% set n = namespace(a="x") %}{% for i in range(99) %}'
                "{% set n.a = n.a ~ n.a %}{% endfor %}{{ n.a }}",
    "a list of lists": "{% set n = namespace(a=[]) %}{% for i in range(99) %}"
                       "{% set n.a = [n.a, n.a] %}{% endfor %}{{ n.a }}",
    "views": "{% set n = namespace(a={}) %}{% for i in range(99) %}"
             "{% set n.a = {1: n.a.items(), 2: n.a.items()} %}{% endfor %}{{ n.a }}",
    "a macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a branching macro": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}"
                         "{% endmacro %}{{ f(60) }}",
    "varargs": "{% macro f(n) %}{% if n %}{{ f(n-1, varargs, varargs) }}{% else %}{{ varargs }}"
               "{% endif %}{% endmacro %}{{ f(60, 1) }}",
    "output": "{% for i in range(99999) %}" + "x" * 99 + "{% endfor %}",
    "widths": '{{ "%999999999d" % 1 }}',
    "widths of format": '{{ "{:999999999}".format(1) }}',
    "widths from arguments": '{{ "{:{}}".format(1, 10**9) }}',
    "padding": '{{ "x".ljust(10**9) }}',
    "padding by an attribute": '{{ ("x"|attr("zfill"))(10**9) }}',
    "bytes": '{{ (1).to_bytes(10**9, "big") }}',
    "replacing": '{% set a = "x" * 999999 %}{{ a.replace("x", a) }}',
    "joining": '{% set a = "x" * 999999 %}{{ a|join(a) }}',
    "filters in a loop's condition":
        "{% for x in range(99999) if (range(99999)|list) %}{% endfor %}",
    "nesting": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "blocks": "{% if a %}" * 500 + "{% endif %}" * 500,
    "length": "x" * 200_000,
    "half a character": '{{ "\\ud800" }}',
}  # fmt: skip


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_endless_template_is_an_error(kind: str, tmp_path: Path) -> None:
    template = PromptTemplate("model", ENDLESS[kind])
    with pytest.raises(RequestError, match="cannot render this chat") as caught:
        template.render([Message("user", "hello")], make_spm(tmp_path))
    str(caught.value).encode()


@pytest.mark.slow
def test_no_thread_goes_on_rendering_an_endless_template(tmp_path: Path) -> None:
    """The process ends by itself."""
    code = """
import sys
from pathlib import Path
from model.text.prompt import PromptTemplate
from model.errors import LinlyError
from model.types import Message
from tests.model.tokenizers import make_spm
spm = make_spm(Path(sys.argv[1]))
from tests.security.test_foreign_text import ENDLESS
for source in ENDLESS.values():
    try:
        PromptTemplate("model", source).render([Message("user", "hi")], spm)
    except LinlyError:
        print("cut off")
"""
    assert survives(code, tmp_path).count("cut off") == len(ENDLESS)


USUAL = """
{%- set ns = namespace(found=false, system='') -%}
{%- macro shown(m, last=false) -%}
  {{- m.role|upper }}: {{ m['content'].strip() }}{% if last %}!{% endif -%}
{%- endmacro -%}
{%- if messages[0].role == 'system' -%}
  {%- set ns.system = messages[0].content %}{% set rest = messages[1:] -%}
{%- else -%}{% set rest = messages %}{%- endif -%}
{%- for m in rest if m.role is in ['user', 'assistant'] -%}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
    {{- raise_exception('roles') -}}
  {%- endif -%}
  {{- shown(m, last=loop.last) ~ '\\n' -}}
  {%- if '</think>' in m.content -%}
    {{- m.content.split('</think>')[-1].lstrip('\\n') -}}
  {%- endif -%}
{%- endfor -%}
{{- ([{'role': 'x'}] + rest)|map(attribute='role')|join(', ') }} {{ {'a': [1, 2]}|tojson -}}
{{- 'x' * 3 }} {{ '%s-%d' % ('a', 1) }} {{ '{} {}'.format(1, 'b') }} {{ 'a,b'.replace(',', ';') -}}
"""


def test_a_template_of_the_usual_features_is_rendered(tmp_path: Path) -> None:
    chat = [Message("user", "hi"), Message("assistant", "yes"), Message("user", "go")]
    runs = PromptTemplate("model", USUAL).render(chat, make_spm(tmp_path))
    assert "".join(run.text for run in runs) == (
        'USER: hi\nASSISTANT: yes\nUSER: go!\nx, user, assistant, user {"a": [1, 2]}xxx a-1 1 b a;b'
    )


def test_a_long_chat_is_rendered(tmp_path: Path) -> None:
    chat = [Message("user" if i % 2 == 0 else "assistant", "hello " * 200) for i in range(3001)]
    template = PromptTemplate("model", USUAL)
    assert template.render(chat, make_spm(tmp_path))
