"""Chat in the terminal, or answer a file of questions: `python inference_LLaMA.py --help`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from terminal.options import TerminalOptions

REMEDY = "Run `python -m model check` on the folders involved; their files may be damaged."


def main(argv: list[str]) -> int:
    """Chat or answer: 0, 1 when it failed or was interrupted, 2 for wrong use."""
    try:
        return _guarded(argv)
    except KeyboardInterrupt:
        return _complain("Interrupted.", 1)
    except BrokenPipeError:  # whoever read, as in `| head -1`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would complain at its end
        return 1
    except ModuleNotFoundError as error:
        return _complain(
            f"The Python package {error.name} is missing: run "
            f"`{sys.executable} -m pip install -r requirements.txt`.",
            1,
        )
    except Exception as error:  # somebody's files hold what nobody has thought of
        said = (str(error).splitlines() or [""])[0]
        return _complain(f"This went wrong: {type(error).__name__}: {said}. {REMEDY}", 1)


def _guarded(argv: list[str]) -> int:
    from model.config.process_secrets import hide_secrets
    from model.types import LinlyError
    from terminal.options import read_options

    try:
        options = read_options(argv, os.environ, has_keyboard=_has_keyboard())
        hide_secrets()  # --engine_key
        return run(options)
    except LinlyError as error:
        return _complain(str(error), error.exit_status)


def run(options: TerminalOptions) -> int:
    """Look at everything that was named, then load the model and answer."""
    from terminal import batch, repl
    from terminal.console import silence_libraries
    from terminal.startup import validate

    silence_libraries()
    wishes, load = validate(options)
    if options.batch:
        return batch.run(options, wishes, load)
    return repl.run(options, wishes, load)


def _has_keyboard() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _complain(sentence: str, status: int) -> int:
    print(sentence, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
