"""Replies as Markdown: rendering, updates of a growing text, and safety."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, expect

from tests.web.ui.static.harness import Harness, asked, replied

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FENCED = "```python\ndef f():\n    return 1\n```"
EVIL = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>"


def reply(harness: Harness, text: str, state: str = "done") -> Locator:
    harness.log(replied("a", text, state=state))
    return harness.message("a").locator(".body")


def test_code(harness: Harness) -> None:
    body = reply(harness, f"{FENCED}\n\n- in a list:\n\n  ```\n  plain <b>\n  ```")
    expect(body.locator(".hljs-keyword").first).to_have_text("def")
    expect(body.locator(".code-head span").first).to_have_text("python")
    expect(body.locator("code").last).to_have_text("plain <b>\n")
    body.get_by_role("button", name="Copy code").first.click()
    expect(body.get_by_role("button", name="Copied")).to_be_visible()
    copied = harness.page.evaluate("navigator.clipboard.readText()")
    assert copied == "def f():\n    return 1"


def test_an_open_fence_is_code(harness: Harness) -> None:
    body = reply(harness, "Look:\n\n```js\nlet x = '<i>'", state="streaming")
    expect(body.locator("pre code")).to_have_text("let x = '<i>'")


@pytest.mark.parametrize(
    ("text", "display"),
    [
        ("so $x^2$ is", False),
        (r"so \(x^2\) is", False),
        ("so $$x^2$$ is", True),
        (r"so \[x^2\] is", True),
        ("$$\nx^2\n\n- y\n$$", True),
        ("\\[\nx^2\n\\]", True),
        ("> $$\n> x^2\n> $$", True),
        ("US$5, $x^2$-ish", False),
    ],
)
def test_formulas(harness: Harness, text: str, display: bool) -> None:
    body = reply(harness, text)
    expect(body.locator("math")).to_have_count(1)
    expect(body.locator("msup").first).to_be_attached()
    expect(body.locator(".formula.display")).to_have_count(int(display))


@pytest.mark.parametrize(
    "text",
    [
        "$5 and $6", "from $5-$6", "`$x$` and `\\(y\\)`", "```\n$$x$$\n```", r"\$x\$", "$ x $",
        "costs $5, see `a$`", "$$", "$$ open", "cost: $20,000",
    ],
)  # fmt: skip
def test_prices_and_code_are_no_formulas(harness: Harness, text: str) -> None:
    body = reply(harness, text)
    expect(body.locator(".formula")).to_have_count(0)
    assert body.inner_text().count("$") == text.count("$")


@pytest.mark.parametrize(("pairs", "count"), [(99, 1), (100, 0)])
def test_an_unclosed_formula_is_not_searched_to_the_end(
    harness: Harness, pairs: int, count: int
) -> None:
    """Otherwise every line of a long reply would be searched to its end."""
    harness.log(replied("a", "\\[\n" + "x\n\n" * pairs + "\\]"))
    expect(harness.message("a").locator(".formula")).to_have_count(count)


def test_an_unclosed_mark_hides_no_formula(harness: Harness) -> None:
    harness.log(replied("a", r"\(a\) [\(b\) and \(c"))
    expect(harness.message("a").locator(".formula")).to_have_count(2)


def test_many_blocks_are_drawn_one_after_the_other(harness: Harness) -> None:
    """A browser counts `children` from the beginning after each change: thousands took seconds."""
    harness.page.evaluate("""() => {
        const children = Object.getOwnPropertyDescriptor(Element.prototype, 'children').get;
        window.reads = 0;
        Object.defineProperty(HTMLDivElement.prototype, 'children', {
            get() { window.reads += this.className === 'body'; return children.call(this); },
        });
    }""")
    body = reply(harness, "a\n\n" * 50)
    expect(body.locator("p")).to_have_count(50)
    reply(harness, "b\n\n" * 60)
    expect(body.locator("p")).to_have_count(60)
    assert harness.page.evaluate("window.reads") == 2


def test_a_letter_with_thousands_of_accents_is_split(harness: Harness) -> None:
    """They formed one letter, which took the browser seconds."""
    accents = "\u0301" * 32
    harness.log(asked("q", "e" + accents * 2), replied("a", "e" + accents + "\u0302 é"))
    expect(harness.message("q").locator(".body")).to_have_text(f"e{accents}◌{accents}")
    expect(harness.message("a").locator(".body")).to_have_text(f"e{accents}◌\u0302 é")


def test_a_broken_formula_is_shown_as_it_is(harness: Harness) -> None:
    body = reply(harness, r"$\frac{$ and $\href{javascript:alert(1)}{x}$ and $中文$")
    expect(body.locator(".katex-error")).to_contain_text(r"\frac{")
    expect(body.locator("a")).to_have_count(0)


def test_links(harness: Harness) -> None:
    body = reply(
        harness,
        "[a](http://a.example) https://b.example/x_y_z <mailto:c@d.example> main.py "
        "[j](javascript:alert(1)) [d](data:text/html,x) [r](/logout) [p](//evil.example)",
    )
    links = body.locator("a")
    expect(links).to_have_count(3)
    for link in links.all():
        expect(link).to_have_attribute("target", "_blank")
        expect(link).to_have_attribute("rel", "noopener noreferrer nofollow")
    expect(links.nth(1)).to_have_attribute("href", "https://b.example/x_y_z")
    expect(body).to_contain_text("javascript:alert(1)")


def test_images_are_links(harness: Harness) -> None:
    requests: list[str] = []
    harness.page.on("request", lambda request: requests.append(request.url))
    body = reply(
        harness,
        "![a cat](https://x.example/cat.png) ![](https://x.example/dog.png)\n\n"
        "[![badge](https://x.example/b.png)](https://y.example) ![bad](data:image/png,x)",
    )
    expect(body.locator("img")).to_have_count(0)
    targets = [link.get_attribute("href") for link in body.locator("a").all()]
    assert targets == [
        "https://x.example/cat.png",
        "https://x.example/dog.png",
        "https://y.example",
    ]
    expect(body.locator("a").nth(1)).to_have_text("https://x.example/dog.png")
    assert not [url for url in requests if "example" in url]


def test_lines_break_and_quotes_stay(harness: Harness) -> None:
    body = reply(harness, 'one\ntwo "quoted" (c) ...')
    expect(body.locator("br")).to_have_count(1)
    expect(body).to_contain_text('"quoted" (c) ...')


def test_unchanged_blocks_stay_the_same_elements(harness: Harness) -> None:
    body = reply(harness, f"# Title\n\n{FENCED}\n\nThe quick", state="streaming")
    expect(body.locator(".hljs-keyword").first).to_be_attached()
    body.evaluate("""e => { window.blocks = [...e.children];
        const text = e.lastElementChild.firstChild;
        getSelection().setBaseAndExtent(text, 4, text, 9); }""")
    harness.live(a=f"# Title\n\n{FENCED}\n\nThe quick brown fox\n\n- jumps")
    expect(body.locator("li")).to_have_text("jumps")
    assert body.evaluate("e => blocks.every((block, i) => block === e.children[i])")
    assert harness.page.evaluate("getSelection().toString()") == "quick"
    harness.live(a=f"# Title\n\n{FENCED}\n\nThe quick brown fox\n\n- jumps\n- over")
    expect(body.locator("li").last).to_have_text("over")


def test_growing_code_keeps_its_box(harness: Harness) -> None:
    body = reply(harness, "```python\nx = '" + "long " * 100, state="streaming")
    expect(body.locator(".hljs-string")).to_be_attached()
    body.locator("pre").evaluate("e => { window.pre = e; e.scrollLeft = 50; }")
    harness.live(a="```python\nx = '" + "long " * 100 + "'\ny = 2")
    expect(body.locator("code")).to_contain_text("y = 2")
    assert body.locator("pre").evaluate("e => e === pre && e.scrollLeft") == 50


def test_blocks_may_change_into_others(harness: Harness) -> None:
    texts = [
        "one",
        "one\n===",
        "| a | b |",
        "| a | b |\n|---|---|",
        "> q\n> - x\n>   ```\n>   y",
        "",
    ]
    for text in texts:
        body = reply(harness, text)
        expect(body.locator(":scope > *")).to_have_count(1 if text else 0)
    expect(body).to_have_text("")


def test_html_and_scripts_of_a_reply_are_not_run(harness: Harness) -> None:
    rows = [[EVIL, EVIL]]
    evil = replied("a", EVIL, state="failed", error=EVIL, notice=EVIL, facts=EVIL, provenance=rows)
    fenced = replied("b", f"```{EVIL}\n{EVIL}\n```\n\n$$\n{EVIL}\n$$\n\n{EVIL} `{EVIL}`")
    rival = replied("r", EVIL, who=EVIL)
    harness.log(asked("u", EVIL), evil, fenced, language="en",
                comparison={"id": "c", "vote": None, "replies": [rival]})  # fmt: skip
    expect(harness.message("u").locator(".body")).to_have_text(EVIL)
    expect(harness.message("a").locator(".body")).to_have_text(EVIL)
    expect(harness.message("a").locator(".state")).to_contain_text(EVIL)
    expect(harness.message("a").locator("summary")).to_have_text(EVIL)
    expect(harness.message("a").locator("dd")).to_have_text(EVIL)
    expect(harness.message("r").get_by_role("heading")).to_have_text(EVIL)
    harness.log(chat=None, empty=EVIL, suggestions=[EVIL])
    expect(harness.page.locator(".empty p")).to_have_text(EVIL)
    expect(harness.page.locator("#log :is(img, script)")).to_have_count(0)
    assert harness.page.evaluate("window.pwned") is None
