"""Train a LoRA adapter on dialogues: `python finetune.py --data_path D --output_dir O`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from model.translations import LocalizedText
from model.types import LinlyError

if TYPE_CHECKING:
    from training.options import TrainingOptions

NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "Cannot allocate")


def main(argv: list[str]) -> int:
    """Train; 0 when the adapter is written, 1 when it failed, 2 for wrong use."""
    from training.options import read_options

    json = False
    try:
        options = read_options(argv)
        json = options.progress == "json"
        return run(options)
    except LinlyError as error:
        return _fail(error.text, error.exit_status, json)
    except KeyboardInterrupt:
        return _fail(LocalizedText("training_cancelled"), 1, json)
    except Exception as error:
        return _fail(_unexpected(error), 1, json)


def run(options: TrainingOptions) -> int:
    from training.interrupt import stoppable
    from training.progress_bar import Terminal, print_line
    from training.run_folder import is_finished

    terminal = Terminal()
    report = print_line if options.progress == "json" else terminal
    try:
        if options.evaluate and is_finished(options.output_dir):
            from training.evaluate import evaluate

            report(evaluate(options, report))
            return 0
        from training.run import fine_tune

        with stoppable(terminal.ending) as stop:
            report(fine_tune(options, report, stop))
    finally:
        terminal.close()
    return 0


def _unexpected(error: Exception) -> LocalizedText:
    """The text for an error of no kind that is expected, and for the many that mean memory."""
    reason = (str(error).splitlines() or [""])[0]
    if isinstance(error, MemoryError) or any(word in reason for word in NO_MEMORY):
        return LocalizedText("training_out_of_memory")
    return LocalizedText("went_wrong", {"kind": type(error).__name__, "reason": reason})


def _fail(text: LocalizedText, status: int, json: bool) -> int:
    """Print the reason: for people, and with --progress json for the program that started this."""
    print(text, file=sys.stderr)
    if json:
        from training.events import TrainingFailed
        from training.progress_bar import print_line

        print_line(TrainingFailed(text))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
