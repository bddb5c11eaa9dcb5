"""Texts in every language: found without registration, complete, and safe to read from storage."""

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
    languages,
    load_text,
    redact_paths,
    supported_language,
    table,
    texts,
    texts_by_code,
    translate,
    verbatim,
)

TABLES = ("language", "page", "scripts", "errors", "diagnostics", "check")
SOURCES = ["app.py", "finetune.py", "inference_LLaMA.py"]
PACKAGES = ("model", "web", "training", "terminal", "bench")
# Functions and classes whose first argument is a code, besides all names that end in `Error`.
CODED = {"finding", "folder_error", "adapter_error", "LocalizedText", "did_you_mean"}
CODE_ARGUMENT = {"did_you_mean": 2, "RejectedError": 1}


@pytest.fixture
def third_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The tag of a third_language language, which has only a few texts."""
    folder = tmp_path / "translations"
    shutil.copytree(translations.FOLDER, folder)
    german = folder / "de"
    german.mkdir()
    (german / "language.toml").write_text('name = "Deutsch"\n', encoding="utf-8")
    (german / "page.toml").write_text('send = "Senden"\n', encoding="utf-8")
    (german / "scripts.toml").write_text('copy = "Kopieren"\n', encoding="utf-8")
    (german / "check.toml").write_text('[words]\nsound = "Alles gut."\n', encoding="utf-8")
    errors = '[link_ended]\nmessage = "Dieser Link ist zu Ende"\n'
    (german / "errors.toml").write_text(errors, encoding="utf-8")
    monkeypatch.setattr(translations, "FOLDER", folder)
    clear()
    yield "de"
    monkeypatch.undo()
    clear()


def clear() -> None:
    for cached in (translations.languages, translations.table, translations.texts_by_code):
        cached.cache_clear()


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def texts_of_file(language: str, name: str) -> dict[str, str]:
    """The texts in a language's file, without the English ones for missing texts."""
    import tomllib

    path = translations.FOLDER / language / f"{name}.toml"
    return dict(leaves(tomllib.loads(path.read_text(encoding="utf-8"))))


