"""Answers a file of questions, many at once, and writes the results in the order of the lines."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import ExitStack, aclosing, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.errors import EngineError, LinlyError
from model.program import interruptible
from model.sampling import Sampling
from model.serving.background_loader import Load
from model.serving.manager import ModelManager
from terminal.batch_files import BatchProgress, Output, empty_input_error, open_source, resume
from terminal.console import error_sentence, standard_console
from terminal.jsonl import BatchRow, failure_record, read_rows, reply_record
from terminal.options import RequestDefaults, TerminalOptions
from terminal.startup import running_manager

SEEDS = 2**63
WINDOW = 4  # a long reply lets the others go on until this many times `width` results are pending

Rows = Generator[BatchRow, None, None]
Record = Mapping[str, Any]


def run(options: TerminalOptions, defaults: RequestDefaults, load: Load) -> int:
    """Answers every line; returns 0, or 1 if some failed or the user interrupted.

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
        resumed = resume(target, rows, defaults.adapter)
        progress, first = resumed.progress, next(rows, None)
        if first is None and not progress.done:
            raise empty_input_error(path)
        if first is None:
            print(
                f"{target} already has the results of all {progress.done} lines.", file=sys.stderr
            )
            return _exit_status(progress)
        output = Output(target, resumed.size)
        try:
            with running_manager(options.settings, defaults, load, standard_console()) as manager:
                answerer = Answerer(manager, defaults, options.settings.max_sequences)
                unread.pop_all()  # from here on the reading thread closes the source
                with interruptible():
                    asyncio.run(
                        _answer_all(_chain(first, rows), answerer, output, progress, _bar(options))
                    )
        except KeyboardInterrupt:
            print(_interrupted_message(progress, target), file=sys.stderr)
            return 1
        finally:
            output.close()
    return _exit_status(progress)


def _chain(first: BatchRow, rows: Rows) -> Rows:
    """`first` and then `rows`, as a generator that can be closed."""
    with closing(rows):
        yield first
        yield from rows


def _exit_status(progress: BatchProgress) -> int:
    """The exit status; prints how many lines failed."""
    if not progress.failures:
        return 0
    counts = f"{progress.failures} of {progress.done} lines got no reply"
    print(f"{counts}; the first is {progress.first_failure}", file=sys.stderr)
    return 1


def _interrupted_message(progress: BatchProgress, target: Path | None) -> str:
    done = progress.done
    if target is None:
        return f"Interrupted after {done} results. With --output_file it could continue from there."
    return f"Interrupted. {target} holds {done} results: the same command continues after them."


def _bar(options: TerminalOptions) -> Callable[[int], Any]:
    """Makes a progress bar; hidden if stderr is no terminal, or if it would mix with results."""
    from tqdm import tqdm

    shown = sys.stderr.isatty() and (options.output_file is not None or not sys.stdout.isatty())
    total = None
    if shown and options.data_file and options.data_file.is_file():
        with options.data_file.open("rb") as file:
            total = sum(1 for line in file if line.strip())
    return lambda done: tqdm(total=total, initial=done, unit="line", disable=not shown)


async def _answer_all(
    rows: Rows, answerer: Answerer, output: Output, progress: BatchProgress,
    make_bar: Callable[[int], Any],
) -> None:  # fmt: skip
    with make_bar(progress.done) as bar:
        async with aclosing(in_order(rows, answerer.answer, answerer.width)) as records:
            async for record in records:
                output.write(record)
                progress.count(record)
                bar.update()


@dataclass
class Answerer:
    """Answers rows, at most `width` of them at the same time; further calls wait."""

    manager: ModelManager
    defaults: RequestDefaults
    width: int

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.width)

    async def answer(self, row: BatchRow) -> Record:
        """The record of a row: its reply, or why there is none.

        Raises:
            LinlyError: the engine has stopped, so no row will get a reply.
        """
        if row.problem:
            return failure_record(row, row.problem)
        async with self._slots:
            try:
                return await self._reply(row)
            except Exception as error:  # an error of one row does not end the batch
                if engine_error := self.manager.status().error:
                    raise EngineError(engine_error) from error
                return failure_record(row, error_sentence(error))

    async def _reply(self, row: BatchRow) -> Record:
        sampling = _sampling_for_line(self.defaults.sampling, row.number)
        defaults = replace(self.defaults, sampling=sampling)
        template = self.manager.template_for(defaults.adapter, defaults.template)
        request = defaults.request(row.to_messages(template), drop_oldest=False)
        text = ""
        async with aclosing(self.manager.chat(request)) as batches:
            async for batch in batches:
                text += "".join(delta.text for delta in batch)
                last = batch[-1]
        if last.error:
            raise EngineError(last.error)
        return reply_record(row, text, last, defaults.adapter)


def _sampling_for_line(sampling: Sampling, number: int) -> Sampling:
    """Gives each line its own seed, so that its reply does not depend on the other lines."""
    if sampling.seed is None:
        return sampling
    return replace(sampling, seed=(sampling.seed + number) % SEEDS)


async def in_order(
    rows: Rows, answer: Callable[[BatchRow], Awaitable[Record]], width: int
) -> AsyncGenerator[Record, None]:
    """Yields each row's record in the order of the rows.

    At most WINDOW times `width` rows are pending. The reading thread closes `rows` at the end.
    """
    reader = _RowReader(rows, width)
    pending: deque[asyncio.Future[Record]] = deque()
    reading: asyncio.Future[BatchRow | None] | None = asyncio.ensure_future(reader.next())
    try:
        while reading or pending:
            next_row = reading if len(pending) < WINDOW * width else None
            awaited: list[asyncio.Future[Any]] = [f for f in (next_row, *list(pending)[:1]) if f]
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if next_row and next_row.done():
                row = next_row.result()
                reading = asyncio.ensure_future(reader.next()) if row else None
                if row:
                    pending.append(asyncio.ensure_future(answer(row)))
            while pending and pending[0].done():
                yield pending.popleft().result()
    finally:
        reader.close()
        unfinished: list[asyncio.Future[Any]] = [f for f in (reading, *pending) if f]
        for future in unfinished:
            future.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)


class _RowReader:
    """Reads rows in a thread, because a pipe may block, and hands them to the event loop.

    It reads at most `ahead` rows before they are taken.
    """

    def __init__(self, rows: Rows, ahead: int) -> None:
        self._rows = rows
        self._room = threading.Semaphore(ahead)
        self._queue: asyncio.Queue[BatchRow | BaseException | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._closed = False
        # A daemon, because a thread that waits for a pipe cannot be ended.
        threading.Thread(target=self._run, name="reading", daemon=True).start()

    async def next(self) -> BatchRow | None:
        """The next row; None after the last."""
        item = await self._queue.get()
        self._room.release()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._closed = True
        self._room.release()

    def _run(self) -> None:
        # RuntimeError: the event loop is closed, so the rows are not needed any more.
        with contextlib.closing(self._rows), contextlib.suppress(RuntimeError):
            try:
                for row in self._rows:
                    self._put(row)
                    if self._closed:
                        return
                self._put(None)
            except OSError as error:
                self._put(error)

    def _put(self, item: BatchRow | BaseException | None) -> None:
        self._room.acquire()
        self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
