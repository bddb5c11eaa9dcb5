"""A training in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from model.translations import LocalizedText, verbatim
from tests.training.fake_finetune import command, until
from training.events import HeldOut, Note, Stage, Step, TrainingEnded, from_line, to_line
from training.job import (
    BusyTrainingError,
    Job,
    StartError,
    TrainingRunner,
    finetune_command,
)

EVENTS = (
    Stage("data"),
    Note(verbatim("3 chats to learn")),
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
    trainings = TrainingRunner(command=command(lines, tmp_path / "go"))
    trainings.start("mine", tmp_path / "mine", [])
    try:
        yield trainings
    finally:
        (tmp_path / "go").touch()
        trainings.close()


def job_of(trainings: TrainingRunner) -> Job:
    assert trainings.job is not None
    return trainings.job


def ended(trainings: TrainingRunner) -> Job:
    until(lambda: not trainings.running)
    return job_of(trainings)


@pytest.mark.parametrize("event", EVENTS)
def test_events_survive_the_way_through_a_line(event: object) -> None:
    assert from_line(to_line(event)) == event  # type: ignore[arg-type]


@pytest.mark.parametrize("line", ["", "warning: x", "{}", "[1]", "3", '{"event": "Step"}',
                                  '{"event": "Other", "a": 1}'])  # fmt: skip
def test_other_lines_are_no_events(line: str) -> None:
    assert from_line(line) is None


def test_a_training_is_followed_to_its_end(tmp_path: Path) -> None:
    assert TrainingRunner().job is None
    with started([*LINES, "a library says hello", "<wait>", DONE], tmp_path) as trainings:
        until(lambda: job_of(trainings).measured == ((0, 4.0), (2, 2.0)))
        job = job_of(trainings)
        assert job.running
        assert trainings.running
        assert (job.stage, job.notes) == ("training", (verbatim("3 chats to learn"),))
        assert job.losses == ((1, 3.5), (2, 2.5))
        (tmp_path / "go").touch()
        job = ended(trainings)
    assert (job.phase, job.text) == ("done", verbatim("mine is ready"))


def test_one_at_a_time(tmp_path: Path) -> None:
    with started(["<wait>", DONE], tmp_path) as trainings:
        with pytest.raises(BusyTrainingError, match="mine is being trained"):
            trainings.start("other", tmp_path / "other", [])
        (tmp_path / "go").touch()
        ended(trainings)
        trainings.start("other", tmp_path / "other", [])
        assert ended(trainings).name == "other"


def test_cancelling_ends_it_with_what_it_says(tmp_path: Path) -> None:
    with started([*LINES, "<wait>"], tmp_path) as trainings:
        until(lambda: len(job_of(trainings).losses) == 2)
        trainings.cancel()
        job = ended(trainings)
    assert job.phase == "stopped"
    assert str(job.text) == "Interrupted after step 2 of 4. The same command goes on."


def test_cancelling_twice_does_not_cost_the_checkpoint(tmp_path: Path) -> None:
    """A second signal would end it at once; so would the program's end behind a cancelling."""
    told = (
        "import signal, sys, time\n"
        "got = []\n"
        "signal.signal(signal.SIGINT, lambda *_: got.append(1))\n"
        f"print({to_line(EVENTS[4])!r}, flush=True)\n"
        "while not got:\n    time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "print(len(got), 'signal', file=sys.stderr)\n"
        "sys.exit(1)"
    )
    trainings = TrainingRunner(command=lambda flags: [sys.executable, "-c", told])
    trainings.start("mine", tmp_path, [])
    until(lambda: len(job_of(trainings).losses) == 1)
    trainings.cancel()
    trainings.cancel()
    trainings.close()
    assert (job_of(trainings).phase, job_of(trainings).text) == ("stopped", verbatim("1 signal"))


def test_a_process_that_cannot_be_started_is_no_training(tmp_path: Path) -> None:
    trainings = TrainingRunner(command=lambda flags: [str(tmp_path / "nowhere")])
    for _ in range(2):
        with pytest.raises(StartError, match="could not be started: No such file"):
            trainings.start("mine", tmp_path, [])
    assert trainings.job is None


def test_bytes_that_are_no_text_do_not_hide_its_end(tmp_path: Path) -> None:
    told = (
        "import sys\n"
        "sys.stdout.buffer.write(b'\\xff\\n')\n"
        "sys.stderr.buffer.write(b'\\xfe no good\\n')\n"
        "sys.exit(1)"
    )
    trainings = TrainingRunner(command=lambda flags: [sys.executable, "-c", told])
    trainings.start("mine", tmp_path, [])
    assert str(ended(trainings).text).endswith("no good")


def test_a_failure_shows_its_reason(tmp_path: Path) -> None:
    with started([*LINES, "<fail>"], tmp_path) as trainings:
        job = ended(trainings)
    assert (job.phase, job.text) == (
        "failed",
        verbatim("The training has diverged. Lower the rate."),
    )


def test_what_the_system_kills_is_told_so(tmp_path: Path) -> None:
    with started(["<kill>"], tmp_path) as trainings:
        job = ended(trainings)
    assert (job.phase, job.text) == ("failed", LocalizedText("training_killed"))


def test_the_end_of_the_program_ends_it(tmp_path: Path) -> None:
    with started([*LINES, "<wait>"], tmp_path) as trainings:
        until(lambda: len(job_of(trainings).losses) == 2)
        trainings.close()
        assert job_of(trainings).phase == "stopped"


def test_it_gives_way_and_its_memory_is_bounded(tmp_path: Path) -> None:
    told = (
        "import json, os, resource, sys\n"
        "while True:\n"  # the limits come right after the start
        "    most = resource.getrlimit(resource.RLIMIT_DATA)[0]\n"
        "    if most != resource.RLIM_INFINITY and int(open('/proc/self/oom_score_adj').read()):\n"
        "        break\n"
        "text = json.dumps([os.nice(0), most])\n"
        "print(json.dumps({'event': 'Note', 'text': text}))"
    )
    trainings = TrainingRunner(command=lambda flags: [sys.executable, "-c", told])
    trainings.start("mine", tmp_path, [])
    (note,) = ended(trainings).notes
    niceness, most = map(int, str(note).strip("[]").split(","))
    assert niceness == os.nice(0) + 10
    assert 0 < most < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_environment_is_added_to(tmp_path: Path) -> None:
    told = "import json, os; print(json.dumps({'event': 'Note', 'text': os.environ['LINLY_X']}))"
    trainings = TrainingRunner({"LINLY_X": "here"}, lambda flags: [sys.executable, "-c", told])
    trainings.start("mine", tmp_path, [])
    assert ended(trainings).notes == (verbatim("here"),)


def test_what_is_run_is_the_command_that_people_run() -> None:
    python, script, *flags = finetune_command(["--data_path=d"])
    assert python == sys.executable
    assert Path(script).is_file()
    assert flags == ["--data_path=d", "--progress", "json"]


def test_nobody_reads_its_events_any_more() -> None:
    """The program that started it is gone: it ends as if Ctrl-C had been pressed."""
    code = (
        "import sys, time\n"
        "from training.events import Stage\n"
        "from training.interrupt import stoppable\n"
        "from training.progress_bar import print_line\n"
        "with stoppable() as stop:\n"
        "    while not stop.asked:\n"
        "        print_line(Stage('data'))\n"
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


def test_ctrl_c_in_the_terminal_is_not_for_it(tmp_path: Path) -> None:
    with started(["<wait>"], tmp_path) as trainings:
        assert trainings._process
        assert os.getsid(trainings._process.pid) != os.getsid(0)
