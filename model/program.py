"""Runs the main function of a program, and ends its process.

Every program ends with `os._exit`, after its clean-up (`model/cleanup.py`): Python's own end aborts
the process if another thread computes in torch, and waits for threads that wait for a pipe. For the
same reason a signal raises no exception, unless in a block that expects it: raised while a compiled
module is imported, an exception aborts the process, prints a stack trace, or is lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

from model.cleanup import run_callbacks

INTERRUPTED = 1  # the exit status
STDERR = 2  # its number
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


def announce_interruption() -> int:
    """Tells the user that the program was interrupted; returns the exit status."""
    with contextlib.suppress(OSError):
        # Not `print`, which the signal may have interrupted. A terminal can show a progress bar.
        os.write(STDERR, b"\nInterrupted.\n" if os.isatty(STDERR) else b"Interrupted.\n")
    return INTERRUPTED


def run_program(
    main: Callable[[list[str]], int], on_signal: Callable[[], int] = announce_interruption
) -> NoReturn:
    """Runs `main` with the arguments of the command line, and ends the process with its status.

    Args:
        main: returns the exit status.
        on_signal: called when a signal ends the program; returns the exit status. A second signal
            ends the process without clean-up.
    """

    _open_closed_streams()

    def end(*_: object) -> NoReturn:
        for number in SIGNALS:
            signal.signal(number, lambda *_: os._exit(INTERRUPTED))
        try:
            status = on_signal()
        except Exception:  # it may need a module that is being imported, or a stream in use
            status = announce_interruption()
        end_process(status)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:  # nohup
            signal.signal(number, end)
    try:
        status = main(sys.argv[1:])
    except SystemExit as request:
        status = _exit_status(request)
    except BrokenPipeError:
        status = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    end_process(status)


def end_process(status: int) -> NoReturn:
    """Cleans up, and ends the process with this status; with 1 if output cannot be written."""
    run_callbacks()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:  # its reader, such as `head -1`, has ended
            status = status or 1
        except OSError as error:
            status = status or 1
            with contextlib.suppress(Exception):
                print(f"The output could not be written: {error}.", file=sys.stderr, flush=True)
        except Exception:  # noqa: S110 (a signal has interrupted its writing, or it is closed)
            pass
    os._exit(status)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """In the block Ctrl-C raises KeyboardInterrupt, as `input` and asyncio expect."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _open_closed_streams() -> None:
    """Replaces standard streams that the caller has closed, as with `2>&-`, by the null device.

    Their numbers stay unusable: else the next file to be opened would get one of them, and with it
    what is written to the stream.
    """
    closed = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    if closed:
        while (number := os.open(os.devnull, os.O_RDONLY)) <= STDERR:
            pass
        os.close(number)
    for name in closed:
        null = os.open(os.devnull, os.O_RDWR)
        setattr(sys, name, os.fdopen(null, "r" if name == "stdin" else "w"))


def _exit_status(request: SystemExit) -> int:
    """The status of a SystemExit, whose text, if it has one, is printed."""
    if request.code is None or isinstance(request.code, int):
        return request.code or 0
    print(request.code, file=sys.stderr)
    return 1
