"""Trainings in a child process: their events, their end, and their limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from model.translations import LocalizedText, verbatim
from tests.training.fake_finetune import command, until
from training.events import (
    Event,
    HeldOut,
    Note,
    Stage,
    Step,
    TrainingEnded,
    TrainingFailed,
    from_line,
    to_line,
)
from training.job import (
    BusyTrainingError,
    Job,
    StartError,
    TrainingRunner,
    finetune_command,
)

EVENTS = (
    Stage("data"),
    Note(verbatim("3 chats to train on")),
    HeldOut(0, 4.0),
    Stage("training"),
    Step(1, 4, 0.5, 3.5, 100.0, 9.0),
    Step(2, 4, 1.0, 2.5, 110.0, 6.0),
    HeldOut(2, 2.0),
)
LINES = [*map(to_line, EVENTS)]
DONE = to_line(TrainingEnded("adapters/mine", verbatim("mine is ready")))


@contextmanager
def started(lines: list[str], tmp_path: Path) -> Iterator[TrainingRunner]:
    """A runner whose training "mine" prints `lines`."""
    runner = TrainingRunner(command=command(lines, tmp_path / "go"))
    runner.start("mine", tmp_path / "mine", [])
    try:
        yield runner
    finally:
        (tmp_path / "go").touch()
        runner.close()


def start_script(script: str, folder: Path) -> TrainingRunner:
    """A runner whose training "mine" is a Python script."""
    runner = TrainingRunner(command=lambda flags: [sys.executable, "-c", script])
    runner.start("mine", folder, [])
    return runner


def job_of(runner: TrainingRunner) -> Job:
    assert runner.job is not None
    return runner.job


def ended_job(runner: TrainingRunner) -> Job:
    until(lambda: not runner.running)
    return job_of(runner)


@pytest.mark.parametrize("event", EVENTS)
def test_from_line_reads_what_to_line_writes(event: object) -> None:
    assert from_line(to_line(event)) == event  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (EVENTS[0], "Stage"),
        (EVENTS[4], "Step"),
        (TrainingEnded("adapters/mine", verbatim("ready")), "Ended"),
        (TrainingFailed(verbatim("no")), "Failed"),
    ],
)
def test_lines_have_the_event_names_that_other_programs_read(event: Event, name: str) -> None:
    assert json.loads(to_line(event))["event"] == name
    assert from_line(to_line(event)) == event


@pytest.mark.parametrize("line", ["", "warning: x", "{}", "[1]", "3", '{"event": "Step"}',
                                  '{"event": "Other", "a": 1}'])  # fmt: skip
def test_from_line_ignores_other_lines(line: str) -> None:
    assert from_line(line) is None


def test_a_job_follows_its_events_to_the_end(tmp_path: Path) -> None:
    assert TrainingRunner().job is None
    with started([*LINES, "a library says hello", "<wait>", DONE], tmp_path) as runner:
        until(lambda: job_of(runner).measured == ((0, 4.0), (2, 2.0)))
        job = job_of(runner)
        assert job.running
        assert runner.running
        assert (job.stage, job.notes) == ("training", (verbatim("3 chats to train on"),))
        assert job.losses == ((1, 3.5), (2, 2.5))
        (tmp_path / "go").touch()
        job = ended_job(runner)
    assert (job.phase, job.text) == ("done", verbatim("mine is ready"))


def test_a_second_training_is_refused_while_one_runs(tmp_path: Path) -> None:
    with started(["<wait>", DONE], tmp_path) as runner:
        with pytest.raises(BusyTrainingError, match="mine is being trained"):
            runner.start("other", tmp_path / "other", [])
        (tmp_path / "go").touch()
        ended_job(runner)
        runner.start("other", tmp_path / "other", [])
        assert ended_job(runner).name == "other"


def test_a_cancelled_job_has_the_last_error_line(tmp_path: Path) -> None:
    with started([*LINES, "<wait>"], tmp_path) as runner:
        until(lambda: len(job_of(runner).losses) == 2)
        runner.cancel()
        job = ended_job(runner)
    assert job.phase == "stopped"
    assert str(job.text) == "Interrupted after step 2 of 4. The same command continues."


def test_cancelling_twice_sends_one_signal(tmp_path: Path) -> None:
    """A second one, from `cancel` or `close`, would end the child without a checkpoint."""
    script = (
        "import signal, sys, time\n"
        "signals = []\n"
        "signal.signal(signal.SIGINT, lambda *_: signals.append(1))\n"
        f"print({to_line(EVENTS[4])!r}, flush=True)\n"
        "while not signals:\n    time.sleep(0.01)\n"
        "time.sleep(0.3)\n"  # in which a second signal would come
        "print(len(signals), 'signal', file=sys.stderr)\n"
        "sys.exit(1)"
    )
    runner = start_script(script, tmp_path)
    until(lambda: len(job_of(runner).losses) == 1)
    runner.cancel()
    runner.cancel()
    runner.close()
    assert (job_of(runner).phase, job_of(runner).text) == ("stopped", verbatim("1 signal"))


def test_a_process_that_cannot_be_started_leaves_no_job(tmp_path: Path) -> None:
    runner = TrainingRunner(command=lambda flags: [str(tmp_path / "nowhere")])
    for _ in range(2):
        with pytest.raises(StartError, match="could not be started: No such file"):
            runner.start("mine", tmp_path, [])
    assert runner.job is None


def test_output_that_is_not_utf8_does_not_hide_the_error(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.stdout.buffer.write(b'\\xff\\n')\n"
        "sys.stderr.buffer.write(b'\\xfe no good\\n')\n"
        "sys.exit(1)"
    )
    assert str(ended_job(start_script(script, tmp_path)).text).endswith("no good")


def test_a_failed_job_has_the_last_error_line(tmp_path: Path) -> None:
    with started([*LINES, "<fail>"], tmp_path) as runner:
        job = ended_job(runner)
    assert (job.phase, job.text) == (
        "failed",
        verbatim("The training has diverged. Lower the rate."),
    )


def test_a_killed_job_says_that_the_system_ended_it(tmp_path: Path) -> None:
    with started(["<kill>"], tmp_path) as runner:
        job = ended_job(runner)
    assert (job.phase, job.text) == ("failed", LocalizedText("training_killed"))


def test_close_stops_the_training(tmp_path: Path) -> None:
    with started([*LINES, "<wait>"], tmp_path) as runner:
        until(lambda: len(job_of(runner).losses) == 2)
        runner.close()
        assert job_of(runner).phase == "stopped"


def test_the_child_has_low_priority_and_limited_memory(tmp_path: Path) -> None:
    script = (
        "import json, os, resource, sys\n"
        "while True:\n"  # the parent sets the limits right after the start
        "    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]\n"
        "    if limit != resource.RLIM_INFINITY and int(open('/proc/self/oom_score_adj').read()):\n"
        "        break\n"
        "text = json.dumps([os.nice(0), limit])\n"
        "print(json.dumps({'event': 'Note', 'text': text}))"
    )
    (note,) = ended_job(start_script(script, tmp_path)).notes
    niceness, limit = map(int, str(note).strip("[]").split(","))
    assert niceness == os.nice(0) + 10
    assert 0 < limit < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_child_gets_the_extra_environment(tmp_path: Path) -> None:
    script = "import json, os; print(json.dumps({'event': 'Note', 'text': os.environ['LINLY_X']}))"
    runner = TrainingRunner({"LINLY_X": "here"}, lambda flags: [sys.executable, "-c", script])
    runner.start("mine", tmp_path, [])
    assert ended_job(runner).notes == (verbatim("here"),)


def test_finetune_command_runs_finetune_with_json_progress() -> None:
    python, script, *flags = finetune_command(["--data_path=d"])
    assert python == sys.executable
    assert Path(script).is_file()
    assert flags == ["--data_path=d", "--progress", "json"]


def test_print_json_interrupts_the_training_when_its_reader_is_gone() -> None:
    """As if the user had pressed Ctrl-C, so that the training ends with a checkpoint."""
    code = (
        "import sys, time\n"
        "from training.events import Stage\n"
        "from training.interrupt import stoppable\n"
        "from training.progress_bar import print_json\n"
        "with stoppable() as stop:\n"
        "    while not stop.requested:\n"
        "        print_json(Stage('data'))\n"
        "print('lost', flush=True)\n"
        "sys.exit(7)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 7
    assert process.stderr.read() == ""
    process.stderr.close()


def test_the_child_has_its_own_session_so_ctrl_c_in_the_terminal_does_not_reach_it(
    tmp_path: Path,
) -> None:
    script = "import json, os; print(json.dumps({'event': 'Note', 'text': str(os.getsid(0))}))"
    (note,) = ended_job(start_script(script, tmp_path)).notes
    assert int(str(note)) != os.getsid(0)
