"""Chat templates render as in transformers, with what it gives to each template."""

from __future__ import annotations

from datetime import datetime

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

import model.text.template_environment as template_environment
from model.errors import RequestError
from model.text.fast_tokenizer import FastTokenizer
from model.types import Message
from tests.model.text.chats import CHATML, chat, template, text_of
from tests.model.text.family_templates import FAMILIES
from tests.model.tokenizers import END


def turns(content: str, head: str = "") -> str:
    """ChatML with another expression for a message's text, and something before each message."""
    source = CHATML.replace("{{ message['content'] }}", content)
    return source.replace("<|im_start|>", head + "<|im_start|>", 1)


def before(head: str) -> str:
    """ChatML with something before each message."""
    return turns("{{ message.content }}", head)


def each(body: str) -> str:
    """A loop over the messages `m`."""
    return f"{{% for m in messages %}}{body}{{% endfor %}}"


SOURCES = {
    **{name: source for name, (source, _, _) in FAMILIES.items()},
    "tools": "{% if tools is not none %}Tools.{% endif %}" + CHATML,
    "tools defined": "{% if tools is defined and tools %}Tools.{% endif %}" + CHATML,
    "documents": "{% if documents is none %}None.{% else %}Some.{% endif %}" + CHATML,
    "undefined": "{% if enable_thinking is defined %}Think.{% endif %}" + CHATML,
    "date": "{{ strftime_now('%Y-%m-%d') }}" + CHATML,
    "date guarded": "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}"
    + CHATML,
    "tojson": turns("{{ message['content'] | tojson }}"),
    "tojson whole": turns("{{ message | tojson(indent=2) }}"),
    "tojson dict": "{{ {'b': '<x>', 'a': [1, 2, none, true]} | tojson }}" + CHATML,
    "tojson ascii": turns("{{ message['content'] | tojson(ensure_ascii=True) }}"),
    "tojson sorted": "{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=True) }}",
    "starts with": before("{% if message.content.startswith('/no') %}No.{% endif %}"),
    "ends with": before("{% if message.content.endswith('?') %}Q.{% endif %}"),
    "empty": before("{% if not message.content %}Empty.{% endif %}"),
    "length": turns("{{ message.content | length }} {{ message.content }}"),
    "equal": before("{% if message.content == 'Hi' %}Greeting.{% endif %}"),
    "in": before("{% if '<' in message.content %}Less.{% endif %}"),
    "string test": turns("{{ message.content if message.content is string else '' }}"),
    "digits": turns("{{ message.content | int + 1 }}"),
    "slices": turns("{{ message.content[:3] }}…{{ message.content[-2::-1] }}"),
    "index": turns("{{ message.content[0] if message.content else '' }}"),
    "split": turns("{{ message.content.split(' ') | join('_') }}"),
    "lines": turns("{% for line in message.content.splitlines() %}> {{ line }}\n{% endfor %}"),
    "loop": turns("{% for char in message.content %}{{ char }}-{% endfor %}"),
    "replace": turns("{{ message.content.replace('i', 'ii') | replace('?', '!') }}"),
    "case": turns("{{ message.content | upper }}{{ message.content.title() }}"),
    "strip": turns("{{ message.content.strip() | trim }}{{ message.content.lstrip('/') }}"),
    "format": turns("{{ '%s: %s' % (message.role, message.content) }}"),
    "format method": turns("{{ '{}: {}'.format(message.role, message.content) }}"),
    "concat": turns("{{ message.role ~ ': ' ~ message.content }}"),
    "list": turns("{{ [message.content, 1] }}"),
    "dict": turns("{{ {'text': message.content} }}"),
    "default": turns("{{ message.name | default('') }}{{ message.content | default('') }}"),
    "get": turns("{{ message.get('content') }}{{ message.get('name', 'x') }}"),
    "items": turns("{% for key, value in message.items() %}{{ key }}={{ value }} {% endfor %}"),
    "map": "{{ messages | map(attribute='content') | join('|') }}",
    "select": "{{ (messages | selectattr('role', 'equalto', 'user') | list | last).content }}",
    "break": each("{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}"),
    "continue": each("{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.content }}"),
    "generation": each("{% generation %}{{ m.content }}{% endgeneration %}"),
    "generation scope": each(
        "{% generation %}{% set x = 1 %}{{ m.content }}{% endgeneration %}{{ x }}"
    ),
    "macro": "{% macro say(text) %}<{{ text }}>{% endmacro %}" + each("{{ say(m.content) }}"),
    "namespace": "{% set ns = namespace(all='') %}"
    + each("{% set ns.all = ns.all + m.content %}") + "{{ ns.all }}",
    "set block": "{% set all %}" + each("{{ m.content }},") + "{% endset %}{{ all | trim(',') }}",
    "white space": each("\n    {%- if true %}\n  {{ m.content }}\n    {%- endif %}\n"),
    "comment": "{# nothing #}{{ messages[0].content }}\n",
}  # fmt: skip
CHATS = [
    chat("Hi"),
    chat("/no_think Is 3 < 4? It's 你好", "<b>Yes</b> & so", 'Why\n"so"? '),
    chat("Hi", "", "x", system="Be <kind>."),
    chat("Hi", "<think>\nHm.\n</think>\n\nHello.", "And?"),
    chat("42"),
]


@pytest.mark.parametrize("messages", CHATS)
@pytest.mark.parametrize("name", SOURCES)
def test_renders_as_in_transformers(
    name: str, messages: list[Message], fast: FastTokenizer
) -> None:
    conversation = [{"role": m.role, "content": m.content} for m in messages]
    for reply_follows in (True, False):
        try:
            (expected,), _ = render_jinja_template(
                [conversation], chat_template=SOURCES[name], add_generation_prompt=reply_follows,
                bos_token=fast.bos, eos_token=fast.eos,
            )  # fmt: skip
        except Exception:
            with pytest.raises(RequestError):
                template(SOURCES[name]).render(messages, fast, reply_follows)
            continue
        assert text_of(template(SOURCES[name]).render(messages, fast, reply_follows)) == expected


@pytest.mark.parametrize("name", sorted({*SOURCES} - {"digits", "length"}))
def test_typed_control_tokens_stay_text(name: str, fast: FastTokenizer) -> None:
    """No operation of a template makes a control token of one that a user typed."""
    plain, typed = (f"a {word} b" for word in ("X", END))
    for role in ("user", "assistant"):
        counts = []
        for content in (plain, typed):
            messages = chat("q", content, "q") if role == "assistant" else chat(content)
            ids = fast.encode(template(SOURCES[name]).render(messages, fast))
            counts.append(sum(map(fast.is_control, ids)))
        assert counts[0] == counts[1]


@pytest.mark.parametrize("form", ["%Y" * 200, "%999Y", "%-1000d", "%_0500S"])
def test_dates_that_would_be_long_are_refused(form: str, fast: FastTokenizer) -> None:
    with pytest.raises(RequestError, match="format of a date"):
        template(f"{{{{ strftime_now('{form}') }}}}").render(chat("Hi"), fast)


def test_date_is_todays(fast: FastTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        @staticmethod
        def now() -> datetime:
            return datetime(2031, 2, 3, 4, 5)

    monkeypatch.setattr(template_environment, "datetime", Clock)
    source = "{{ strftime_now('%d %b %Y') }}"
    assert text_of(template(source).render(chat("Hi"), fast)) == "03 Feb 2031"
