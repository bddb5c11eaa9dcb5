"""Trains a LoRA adapter on dialogues: `python finetune.py --data_path D --output_dir O`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from model.program import run_program

if TYPE_CHECKING:
    from model.translations import LocalizedText
    from training.options import TrainingOptions


def main(argv: list[str]) -> int:
    """Trains an adapter; returns 0 when it is written, 1 on failure, 2 for a wrong flag."""
    from model.errors import LinlyError, lacks_memory, missing_package_text
    from model.translations import LocalizedText

    as_json = False
    try:
        from training.options import read_training_options

        options = read_training_options(argv)
        as_json = options.progress == "json"
        return run(options)
    except LinlyError as error:
        text = LocalizedText("training_out_of_memory") if lacks_memory(error) else error.text
        return _fail(text, error.exit_status, as_json)
    except KeyboardInterrupt:
        return _fail(LocalizedText("training_cancelled"), 1, as_json)
    except ModuleNotFoundError as error:
        return _fail(missing_package_text(error), 1, as_json)
    except Exception as error:
        return _fail(_unexpected_error_text(error), 1, as_json)


def run(options: TrainingOptions) -> int:
    """Trains an adapter, or evaluates the one in the output folder, and prints events."""
    from training.interrupt import stoppable
    from training.progress_bar import ProgressBar, print_json
    from training.run_folder import is_finished

    progress_bar = ProgressBar()
    on_event = print_json if options.progress == "json" else progress_bar
    try:
        if options.evaluate and is_finished(options.output_dir):
            from training.evaluate import evaluate

            on_event(evaluate(options, on_event))
            return 0
        from training.run import fine_tune

        with stoppable(progress_bar.announce_stop) as stop:
            on_event(fine_tune(options, on_event, stop))
    finally:
        progress_bar.close()
    return 0


def _unexpected_error_text(error: Exception) -> LocalizedText:
    """The text for an error that is no LinlyError; many kinds of them mean too little memory."""
    from model.errors import lacks_memory
    from model.translations import LocalizedText

    reason = (str(error).splitlines() or [""])[0]
    if lacks_memory(error):
        return LocalizedText("training_out_of_memory")
    return LocalizedText("went_wrong", {"kind": type(error).__name__, "reason": reason})


def _interrupted() -> int:
    """Tells that a signal came while the training could not be stopped with a checkpoint."""
    from model.translations import LocalizedText

    as_json = not {"json", "--progress=json"}.isdisjoint(sys.argv)
    return _fail(LocalizedText("training_interrupted_early"), 1, as_json)


def _fail(text: LocalizedText, status: int, as_json: bool) -> int:
    """Prints the reason on stderr, and with --progress json also as an event."""
    print(text, file=sys.stderr)
    if as_json:
        from training.events import TrainingFailed
        from training.progress_bar import print_json

        print_json(TrainingFailed(text))
    return status


if __name__ == "__main__":
    run_program(main, _interrupted)
