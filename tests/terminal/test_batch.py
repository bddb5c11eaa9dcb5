"""Batches with a fake engine: results and their order, resuming, and files that are refused."""

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

from model.errors import LinlyError
from model.translations import LocalizedText
from model.types import Emit, EngineRequest
from terminal import batch
from terminal.batch import WINDOW, Record, in_order
from terminal.jsonl import BatchRow
from terminal.options import read_terminal_options
from tests.fake_engine import FakeEngine, echo, fake_load

TIMEOUT_SECONDS = 60


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
    """Answers `source`; returns the exit status."""
    argv = ["--data_file", str(source), *flags]
    options = read_terminal_options(argv, {}, has_keyboard=True)
    defaults = replace(options.defaults, adapter=adapter)
    load = fake_load(engine or FakeEngine(echo), fail=fail)
    return batch.run(replace(options, output_file=target), defaults, load)


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def replies(path: Path) -> list[str]:
    return [result["reply"] for result in results(path)]


def expected(model: str = "base", last: int = 7) -> list[str]:
    return [f"{model} heard: question {n} " for n in range(1, last + 1)]


def test_a_record_has_the_rows_fields_and_the_reply(source: Path, target: Path) -> None:
    source.write_text('{"id": 7, "prompt": "你好", "adapter": "other"}\n')
    assert run(source, target, adapter="pirate") == 0
    text = target.read_text()
    assert "你好" in text
    assert json.loads(text) == {
        "id": 7, "prompt": "你好", "reply": "pirate heard: 你好 ", "finish_reason": "stop",
        "prompt_tokens": len("<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"),
        "completion_tokens": 3, "adapter": "pirate",
    }  # fmt: skip


