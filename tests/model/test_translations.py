"""Texts in every language: found by themselves, complete, and safe to read back."""

from __future__ import annotations

import ast
import json
import shutil
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from model import translations
from model.config.settings import CHECKOUT
from model.diagnostics import finding
from model.errors import AdapterError, EngineError, LinlyError, RequestError
from model.translations import (
    LocalizedText,
    coded,
    known_language,
    languages,
    load_text,
    table,
    texts,
    translate,
    verbatim,
    without_folders,
)

TABLES = ("language", "page", "scripts", "errors", "diagnostics", "check")
SOURCES = ["app.py", "finetune.py", "inference_LLaMA.py"]
PACKAGES = ("model", "web", "training", "terminal", "bench")
# Names of functions and classes whose first argument is a code, beside all that end in `Error`.
CODED = {"finding", "folder_error", "adapter_error", "LocalizedText", "did_you_mean"}
CODE_ARGUMENT = {"did_you_mean": 2, "GateError": 1}


@pytest.fixture
def third(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A language whose folder has a few texts only."""
    folder = tmp_path / "translations"
    shutil.copytree(translations.FOLDER, folder)
    made = folder / "de"
    made.mkdir()
    (made / "language.toml").write_text('name = "Deutsch"\n', encoding="utf-8")
    (made / "page.toml").write_text('send = "Senden"\n', encoding="utf-8")
    (made / "scripts.toml").write_text('copy = "Kopieren"\n', encoding="utf-8")
    (made / "check.toml").write_text('[words]\nsound = "Alles gut."\n', encoding="utf-8")
    errors = '[link_ended]\nmessage = "Dieser Link ist zu Ende"\n'
    (made / "errors.toml").write_text(errors, encoding="utf-8")
    monkeypatch.setattr(translations, "FOLDER", folder)
    clear()
    yield "de"
    monkeypatch.undo()
    clear()


def clear() -> None:
    for cached in (translations.languages, translations.table, translations.coded):
        cached.cache_clear()


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def own(language: str, name: str) -> dict[str, str]:
    """What a language's own file has, without the English that fills it up."""
    import tomllib

    path = translations.FOLDER / language / f"{name}.toml"
    return dict(leaves(tomllib.loads(path.read_text(encoding="utf-8"))))


def places(text: str) -> set[str]:
    return {name.partition(".")[0] for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("language", [tag for tag in languages() if tag != "en"])
def test_a_language_has_no_text_and_no_place_that_english_lacks(language: str, name: str) -> None:
    english = own("en", name)
    for key, text in own(language, name).items():
        assert key in english
        assert places(text) <= places(english[key]), key


@pytest.mark.parametrize("name", ["page", "scripts", "diagnostics"])
def test_chinese_is_complete_on_the_page(name: str) -> None:
    levels = {key for key in own("en", name) if key.endswith(".level")}
    assert own("zh", name).keys() == own("en", name).keys() - levels


def sources() -> Iterator[ast.AST]:
    files = [CHECKOUT / name for name in SOURCES]
    files += [path for package in PACKAGES for path in (CHECKOUT / package).rglob("*.py")]
    for path in files:
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def used() -> Iterator[tuple[str, set[str] | None]]:
    """Each code in the sources, with the facts that are passed with it; None where they are not
    keywords or a literal dict."""
    for node in sources():
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name not in CODED and not name.endswith("Error") and name != "__init__":
            continue
        at = CODE_ARGUMENT.get(name, 0)
        code = node.args[at] if len(node.args) > at else None
        if not isinstance(code, ast.Constant) or code.value not in coded("en"):
            continue
        given: set[str] | None = {k.arg for k in node.keywords if k.arg} - {"retry_after"}
        if any(k.arg is None for k in node.keywords):
            given = None
        if name == "LocalizedText" and len(node.args) > 1:
            facts = node.args[1]
            literal = isinstance(facts, ast.Dict)
            given = {k.value for k in facts.keys} if literal else None  # type: ignore[union-attr]
        yield code.value, given


def strings() -> set[str]:
    return {node.value for node in sources() if isinstance(node, ast.Constant)
            and isinstance(node.value, str)}  # fmt: skip


def test_every_code_is_given_the_facts_of_its_texts() -> None:
    found = list(used())
    assert len(found) > 300
    for code, given in found:
        entry = coded("en")[code]
        needed = places(entry["message"]) | places(entry.get("remedy", ""))
        assert given is None or needed <= given, code


def test_no_text_is_left_over() -> None:
    assert coded("en").keys() - strings() == set()


def test_an_unknown_code_is_a_fault_of_the_program() -> None:
    with pytest.raises(KeyError):
        LocalizedText("no_such_code").message()


def test_message_remedy_and_both() -> None:
    text = LocalizedText("queue_full", {"waiting": 3, "seconds": 7.4})
    assert text.message() == "3 replies are waiting already"
    assert text.remedy() == "Try again in about 7 s."
    assert text.full() == str(text) == "3 replies are waiting already. Try again in about 7 s."
    assert text.full("zh") == "已有 3 条回复在排队。请在约 7 秒后再试。"
    assert LocalizedText("prompt_empty").sentence("zh").endswith("。")


def test_a_text_within_a_text_is_in_the_same_language() -> None:
    broken = finding("tokenizer_too_large", pieces=49953, rows=32000)
    error = AdapterError("adapter_broken", name="pirate", problem=broken)
    assert broken.message("zh") in error.text.full("zh")
    assert broken.remedy("zh") in error.text.full("zh")
    assert broken.message() in str(error)


def test_an_error_as_a_fact_leaves_its_text_and_no_stack() -> None:
    error = RequestError("model_not_loaded", error=EngineError("shutting_down"))
    assert isinstance(error.text.facts["error"], LocalizedText)
    assert str(error) == "The model could not be loaded: The program is shutting down"
    assert RequestError("reply_failed", reason=OSError("no")).text.facts["reason"] == "no"


def test_lists_are_joined_as_the_language_does() -> None:
    text = LocalizedText("there_are", {"names": ("alpaca", "linly")})
    assert (text.message(), text.message("zh")) == (
        "There are: alpaca, linly.",
        "现有：alpaca、linly。",
    )


def test_what_is_kept_comes_back() -> None:
    inner = finding("file_missing", folder="x", name="y")
    text = LocalizedText("adapter_broken", {"name": "ü", "problem": inner})
    again = load_text(text.dump())
    assert again.full("zh") == text.full("zh")
    assert load_text(LocalizedText("queue_full", {"waiting": 1, "seconds": 2.5}).dump()).full()


@pytest.mark.parametrize("stored", [
    "The engine stopped: no.", "", "{", "[]", "{}", '{"code": 1, "facts": {}}',
    '{"code": [], "facts": {}}', '{"code": {}, "facts": {}}', '{"code": "queue_full"}',
    '{"code": "no_such", "facts": {}}', '{"code": "queue_full", "facts": []}',
    '{"code": "queue_full", "facts": {}}',
    '{"code": "queue_full", "facts": {"waiting": 1, "seconds": "x"}}',
    '{"code": "adapter_broken", "facts": {"name": "x", "problem": "no text"}}',
    '{"code": "shutting_down", "facts": null}', '{"a": ' * 5_000,
    json.dumps({"code": "shutting_down", "facts": {str(n): n for n in range(100)}}),
])  # fmt: skip
def test_what_is_none_of_its_texts_is_shown_as_it_is(stored: str) -> None:
    text = load_text(stored)
    assert text.code == translations.VERBATIM
    assert text.facts["text"] == stored
    assert isinstance(text.sentence("zh"), str)


def test_texts_that_are_nested_too_deeply_are_shown_as_they_are() -> None:
    deep = LocalizedText("shutting_down")
    for _ in range(10):
        deep = LocalizedText("model_not_loaded", {"error": deep})
    assert load_text(deep.dump()).code == translations.VERBATIM


def test_facts_are_cleaned_and_bounded_where_they_are_shown() -> None:
    shown = finding("file_missing", folder="a\n\u202eb", name="x" * 100_000).message()
    assert "\n" not in shown
    assert "\u202e" not in shown
    assert len(shown) < 3_000


def test_a_place_in_a_fact_is_text() -> None:
    assert "{seconds}" in verbatim("{seconds} {0.__class__}").message()


def test_folders_are_left_out_of_nested_facts() -> None:
    inner = finding("file_unreadable", file=Path("/home/mei/base/config.json"), said="torn")
    text = without_folders(LocalizedText("model_not_loaded", {"error": inner}))
    assert "config.json" in text.full()
    assert "/home" not in text.full()


def test_tags_of_browsers() -> None:
    assert known_language("zh-CN") == known_language("zh") == "zh"
    assert [known_language(tag) for tag in ("", None, "xx", "../en", "EN-us")] == ["en"] * 5


def test_a_third_language_is_found_by_itself(third: str) -> None:
    from model.doctor.report import Report
    from web.public_link.middleware import _ended
    from web.ui.custom_components import script_texts
    from web.ui.request_models import Language

    assert next(iter(languages().items())) == ("en", "English")
    assert languages()[third] == "Deutsch"
    assert known_language("de-AT") == third
    assert translate(third, "send") == "Senden"
    assert texts(third)["stop"] == texts("en")["stop"]
    assert script_texts()[third]["copy"] == "Kopieren"
    assert "Dieser Link ist zu Ende. Ask its sender" in _ended()
    assert Report(Path("x"), "base", (), ()).to_text(third).endswith("Alles gut.")
    assert Language(language=third).language == third


def test_every_error_has_texts_by_code() -> None:
    """The message of a LinlyError is never written where it is raised."""
    with pytest.raises(TypeError):
        LinlyError("shutting_down", "and a remedy")  # type: ignore[arg-type, call-arg]
    assert table("en", "errors").keys().isdisjoint(table("en", "diagnostics"))
