"""Replies in Chinese, Japanese, Korean, Arabic and Hebrew, dollars in prose, and thoughts."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, expect

from tests.web.ui.static.harness import Harness, asked, replied

pytestmark = [pytest.mark.browser, pytest.mark.slow]

EVIL = "<img src=x onerror='window.pwned = 1'>"


def reply(harness: Harness, text: str, state: str = "done") -> Locator:
    harness.log(replied("a", text, state=state))
    return harness.message("a").locator(".body")


def html(harness: Harness, text: str) -> str:
    return reply(harness, text).locator("p").first.inner_html()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**注意：**正文", "<strong>注意：</strong>正文"),
        ("含**「重点」**内容", "含<strong>「重点」</strong>内容"),
        ("他说**“你好”**世界", "他说<strong>“你好”</strong>世界"),
        ("这是*重点，*后面", "这是<em>重点，</em>后面"),
        ("删~~除。~~后", "删<s>除。</s>后"),
        ("这是***粗斜。***后", "这是<em><strong>粗斜。</strong></em>后"),
        ("**《书》**和**（注）**。", "<strong>《书》</strong>和<strong>（注）</strong>。"),
        ("**스크립트(script)**라고", "<strong>스크립트(script)</strong>라고"),
        ("これは**「重要」**です", "これは<strong>「重要」</strong>です"),
        ("**Note:**中文**𠮷。**𠮷", "<strong>Note:</strong>中文<strong>𠮷。</strong>𠮷"),
        ("在**`code`**后", "在<strong><code>code</code></strong>后"),
        ("**a**b 2*3*4", "<strong>a</strong>b 2<em>3</em>4"),
        ("2 * 3 * 4 ** 5，** 六", "2 * 3 * 4 ** 5，** 六"),
        ("**注意： **正文", "**注意： **正文"),
        ("变量_名_称 和 文件_a。_b", "变量_名_称 和 文件_a。_b"),
        ('a **"b"**c', 'a **"b"**c'),
    ],
)
def test_emphasis_beside_cjk_punctuation(harness: Harness, text: str, expected: str) -> None:
    """CommonMark wants a space there, which these languages do not have."""
    assert html(harness, text) == expected


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("请访问https://example.com/abc查看", ["https://example.com/abc"]),
        ("（见https://example.com/a?b=1&c=%E4#d）和", ["https://example.com/a?b=1&c=%E4#d"]),
        ("見https://example.com/a.を、http://b.example、", ["https://example.com/a", "http://b.example"]),
        ("看 https://example.com/a/48，然后", ["https://example.com/a/48"]),
        ("링크 https://example.com/x입니다", ["https://example.com/x"]),
        ("**https://example.com/a**后", ["https://example.com/a"]),
        ("写信给mailto:a@b.example谢谢", ["mailto:a@b.example"]),
        ("https://例子.com", []),
        ("见[维基](https://zh.wikipedia.org/wiki/中文)", [
            "https://zh.wikipedia.org/wiki/%E4%B8%AD%E6%96%87"]),
        ("<https://example.com/中>", ["https://example.com/%E4%B8%AD"]),
        ("见javascript:alert(1)、data:text/html,x", []),
    ],
)  # fmt: skip
def test_addresses_end_before_cjk_text(harness: Harness, text: str, addresses: list[str]) -> None:
    links = reply(harness, text).locator("a").all()
    assert [link.get_attribute("href") for link in links] == addresses


@pytest.mark.parametrize(
    "text",
    [
        "Set $HOME/$USER in $PATH:$HOME/bin", "Das kostet 5$, das andere 10$.", "5$-10$ or 20$/30$",
        "Use $foo->bar($baz) here", "变量$a和$b相加", "US$5 to US$10, A$x and C$y.",
        "between $5 and $10", "($5), ($6)", "é$x$ and $y$é", "run $(pwd)/$(date) or ${A}/${B}",
        "'$' and '$', “$” or “$”, ($) or ($)", "in :$HOME/bin; it costs 5$ now",
        "$('#a').add($('#b'))", "价格为$5，另一个是10$。", "5 $/kg, 6 $/l; echo $? $!",
    ],
)  # fmt: skip
def test_dollars_in_prose_are_no_formulas(harness: Harness, text: str) -> None:
    body = reply(harness, text)
    expect(body.locator(".formula")).to_have_count(0)
    assert body.inner_text() == text


@pytest.mark.parametrize(
    "text",
    [
        "其中$x_1$是",
        "（$x$）",
        '"$x$", ',
        "$x$-ish",
        "那么\\(x\\)是",
        "因此$$x$$成立",
        "$O(n log n)$",
        "$f'$ is",
        "$]0, 1[$",
        "$速度 = 路程/时间$",
        "$x \\text{ for all users}$",
        "$n$(even)",
        "${}^3P$",
    ],
)
def test_formulas_beside_cjk_text_and_punctuation(harness: Harness, text: str) -> None:
    expect(reply(harness, text).locator("math")).to_have_count(1)


def test_every_block_runs_as_its_first_letter(harness: Harness) -> None:
    text = "\n\n".join([
        "مرحبا، كيف حالك؟", "Hello!", "- שלום!", "> مرحبا `x = 1` وداعا", "# עברית",
        "```\nمرحبا = 1\n```", "| א | b |\n|---|---|\n| ج | d |", "سعر $x+1$ و https://a.example",
    ])  # fmt: skip
    body = reply(harness, text)
    harness.log(asked("q", "ما اسمك؟\nOK"), replied("a", text))
    directions = {
        "p": ["rtl", "ltr", "rtl", "rtl"], "ul": ["rtl"], "blockquote": ["rtl"], "h1": ["rtl"],
        "pre": ["ltr"], "code": ["ltr", "ltr"], "th": ["rtl", "ltr"], "td": ["rtl", "ltr"],
        ".formula": ["ltr"],
    }  # fmt: skip
    for selector, expected in directions.items():
        found = body.locator(selector).evaluate_all(
            "elements => elements.map(e => getComputedStyle(e).direction)"
        )
        assert found == expected, selector
    expect(body.locator('[dir="auto"]')).to_have_count(0)  # slow with thousands of parts
    style = "e => [getComputedStyle(e).unicodeBidi, getComputedStyle(e).textAlign].join(' ')"
    assert body.locator("li").evaluate(style) == "plaintext start"
    assert harness.message("q").locator(".body").evaluate(style) == "plaintext start"


# Thoughts


@pytest.mark.parametrize(
    ("text", "thoughts", "rest"),
    [
        ("<think>\nLet me see.\n</think>\n\nFour.", ["Let me see."], ["Four."]),
        ("<think>Let me see.</think>Four.", ["Let me see."], ["Four."]),
        ("Let me see.\n</think>\n\nFour.", ["Let me see."], ["Four."]),
        ("1. Look\n2. See\n</think>\nFour.", ["Look\nSee"], ["Four."]),
        ("See.</think>\nFour.", ["See."], ["Four."]),
        ("<think>\n\n</think>\n\nFour.", [], ["Four."]),
        ("<think>a</think>One.\n\n<think>b</think>Two.", ["a", "b"], ["One.", "Two."]),
        ("Okay. <think>\na\n</think>\nOne.", ["a"], ["Okay.", "One."]),
        ("<think>a <think> b</think>c\n</think>\nd", ["a <think> b", "c"], ["d"]),
        ("<think>\n```\n</think>\n```\nb</think>c", ["</think>\n\nb"], ["c"]),
        ("<think>\n```\na\n</think>\nb", ["a"], ["b"]),
        ("Use <think> and </think> here.", [], ["Use <think> and </think> here."]),
        ("`<think>` opens, `</think>`\ncloses", [], ["<think> opens, </think>\ncloses"]),
        ("<think>a", ["a"], []),
        ("```x```\n<think>\na\n</think>\nb", ["a"], ["x", "b"]),
        ("- b\n\n<think>\n- `a\n</think>\nc", ["`a"], ["b", "c"]),
    ],
)  # fmt: skip
def test_thoughts_are_folded(
    harness: Harness, text: str, thoughts: list[str], rest: list[str]
) -> None:
    body = reply(harness, text)
    folded = body.locator("details.thought")
    expect(folded).to_have_count(len(thoughts))
    for detail, thought in zip(folded.all(), thoughts, strict=True):
        expect(detail).not_to_have_attribute("open", "")
        detail.locator("summary").click()
        inner = detail.evaluate("e => [...e.children].slice(1).map(c => c.innerText).join('\\n')")
        assert "".join(inner.split()).replace("codeCopycode", "").removeprefix("code") == "".join(
            thought.split()
        )
    assert body.locator(":scope > :not(details)").all_inner_texts() == rest


@pytest.mark.parametrize(
    "text",
    [
        "```xml\n<think>\na\n</think>\n```", "~~~\n</think>\n~~~", "````\n```\n<think>\n````",
        "```xml\n<think>\na\n</think>\n", "    <think>\n    a\n    </think>",
        "- ```xml\n  <think>\n  ```\n\nb", "12. a\n\n    ```\n    </think>\n    ```\nb",
        "> ```\n> </think>\n> ```\n> b", "1. > ~~~ `x`\n   > <think>\n   > ~~~\nb",
    ],
)  # fmt: skip
def test_tags_in_code_are_text(harness: Harness, text: str) -> None:
    for state in ("streaming", "done"):
        body = reply(harness, text, state)
        expect(body.locator("details")).to_have_count(0)
        expect(body.locator("code")).to_contain_text("think>")


def test_a_thought_grows_while_it_is_read(harness: Harness) -> None:
    body = reply(harness, "<think>", "streaming")
    summary = body.locator("summary")
    expect(summary).to_have_text("Thinking …")
    expect(body.locator("details")).not_to_have_attribute("open", "")
    harness.live(a="<think>\nFirst")
    summary.click()
    body.locator("details").evaluate("e => { window.details = e; }")
    harness.live(a="<think>\nFirst\n\n- then")
    expect(body.locator("li")).to_have_text("then")
    harness.live(a="<think>\nFirst\n\n- then\n</think>\n\nDone")
    expect(body.locator(":scope > p")).to_have_text("Done")
    expect(summary).to_have_text("Thought")
    assert body.locator("details").evaluate("e => e === details && e.open")


def test_a_reply_that_ends_in_a_thought_does_not_think_any_more(harness: Harness) -> None:
    """It is cut at the longest reply, or stopped."""
    body = reply(harness, "<think>\nFirst", "streaming")
    expect(body.locator("summary")).to_have_text("Thinking …")
    reply(harness, "<think>\nFirst", "cut")
    expect(body.locator("summary")).to_have_text("Thought")


def test_a_half_tag_is_not_shown(harness: Harness) -> None:
    """A tag may come in several tokens."""
    for text in ("a\n\n<", "a\n\n<th", "<think>\na\n</think", "a\n</"):
        body = reply(harness, text, "streaming")
        assert (body.text_content() or "").strip().removeprefix("Thinking …") == "a"
    assert (reply(harness, "a <").text_content() or "").strip() == "a <"
    assert (reply(harness, "a <th").text_content() or "").strip() == "a <th"


def test_a_question_is_shown_as_typed(harness: Harness) -> None:
    text = "<think>a</think> **注意：**正文 $x$ https://a.example见"
    harness.log(asked("q", text))
    expect(harness.message("q").locator(".body")).to_have_text(text)
    expect(harness.message("q").locator(".body *")).to_have_count(0)


def test_no_html_of_a_reply_is_run(harness: Harness) -> None:
    texts = [
        f"<think>{EVIL}</think>{EVIL}", f"{EVIL}\n</think>\n{EVIL}", f"<think>\n{EVIL}",
        f"<think></details>{EVIL}</think>", f"**{EVIL}：**正文", f"见https://a.example/{EVIL}中",
        "https://a.example/'onclick='window.pwned=1'中", f"其中${EVIL}$是", f"مرحبا {EVIL}",
        f"<think a='{EVIL}'>", f"`</think>`{EVIL}\n</think>\n<script>window.pwned = 1</script>",
    ]  # fmt: skip
    harness.log(*(replied(f"a{i}", text) for i, text in enumerate(texts)))
    harness.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    expect(harness.page.locator(".body :is(img, script, [onclick], [onerror])")).to_have_count(0)
    for i, text in enumerate(texts):
        shown = harness.message(f"a{i}").locator(".body").text_content() or ""
        assert ("onerror='window" in shown) == (EVIL in text)
    assert harness.page.evaluate("window.pwned") is None
