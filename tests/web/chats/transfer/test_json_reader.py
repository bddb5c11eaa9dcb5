"""JSON reader: it reads and refuses the same as `json.loads`, in small steps."""

from __future__ import annotations

import json
import random
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

import pytest

from web.chats.transfer import json_reader
from web.chats.transfer.json_reader import JsonError, JsonReader


@pytest.fixture(params=[16, 17, 64, 32_768])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(json_reader, "WINDOW", request.param)
    monkeypatch.setattr(json_reader, "MAX_DEPTH", 1000)
    return int(request.param)


def read(text: str) -> Any:
    reader = JsonReader(text)
    value = reader.value()
    if reader.peek():
        raise JsonError
    return value


VALUES: list[Any] = [
    None, True, False, 0, -1.5e-7, 123_456_789_012, "", "a", '"\\/\b\f\n\r\t', "字🦙" * 50,
    "\\" * 99, "\ud83d", "\u2028", [], {}, [[]], [{}], {"": {"": []}}, [1, [2, [3]]],
    {"a": 1, "b": [True, "x"]}, list(range(100)), {str(n): {"text": "字" * n} for n in range(30)},
]  # fmt: skip


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_reader_reads_what_json_dumps_wrote(
    value: Any, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert joined(read(f" {text}\n")) == joined(json.loads(text))


def joined(value: Any) -> str:
    """Returns a value as JSON, in which surrogates of one pair are joined."""
    text = json.dumps(value, ensure_ascii=False)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@pytest.mark.parametrize("seed", range(30))
def test_reader_agrees_with_json_loads(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On texts with an error somewhere: neither reads what the other refuses."""
    dice = random.Random(seed)  # noqa: S311
    text = json.dumps([VALUES] * 2, indent=dice.choice([None, 1]), ensure_ascii=dice.random() < 0.5)
    for _ in range(40):
        monkeypatch.setattr(json_reader, "WINDOW", dice.randrange(20, 400))
        at = dice.randrange(len(text))
        broken = text[:at] + dice.choice('{}[]",:\\0u-x \n\0') + text[at + dice.randrange(2) :]
        try:
            expected = json.loads(broken)
        except ValueError:
            with pytest.raises(JsonError):
                read(broken)
        else:
            assert joined(read(broken)) == joined(expected)


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize(
    "text",
    ["", " ", "[", "]", "[1", "[1,", "[1,]", "[1 2]", "{", '{"a"', '{"a":', '{"a":1', '{"a":1,}',
     "{a:1}", '{1:1}', '"', '"a', '"\\', '"\\u00', '"\\x"', '"\n"', "1 2", "[] []", "nul", "NaN",
     "[Infinity]", "-Infinity", "1" * 5000, "1" * 70_000,
     "[" * 100_000, '{"a":' * 100_000, "[[1," * 100_000],
    ids=lambda text: text[:10],
)  # fmt: skip
def test_reader_refuses_invalid_json(text: str) -> None:
    with pytest.raises(JsonError):
        read(text)


def test_reader_bounds_the_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own stack must not overflow."""
    monkeypatch.setattr(json_reader, "WINDOW", 8)
    deep = json_reader.MAX_DEPTH
    assert read("[" * deep + "]" * deep)
    with pytest.raises(JsonError, match="nested too deeply"):
        read("[" * (deep + 9) + "]" * (deep + 9))


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_reader_skips_a_value(value: Any) -> None:
    reader = JsonReader(f"[{json.dumps(value)}, 7]")
    items = reader.items()
    next(items)
    reader.skip()
    next(items)
    assert reader.value() == 7


def test_reader_bounds_the_number_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of empty lists took seconds, and a hundred times its size in memory."""
    monkeypatch.setattr(json_reader, "WINDOW", 16)
    monkeypatch.setattr(json_reader, "MAX_STEPS", 30)
    assert len(read("[" + "[]," * 29 + "[]]")) == 30
    with pytest.raises(JsonError, match="too many parts"):
        read("[" + "[]," * 30 + "[]]")
    monkeypatch.setattr(json_reader, "MAX_STEPS", 1000)
    monkeypatch.setattr(json_reader, "MAX_ITEMS", 20)
    for text in ("[" + "1," * 99 + "1]", json.dumps(dict.fromkeys(map(str, range(99)), 1))):
        with pytest.raises(JsonError, match="too many parts"):
            read(text)


def test_reader_yields_at_items_and_members() -> None:
    reader = JsonReader('{"a": [1, [2]], "b": {"c": "d"}}')
    found: list[Any] = []
    for key in reader.members():
        if reader.peek() == "[":
            found += [(key, reader.value()) for _ in reader.items()]
        else:
            found.append((key, reader.value()))
    assert reader.peek() == ""
    assert found == [("a", 1), ("a", [2]), ("b", {"c": "d"})]


def test_each_call_into_c_gets_at_most_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the file: all other threads wait for such a call."""
    longest = 0
    text = json.dumps([{"text": "x" * 300_000}, [[]] * 15_000, "\n" * 100_000])

    class RecordingDecoder(json.JSONDecoder):
        def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
            nonlocal longest
            longest = max(longest, len(s))
            return super().raw_decode(s, idx)

    def record(s: str, *args: Any) -> Any:
        nonlocal longest
        longest = max(longest, len(s))
        return scanstring(s, *args)

    monkeypatch.setattr(json_reader, "scanstring", record)
    monkeypatch.setattr(json_reader, "JSONDecoder", RecordingDecoder)
    assert JsonReader(text).value() == json.loads(text)
    assert 0 < longest <= json_reader.WINDOW + 1
