"""A file of questions, answered many at once, each result written as soon as it is its turn."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import ExitStack, aclosing, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.serving.background_loader import Load
from model.serving.manager import ModelManager
from model.types import EngineError, LinlyError, Sampling
from terminal.batch_files import BatchProgress, Output, empty_input_error, open_source, resume
from terminal.jsonl import BatchRow, read_rows
from terminal.options import RequestDefaults, TerminalOptions
from terminal.order import Result, Rows, in_order
from terminal.results import failed, reply_record
from terminal.screen import error_sentence, standard_screen
from terminal.startup import running_manager

SEEDS = 2**63


def run(options: TerminalOptions, wishes: RequestDefaults, load: Load) -> int:
    """Answer every line: 0, or 1 if some could not be, or it was interrupted.

    Raises:
        LinlyError: a file or the model cannot be used.
    """
    path, target = options.data_file, options.output_file
    if path and target and path.exists() and target.exists() and path.samefile(target):
        raise LinlyError("same_input_and_output")
    source = open_source(path)
    rows = read_rows(source)
    with ExitStack() as unread:
        unread.callback(source.close)
        resumed = resume(target, rows, wishes.adapter)
        tally, first = resumed.tally, next(rows, None)
        if first is None and not tally.done:
            raise empty_input_error(path)
        if first is None:
            print(f"{target} holds the results of all {tally.done} lines.", file=sys.stderr)
            return _told(tally)
        output = Output(target, resumed.size)
        try:
            with running_manager(options.settings, wishes, load, standard_screen()) as manager:
                answerer = Answerer(manager, wishes, options.settings.max_sequences)
                unread.pop_all()  # whoever reads them from now on, another thread, closes them
                asyncio.run(_write(_all(first, rows), answerer, output, tally, _bar(options)))
        except KeyboardInterrupt:
            print(_interrupted(tally, target), file=sys.stderr)
            return 1
        finally:
            output.close()
    return _told(tally)


def _all(first: BatchRow, rows: Rows) -> Rows:
    with closing(rows):
        yield first
        yield from rows


def _told(tally: BatchProgress) -> int:
    """The exit status; the failures are told."""
    if not tally.failures:
        return 0
    counted = f"{tally.failures} of {tally.done} lines got no reply"
    print(f"{counted}; the first is {tally.first}", file=sys.stderr)
    return 1


def _interrupted(tally: BatchProgress, target: Path | None) -> str:
    if target is None:
        return f"Interrupted behind {tally.done} results. With --output_file it could go on there."
    return (
        f"Interrupted. {target} holds {tally.done} results: the same command goes on behind them."
    )


def _bar(options: TerminalOptions) -> Callable[[int], Any]:
    """Makes a progress bar, shown where somebody sees it and no results pass by."""
    from tqdm import tqdm

    shown = sys.stderr.isatty() and (options.output_file is not None or not sys.stdout.isatty())
    total = None
    if shown and options.data_file and options.data_file.is_file():
        with options.data_file.open("rb") as file:
            total = sum(1 for line in file if line.strip())
    return lambda done: tqdm(total=total, initial=done, unit="line", disable=not shown)


async def _write(
    rows: Rows, answerer: Answerer, output: Output, tally: BatchProgress,
    bar: Callable[[int], Any],
) -> None:  # fmt: skip
    with bar(tally.done) as progress:
        async with aclosing(in_order(rows, answerer.answer, answerer.width)) as results:
            async for result in results:
                output.put(result)
                tally.count(result)
                progress.update()


@dataclass
class Answerer:
    """Answers rows, `width` of them at the same time; the others wait here."""

    manager: ModelManager
    defaults: RequestDefaults
    width: int

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.width)

    async def answer(self, row: BatchRow) -> Result:
        """The row's result, which may be why there is no reply.

        Raises:
            LinlyError: the engine has stopped, so there will be no more replies.
        """
        if row.problem:
            return failed(row, row.problem)
        async with self._slots:
            try:
                return await self._reply(row)
            except Exception as error:  # one row's trouble is not the others'
                if said := self.manager.status().error:
                    raise EngineError(said) from error
                return failed(row, error_sentence(error))

    async def _reply(self, row: BatchRow) -> Result:
        wishes = replace(self.defaults, sampling=_seeded(self.defaults.sampling, row.number))
        template = self.manager.template_for(wishes.adapter, wishes.template)
        request = wishes.request(row.written(template), drop_oldest=False)
        text = ""
        async with aclosing(self.manager.chat(request)) as bursts:
            async for burst in bursts:
                text += "".join(delta.text for delta in burst)
                last = burst[-1]
        if last.error:
            raise EngineError(last.error)
        return reply_record(row, text, last, wishes.adapter)


def _seeded(sampling: Sampling, number: int) -> Sampling:
    """Each line's own seed, so that its reply is the same whatever is answered beside it."""
    if sampling.seed is None:
        return sampling
    return replace(sampling, seed=(sampling.seed + number) % SEEDS)
