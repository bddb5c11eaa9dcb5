"""A base's chat template is compared with its rendering in transformers, within limits."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from model.diagnostics import Finding
from model.doctor import check_template as checks
from model.doctor.check_template import check_template, compare_template
from model.text.fast_tokenizer import FastTokenizer
from tests.model.text.chats import CHATML

ONLY_IN_TRANSFORMERS = "{% if lipsum is defined %}"  # a global that the sandbox here leaves out
FOREVER = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3


def findings(source: str, tokenizer: FastTokenizer) -> list[Finding]:
    assert list(check_template(source, tokenizer)) == []
    return list(compare_template(source, tokenizer))


@pytest.mark.slow
def test_usual_templates_are_as_in_transformers(fast: FastTokenizer) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    for source in (CHATML, refusing + CHATML, "{{ strftime_now('%Y') }}" + CHATML):
        assert findings(source, fast) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "roles", "here", "there"),
    [
        (ONLY_IN_TRANSFORMERS + "There.{% endif %}", "user", "<|im_start|>", "There."),
        (
            "{% if not loop and messages | length > 1 and lipsum is defined %}More.{% endif %}",
            "user, assistant, user", "<|im_start|>", "More.",
        ),
        (ONLY_IN_TRANSFORMERS + "{{ raise_exception('no') }}{% endif %}", "user",
         "<|im_start|>", "–"),
    ],
)  # fmt: skip
def test_a_template_that_differs_is_a_warning(
    head: str, roles: str, here: str, there: str, fast: FastTokenizer
) -> None:
    (finding,) = findings(head + CHATML, fast)
    assert (finding.code, finding.level) == ("chat_template_differs", "warning")
    assert finding.facts["roles"] == roles
    assert str(finding.facts["here"]).startswith(here)
    assert str(finding.facts["there"]).startswith(there)


@pytest.mark.slow
def test_a_template_without_an_end_there_is_given_up(
    fast: FastTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "MAX_SECONDS", 6)
    source = ONLY_IN_TRANSFORMERS + FOREVER + "{% endif %}" + CHATML
    (finding,) = findings(source, fast)
    assert finding.code == "chat_template_not_compared"


@pytest.mark.parametrize("output", ["", "[", "null"])
def test_a_comparison_that_fails_is_told(
    output: str, fast: FastTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, output)

    monkeypatch.setattr(checks, "run_child", run)
    (finding,) = findings(f"{CHATML}{{# {output} #}}", fast)
    assert finding.code == "chat_template_not_compared"


@pytest.mark.parametrize("source", ["{{ 'x' * 10 ** 9 }}", FOREVER, "{% if %}", "{{ a.b.c }}"])
def test_a_template_that_cannot_be_rendered_is_an_error(source: str, fast: FastTokenizer) -> None:
    (finding,) = check_template(source, fast)
    assert (finding.code, finding.level) == ("chat_template_broken", "error")
    assert len(str(finding.facts["reason"])) <= checks.MAX_REASON
