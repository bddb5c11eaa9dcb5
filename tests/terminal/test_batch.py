"""Files of questions over a fake engine: order, bounds, resuming, and every bad file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.translations import verbatim
from model.types import Emit, EngineRequest, LinlyError
from terminal import batch
from terminal.jsonl import BatchRow
from terminal.options import RequestDefaults, read_options
from terminal.order import WINDOW, Result, in_order
from tests.fake import FakeEngine, echo, fake_load

SECONDS = 20  # after which something hangs


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "questions.txt"
    path.write_text("".join(f"question {n}\n" for n in range(1, 8)))
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "replies.jsonl"


def run(
    source: Path, target: Path | None, *flags: str, engine: FakeEngine | None = None,
    adapter: str | None = None, fail: Exception | None = None,
) -> int:  # fmt: skip
    """The exit status."""
    argv = ["--data_file", str(source), *flags]
    options = read_options(argv, {}, has_keyboard=True)
    wishes = replace(options.defaults, adapter=adapter)
    load = fake_load(engine or FakeEngine(echo), fail=fail)
    return batch.run(replace(options, output_file=target), wishes, load)


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def replies(path: Path) -> list[str]:
    return [result["reply"] for result in results(path)]


def expected(who: str = "base", last: int = 7) -> list[str]:
    return [f"{who} heard: question {n} " for n in range(1, last + 1)]


def test_a_row_keeps_its_fields_and_gets_a_reply(source: Path, target: Path) -> None:
    source.write_text('{"id": 7, "prompt": "你好", "adapter": "other"}\n')
    assert run(source, target, adapter="pirate") == 0
    text = target.read_text()
    assert "你好" in text
    assert json.loads(text) == {
        "id": 7, "prompt": "你好", "reply": "pirate heard: 你好 ", "finish_reason": "stop",
        "prompt_tokens": len("<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"),
        "completion_tokens": 3, "adapter": "pirate",
    }  # fmt: skip


def test_bad_lines_stand_in_their_places(
    source: Path, target: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source.write_text('a\n{"prompt": 3}\n\nb\n[]\n')
    assert run(source, target) == 1
    a, two, b, five = results(target)
    assert (a["reply"], b["reply"]) == ("base heard: a ", "base heard: b ")
    assert two == {"line": 2, "error": '"prompt" is not text, or empty.'}
    assert five["line"] == 5
    assert capfd.readouterr() == (
        "", '2 of 4 lines got no reply; the first is line 2: "prompt" is not text, or empty.\n'
    )  # fmt: skip


def some_fail(prompt: str, request: EngineRequest) -> list[str]:
    return ["half ", "<fail>"] if "question 3" in prompt else echo(prompt, request)


def test_a_reply_that_fails_leaves_the_others_alone(source: Path, target: Path) -> None:
    assert run(source, target, engine=FakeEngine(some_fail)) == 1
    found = results(target)
    sentence = "There was not enough memory for this reply. Ask again with a shorter chat."
    assert found[2] == {"line": 3, "error": sentence}
    assert [result.get("reply") for result in found[3:]] == expected()[3:]


def test_a_line_that_is_too_long_is_its_own_problem(source: Path, target: Path) -> None:
    source.write_text(f"short\n{'long ' * 500}\nshort\n")
    assert run(source, target) == 1
    assert "room for" in results(target)[1]["error"]


class Dying(FakeEngine):
    """Stops for good at question 4."""

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        if "question 4" in "".join(map(chr, request.prompt_ids)):
            self.error = verbatim("The engine stopped: out of memory")
        super().submit(request, emit)


def dies(prompt: str, request: EngineRequest) -> list[str]:
    return ["<fail>"] if "question 4" in prompt else echo(prompt, request)


def test_an_engine_that_has_stopped_ends_it_and_can_be_gone_on_with(
    source: Path, target: Path
) -> None:
    with pytest.raises(LinlyError, match="The engine stopped"):
        run(source, target, "--max_sequences", "1", engine=Dying(dies))
    assert replies(target) == expected(last=3)
    assert run(source, target) == 0
    assert replies(target) == expected()


def test_seeds_belong_to_lines(source: Path, target: Path) -> None:
    for flags, seeds in (["--seed", "5"], {6, 7, 8, 9, 10, 11, 12}), ([], {None}):
        engine = FakeEngine(echo)
        target.unlink(missing_ok=True)
        run(source, target, *flags, engine=engine)
        assert {request.sampling.seed for request in engine.requests} == seeds


class Crowd(FakeEngine):
    """Lets the first three replies go once all three are there; remembers how many there were."""

    most = 0

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        super().submit(request, emit)
        self.most = max(self.most, self.status().running)
        if len(self.requests) == 3:
            self.tick(10_000)


def test_as_many_at_once_as_are_allowed(source: Path, target: Path) -> None:
    engine = Crowd(echo, ticking=True)
    assert run(source, target, "--max_sequences", "3", engine=engine) == 0
    assert engine.most == 3
    assert replies(target) == expected()


def test_the_first_being_slow_holds_back_a_bounded_number() -> None:
    """And what is held comes out in order."""
    width, read = 2, []

    def rows() -> Iterator[BatchRow]:
        for number in range(100):
            read.append(number)
            yield BatchRow(number)

    async def collect() -> tuple[int, list[Result]]:
        others = asyncio.Event()
        read_by_then = 0

        async def answer(row: BatchRow) -> Result:
            nonlocal read_by_then
            if row.number == 0:
                await others.wait()
                for _ in range(2000):  # in which all the others would come, if they could
                    await asyncio.sleep(0)
                read_by_then = len(read)
            if row.number == WINDOW * width - 1:
                others.set()
            return {"line": row.number}

        found = [result async for result in in_order(rows(), answer, width)]
        return read_by_then, found

    read_by_then, found = asyncio.run(asyncio.wait_for(collect(), SECONDS))
    assert [result["line"] for result in found] == list(range(100))
    # Besides those that are held: two on their way, one at each end of it.
    assert read_by_then <= WINDOW * width + width + 2


def test_a_result_does_not_wait_for_the_next_line() -> None:
    """As behind `tail -f`."""
    answered = False

    async def collect() -> None:
        more = threading.Event()

        def rows() -> Iterator[BatchRow]:
            yield BatchRow(1)
            assert more.wait(SECONDS)

        async def answer(row: BatchRow) -> Result:
            return {"line": row.number}

        nonlocal answered
        async for _ in in_order(rows(), answer, 4):
            answered = True
            more.set()

    asyncio.run(asyncio.wait_for(collect(), SECONDS))
    assert answered


def test_an_error_while_reading_comes_out() -> None:
    def rows() -> Iterator[BatchRow]:
        yield BatchRow(1)
        raise OSError("gone")

    async def answer(row: BatchRow) -> Result:
        return {}

    async def collect() -> list[Result]:
        return [result async for result in in_order(rows(), answer, 2)]

    with pytest.raises(OSError, match="gone"):
        asyncio.run(asyncio.wait_for(collect(), SECONDS))


# Going on with an earlier run


@pytest.mark.parametrize("torn", ["", '{"prompt": "quest', '{"whole": 1}'])
def test_it_goes_on_behind_whole_lines(torn: str, source: Path, target: Path) -> None:
    run(source, target)
    whole = target.read_text()
    target.write_text("".join(whole.splitlines(keepends=True)[:3]) + torn)
    engine = FakeEngine(echo)
    assert run(source, target, engine=engine) == 0
    assert target.read_text() == whole
    assert len(engine.requests) == 4


@pytest.mark.parametrize("content", ['{"my": "only copy"}', "my notes", "[1, 2]"])
def test_a_file_of_somebody_elses_is_left_alone(content: str, source: Path, target: Path) -> None:
    """Also where it has no whole line, as files of one JSON value often have none."""
    target.write_text(content)
    with pytest.raises(LinlyError, match=r"Line 1 of .* is no reply"):
        run(source, target)
    assert target.read_text() == content


def test_all_done_is_told_and_nothing_loaded(
    source: Path, target: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(source, target)
    assert run(source, target, fail=AssertionError("loaded")) == 0
    assert capfd.readouterr().err == f"{target} holds the results of all 7 lines.\n"


def test_earlier_failures_still_count(source: Path, target: Path) -> None:
    source.write_text("[]\na\n")
    assert run(source, target) == 1
    assert run(source, target) == 1


def change_question(lines: list[str]) -> list[str]:
    return [lines[0].replace("question 1", "question 9"), *lines[1:]]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (change_question, 1),
        (lambda lines: [*lines, lines[0]], 8),
        (lambda lines: [lines[0], "notes\n"], 2),
        (lambda lines: ['{"prompt": "question 1"}\n'], 1),
        (lambda lines: ['{"line": 2, "error": "x"}\n'], 1),
        (lambda lines: [lines[0].replace("null", '"pirate"')], 1),
    ],
)
def test_replies_to_something_else_are_left_as_they_are(
    change: Any, line: int, source: Path, target: Path
) -> None:
    run(source, target)
    target.write_text("".join(change(target.read_text().splitlines(keepends=True))) + "torn")
    before = target.read_text()
    with pytest.raises(LinlyError, match=f"Line {line} of {target} is no reply to this input"):
        run(source, target)
    assert target.read_text() == before


def test_replies_can_be_asked_for_again(source: Path, target: Path, tmp_path: Path) -> None:
    """A file of replies is an input as well: its replies give way to the new ones."""
    run(source, target)
    again = tmp_path / "again.jsonl"
    assert run(target, again, adapter="pirate") == 0
    assert replies(again) == expected("pirate")
    assert run(target, again, adapter="pirate") == 0


def stops_itself(prompt: str, request: EngineRequest) -> Iterator[str]:
    if "question 4" not in prompt:
        yield from echo(prompt, request)
        return
    os.kill(os.getpid(), signal.SIGINT)
    while True:
        yield ""


def test_ctrl_c_keeps_what_is_written_and_says_how_to_go_on(
    source: Path, target: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status = run(source, target, "--max_sequences", "1", engine=FakeEngine(stops_itself))
    assert status == 1
    assert capfd.readouterr().err == (
        f"Interrupted. {target} holds 3 results: the same command goes on behind them.\n"
    )
    assert replies(target) == expected(last=3)
    assert run(source, target) == 0
    assert replies(target) == expected()


# Bad files


def encoded(source: Path, target: Path) -> None:
    source.write_bytes("question".encode("utf-16"))


def folder(source: Path, target: Path) -> None:
    source.unlink()
    source.mkdir()


def same(source: Path, target: Path) -> None:
    target.symlink_to(source)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda s, t: s.unlink(), "There is no file .*questions.txt. Check"),
        (lambda s, t: s.rename(s.with_name("question.txt")), "Did you mean question.txt?"),
        (folder, "questions.txt cannot be read: Is a directory"),
        (encoded, "is UTF-16 text. Save it as UTF-8"),
        (lambda s, t: s.write_text("\n \n"), "holds no lines to answer"),
        (lambda s, t: s.write_text(""), "holds no lines to answer"),
        (lambda s, t: t.mkdir(), "replies.jsonl cannot be written: Is a directory"),
        (same, "--data_file and --output_file are the same"),
    ],
)
def test_a_bad_file_is_one_sentence(spoil: Any, says: str, source: Path, target: Path) -> None:
    spoil(source, target)
    with pytest.raises(LinlyError, match=says) as raised:
        run(source, target)
    assert "\n" not in str(raised.value)


def test_a_missing_output_folder_is_found_before_loading(source: Path, tmp_path: Path) -> None:
    with pytest.raises(LinlyError, match="nowhere/g cannot be written: No such file"):
        run(source, tmp_path / "nowhere" / "g", fail=AssertionError("loaded"))


def test_a_full_disk_is_one_sentence(source: Path) -> None:
    with pytest.raises(LinlyError, match="/dev/full cannot be written: No space left"):
        run(source, Path("/dev/full"))


def test_a_model_that_does_not_load_is_one_sentence(source: Path, target: Path) -> None:
    with pytest.raises(LinlyError, match="nothing there"):
        run(source, target, fail=LinlyError(verbatim("nothing there")))


def test_the_default_wishes_are_those_of_a_chat() -> None:
    assert RequestDefaults() == read_options(["--data_file", "f"], {}, has_keyboard=True).defaults