def test_bad_lines_have_errors_in_their_places(
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


def fails_on_3(prompt: str, request: EngineRequest) -> list[str]:
    return ["half ", "<fail>"] if "question 3" in prompt else echo(prompt, request)


def test_a_failed_reply_does_not_affect_the_others(source: Path, target: Path) -> None:
    assert run(source, target, engine=FakeEngine(fails_on_3)) == 1
    records = results(target)
    assert records[2] == {
        "line": 3,
        "error": "There was not enough memory for this reply. Ask again with a shorter chat.",
    }
    assert [result.get("reply") for result in records[3:]] == expected()[3:]


def test_a_line_that_is_too_long_gets_an_error(source: Path, target: Path) -> None:
    source.write_text(f"short\n{'long ' * 500}\nshort\n")
    assert run(source, target) == 1
    assert " fit" in results(target)[1]["error"]


class StoppingEngine(FakeEngine):
    """Stops for good at question 4."""

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        if "question 4" in "".join(map(chr, request.prompt_ids)):
            self.error = LocalizedText("engine_stopped", {"error": "out of memory"})
        super().submit(request, emit)


def fails_on_4(prompt: str, request: EngineRequest) -> list[str]:
    return ["<fail>"] if "question 4" in prompt else echo(prompt, request)


def test_a_stopped_engine_ends_the_batch_and_another_run_continues_it(
    source: Path, target: Path
) -> None:
    with pytest.raises(LinlyError, match="The engine stopped"):
        run(source, target, "--max_sequences", "1", engine=StoppingEngine(fails_on_4))
    assert replies(target) == expected(last=3)
    assert run(source, target) == 0
    assert replies(target) == expected()


def test_each_line_has_its_own_seed(source: Path, target: Path) -> None:
    for flags, seeds in (["--seed", "5"], {6, 7, 8, 9, 10, 11, 12}), ([], {None}):
        engine = FakeEngine(echo)
        target.unlink(missing_ok=True)
        run(source, target, *flags, engine=engine)
        assert {request.sampling.seed for request in engine.requests} == seeds


class CountingEngine(FakeEngine):
    """Holds the first three replies until all three are submitted; counts the running ones."""

    max_running = 0

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        super().submit(request, emit)
        self.max_running = max(self.max_running, self.status().running)
        if len(self.requests) == 3:
            self.tick(10_000)


def test_max_sequences_replies_run_at_once(source: Path, target: Path) -> None:
    engine = CountingEngine(echo, ticking=True)
    assert run(source, target, "--max_sequences", "3", engine=engine) == 0
    assert engine.max_running == 3
    assert replies(target) == expected()


def test_in_order_bounds_the_rows_that_wait_for_a_slow_first_one() -> None:
    """And their results come out in order."""
    width, read = 2, []

    def rows() -> Iterator[BatchRow]:
        for number in range(100):
            read.append(number)
            yield BatchRow(number)

    async def collect() -> tuple[int, list[Record]]:
        window_full = asyncio.Event()
        rows_read = 0

        async def answer(row: BatchRow) -> Record:
            nonlocal rows_read
            if row.number == 0:
                await window_full.wait()
                for _ in range(2000):  # time for more rows, if there was no bound
                    await asyncio.sleep(0)
                rows_read = len(read)
            if row.number == WINDOW * width - 1:
                window_full.set()
            return {"line": row.number}

        records = [record async for record in in_order(rows(), answer, width)]
        return rows_read, records

    rows_read, records = asyncio.run(asyncio.wait_for(collect(), TIMEOUT_SECONDS))
    assert [record["line"] for record in records] == list(range(100))
    # Beside those in the window and in the queue, one is being read and one is being taken.
    assert rows_read <= WINDOW * width + width + 2


def test_in_order_yields_a_result_before_the_next_line_comes() -> None:
    """For example if the input is `tail -f`."""
    answered = False

    async def collect() -> None:
        more = threading.Event()

        def rows() -> Iterator[BatchRow]:
            yield BatchRow(1)
            assert more.wait(TIMEOUT_SECONDS)

        async def answer(row: BatchRow) -> Record:
            return {"line": row.number}

        nonlocal answered
        async for _ in in_order(rows(), answer, 4):
            answered = True
            more.set()

    asyncio.run(asyncio.wait_for(collect(), TIMEOUT_SECONDS))
    assert answered


def test_in_order_raises_an_error_of_the_reading_thread() -> None:
    def rows() -> Iterator[BatchRow]:
        yield BatchRow(1)
        raise OSError("gone")

    async def answer(row: BatchRow) -> Record:
        return {}

    async def collect() -> list[Record]:
        return [record async for record in in_order(rows(), answer, 2)]

    with pytest.raises(OSError, match="gone"):
        asyncio.run(asyncio.wait_for(collect(), TIMEOUT_SECONDS))


# Resuming an earlier run


@pytest.mark.parametrize("incomplete", ["", '{"prompt": "quest', '{"whole": 1}'])
def test_a_run_continues_after_the_complete_lines(
    incomplete: str, source: Path, target: Path
) -> None:
    run(source, target)
    complete = target.read_text()
    target.write_text("".join(complete.splitlines(keepends=True)[:3]) + incomplete)
    engine = FakeEngine(echo)
    assert run(source, target, engine=engine) == 0
    assert target.read_text() == complete
    assert len(engine.requests) == 4


@pytest.mark.parametrize("content", ['{"my": "only copy"}', "my notes", "[1, 2]"])
def test_a_file_of_another_program_is_not_changed(content: str, source: Path, target: Path) -> None:
    """Here it has no complete line, as files of one JSON value often have none."""
    target.write_text(content)
    with pytest.raises(LinlyError, match=r"Line 1 of .* is not a reply"):
        run(source, target)
    assert target.read_text() == content


def test_a_complete_output_is_reported_and_no_model_is_loaded(
    source: Path, target: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(source, target)
    assert run(source, target, fail=AssertionError("loaded")) == 0
    assert capfd.readouterr().err == f"{target} already has the results of all 7 lines.\n"


def test_failures_of_an_earlier_run_count(source: Path, target: Path) -> None:
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
def test_replies_to_another_input_are_refused_and_not_changed(
    change: Any, line: int, source: Path, target: Path
) -> None:
    run(source, target)
    target.write_text("".join(change(target.read_text().splitlines(keepends=True))) + "incomplete")
    before = target.read_text()
    with pytest.raises(LinlyError, match=f"Line {line} of {target} is not a reply to this input"):
        run(source, target)
    assert target.read_text() == before


def test_a_file_of_replies_can_be_answered_again(
    source: Path, target: Path, tmp_path: Path
) -> None:
    """The new replies replace those in the input."""
    run(source, target)
    again = tmp_path / "again.jsonl"
    assert run(target, again, adapter="pirate") == 0
    assert replies(again) == expected("pirate")
    assert run(target, again, adapter="pirate") == 0


def ctrl_c_on_4(prompt: str, request: EngineRequest) -> Iterator[str]:
    if "question 4" not in prompt:
        yield from echo(prompt, request)
        return
    os.kill(os.getpid(), signal.SIGINT)
    while True:
        yield ""


def test_ctrl_c_keeps_the_results_and_another_run_continues(
    source: Path, target: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status = run(source, target, "--max_sequences", "1", engine=FakeEngine(ctrl_c_on_4))
    assert status == 1
    assert capfd.readouterr().err == (
        f"Interrupted. {target} holds 3 results: the same command continues after them.\n"
    )
    assert replies(target) == expected(last=3)
    assert run(source, target) == 0
    assert replies(target) == expected()


# Files that cannot be used


def utf16(source: Path, target: Path) -> None:
    source.write_bytes("question".encode("utf-16"))


def folder(source: Path, target: Path) -> None:
    source.unlink()
    source.mkdir()


def same(source: Path, target: Path) -> None:
    target.symlink_to(source)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s, t: s.unlink(), "There is no file .*questions.txt. Check"),
        (lambda s, t: s.rename(s.with_name("question.txt")), "Did you mean question.txt?"),
        (folder, "questions.txt cannot be read: Is a directory"),
        (utf16, "is UTF-16 text. Save it as UTF-8"),
        (lambda s, t: s.write_text("\n \n"), "has no lines to answer"),
        (lambda s, t: s.write_text(""), "has no lines to answer"),
        (lambda s, t: t.mkdir(), "replies.jsonl cannot be written: Is a directory"),
        (same, "--data_file and --output_file are the same"),
    ],
)
def test_an_unusable_file_is_reported_on_one_line(
    spoil: Any, message: str, source: Path, target: Path
) -> None:
    spoil(source, target)
    with pytest.raises(LinlyError, match=message) as raised:
        run(source, target)
    assert "\n" not in str(raised.value)


def test_a_missing_output_folder_is_reported_before_the_model_is_loaded(
    source: Path, tmp_path: Path
) -> None:
    with pytest.raises(LinlyError, match="nowhere/g cannot be written: No such file"):
        run(source, tmp_path / "nowhere" / "g", fail=AssertionError("loaded"))


def test_a_full_disk_is_reported(source: Path) -> None:
    with pytest.raises(LinlyError, match="/dev/full cannot be written: No space left"):
        run(source, Path("/dev/full"))


def test_a_model_that_cannot_be_loaded_is_reported(source: Path, target: Path) -> None:
    with pytest.raises(LinlyError, match="There is not enough memory to load this model"):
        run(source, target, fail=LinlyError("loading_out_of_memory"))
