"""Chats in the terminal, or answers a file of questions: `python inference_LLaMA.py --help`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from model.program import run_program

if TYPE_CHECKING:
    from terminal.options import TerminalOptions

REMEDY = "Run `python -m model check` on the folders involved; their files may be damaged."


def main(argv: list[str]) -> int:
    """Runs the program; returns 0, 1 on failure or interruption, 2 for a wrong flag."""
    from model.errors import lack_of_memory, missing_package_text

    try:
        return _run_with_options(argv)
    except KeyboardInterrupt:
        return _fail("Interrupted.", 1)
    except BrokenPipeError:  # the reader of the pipe, such as `head -1`, has ended
        return 1
    except ModuleNotFoundError as error:
        return _fail(str(missing_package_text(error)), 1)
    except Exception as error:  # files can be damaged in ways that no check covers
        if lack := lack_of_memory(error):
            return _fail(str(lack), 1)
        reason = (str(error).splitlines() or [""])[0]
        return _fail(f"Unexpected error: {type(error).__name__}: {reason}. {REMEDY}", 1)


def _run_with_options(argv: list[str]) -> int:
    from model.config.process_secrets import hide_secrets
    from model.errors import LinlyError, lack_of_memory
    from terminal.options import read_terminal_options

    try:
        options = read_terminal_options(argv, os.environ, has_keyboard=_has_keyboard())
        hide_secrets()  # --engine_key
        return run(options)
    except LinlyError as error:
        return _fail(str(lack_of_memory(error) or error), error.exit_status)


def run(options: TerminalOptions) -> int:
    """Checks the adapter, the template and the base, then loads the model and answers."""
    from terminal import batch, repl
    from terminal.console import silence_libraries
    from terminal.startup import validate

    silence_libraries()
    defaults, load = validate(options)
    if options.batch:
        return batch.run(options, defaults, load)
    return repl.run(options, defaults, load)


def _has_keyboard() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _fail(sentence: str, status: int) -> int:
    print(sentence, file=sys.stderr)
    return status


if __name__ == "__main__":
    run_program(main)