def placeholders(text: str) -> set[str]:
    return {name.partition(".")[0] for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("language", [tag for tag in languages() if tag != "en"])
def test_language_has_no_text_and_no_placeholder_that_english_lacks(
    language: str, name: str
) -> None:
    english = texts_of_file("en", name)
    for key, text in texts_of_file(language, name).items():
        assert key in english
        assert placeholders(text) <= placeholders(english[key]), key


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("language", [tag for tag in languages() if tag != "en"])
def test_every_language_has_every_text_of_english(language: str, name: str) -> None:
    """A missing text would be shown in English without a warning."""
    levels = {key for key in texts_of_file("en", name) if key.endswith(".level")}
    assert texts_of_file(language, name).keys() == texts_of_file("en", name).keys() - levels


def sources() -> Iterator[ast.AST]:
    files = [CHECKOUT / name for name in SOURCES]
    files += [path for package in PACKAGES for path in (CHECKOUT / package).rglob("*.py")]
    for path in files:
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def codes_with_facts() -> Iterator[tuple[str, set[str] | None]]:
    """Each code in the sources, with the names of its facts; None if these are no keywords and no
    literal dict."""
    for node in sources():
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name not in CODED and not name.endswith("Error") and name != "__init__":
            continue
        position = CODE_ARGUMENT.get(name, 0)
        code = node.args[position] if len(node.args) > position else None
        if not isinstance(code, ast.Constant) or code.value not in texts_by_code("en"):
            continue
        fact_names: set[str] | None = {k.arg for k in node.keywords if k.arg} - {"retry_after"}
        if any(k.arg is None for k in node.keywords):
            fact_names = None
        if name == "LocalizedText" and len(node.args) > 1:
            facts = node.args[1]
            literal = isinstance(facts, ast.Dict)
            fact_names = {k.value for k in facts.keys} if literal else None  # type: ignore[union-attr]
        yield code.value, fact_names


def strings() -> set[str]:
    return {node.value for node in sources() if isinstance(node, ast.Constant)
            and isinstance(node.value, str)}  # fmt: skip


def test_every_code_has_the_facts_of_its_texts() -> None:
    codes = list(codes_with_facts())
    assert len(codes) > 300
    for code, fact_names in codes:
        entry = texts_by_code("en")[code]
        needed = placeholders(entry["message"]) | placeholders(entry.get("remedy", ""))
        assert fact_names is None or needed <= fact_names, code


def test_every_text_has_a_use() -> None:
    assert texts_by_code("en").keys() - strings() == set()


def test_unknown_code_is_an_error() -> None:
    with pytest.raises(KeyError):
        LocalizedText("no_such_code").message()


def test_message_remedy_and_full_text() -> None:
    text = LocalizedText("queue_full", {"waiting": 3, "seconds": 7.4})
    assert text.message() == "The queue is full: 3 replies are waiting"
    assert text.remedy() == "Try again in about 7 s."
    assert (
        text.full()
        == str(text)
        == "The queue is full: 3 replies are waiting. Try again in about 7 s."
    )
    assert text.full("zh") == "队列已满：已有 3 条回复在等待。请在约 7 秒后再试。"
    assert LocalizedText("prompt_empty").sentence("zh").endswith("。")


def test_nested_text_is_in_the_same_language() -> None:
    broken = finding("tokenizer_too_large", pieces=49953, rows=32000)
    error = AdapterError("adapter_broken", name="pirate", problem=broken)
    assert broken.message("zh") in error.text.full("zh")
    assert broken.remedy("zh") in error.text.full("zh")
    assert broken.message() in str(error)


def test_error_as_a_fact_is_replaced_by_its_text() -> None:
    error = RequestError("model_not_loaded", error=EngineError("shutting_down"))
    assert isinstance(error.text.facts["error"], LocalizedText)
    assert str(error) == "The model could not be loaded: The program is shutting down"
    assert RequestError("reply_failed", reason=OSError("no")).text.facts["reason"] == "no"


def test_lists_have_the_separators_of_the_language() -> None:
    text = LocalizedText("there_are", {"names": ("alpaca", "linly")})
    assert (text.message(), text.message("zh")) == (
        "Choose one of: alpaca, linly.",
        "可选：alpaca、linly。",
    )


def test_load_text_restores_a_dumped_text() -> None:
    inner = finding("file_missing", folder="x", name="y")
    text = LocalizedText("adapter_broken", {"name": "ü", "problem": inner})
    restored = load_text(text.dump())
    assert restored.full("zh") == text.full("zh")
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
def test_load_text_keeps_other_texts_verbatim(stored: str) -> None:
    text = load_text(stored)
    assert text.code == translations.VERBATIM
    assert text.facts["text"] == stored
    assert isinstance(text.sentence("zh"), str)


def test_load_text_keeps_deeply_nested_texts_verbatim() -> None:
    deep = LocalizedText("shutting_down")
    for _ in range(10):
        deep = LocalizedText("model_not_loaded", {"error": deep})
    assert load_text(deep.dump()).code == translations.VERBATIM


def test_message_cleans_and_shortens_facts() -> None:
    message = finding("file_missing", folder="a\n\u202eb", name="x" * 100_000).message()
    assert "\n" not in message
    assert "\u202e" not in message
    assert len(message) < 3_000


def test_placeholder_in_a_fact_is_text() -> None:
    assert "{seconds}" in verbatim("{seconds} {0.__class__}").message()


def test_redact_paths_includes_nested_facts() -> None:
    inner = finding("file_unreadable", file=Path("/home/mei/base/config.json"), reason="torn")
    text = redact_paths(LocalizedText("model_not_loaded", {"error": inner}))
    assert "config.json" in text.full()
    assert "/home" not in text.full()


def test_supported_language_of_browser_tags() -> None:
    assert supported_language("zh-CN") == supported_language("zh") == "zh"
    assert [supported_language(tag) for tag in ("", None, "xx", "../en", "EN-us")] == ["en"] * 5


def test_third_language_needs_no_registration(third_language: str) -> None:
    from model.doctor.report import Report
    from web.public_link.middleware import ended_text
    from web.ui.custom_components import script_texts
    from web.ui.request_models import Language

    assert next(iter(languages().items())) == ("en", "English")
    assert languages()[third_language] == "Deutsch"
    assert supported_language("de-AT") == third_language
    assert translate(third_language, "send") == "Senden"
    assert texts(third_language)["stop"] == texts("en")["stop"]
    assert script_texts()[third_language]["copy"] == "Kopieren"
    assert "Dieser Link ist zu Ende. Ask its sender" in ended_text()
    assert Report(Path("x"), "base", (), ()).to_text(third_language).endswith("Alles gut.")
    assert Language(language=third_language).language == third_language


def test_every_error_has_texts_by_code() -> None:
    """A LinlyError takes a code, never a message."""
    with pytest.raises(TypeError):
        LinlyError("shutting_down", "and a remedy")  # type: ignore[arg-type, call-arg]
    assert table("en", "errors").keys().isdisjoint(table("en", "diagnostics"))
