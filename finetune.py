"""Train a LoRA adapter on dialogues: `python finetune.py --data_path D --output_dir O`."""

from __future__ import annotations

import sys

from model.types import LinlyError

NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "Cannot allocate")


def main(argv: list[str]) -> int:
    """Train; 0 when the adapter is written, 1 when it failed, 2 for wrong use."""
    try:
        return run(argv)
    except LinlyError as error:
        return _complain(str(error), error.exit_status)
    except KeyboardInterrupt:
        return _complain("Interrupted. The same command goes on with what was kept.", 1)
    except Exception as error:
        return _complain(_unexpected(error), 1)


def run(argv: list[str]) -> int:
    from training.options import read_options

    options = read_options(argv)
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


def _unexpected(error: Exception) -> str:
    """A sentence for what nobody has thought of, and for memory, which has many errors."""
    said = (str(error).splitlines() or [""])[0]
    if isinstance(error, MemoryError) or any(word in said for word in NO_MEMORY):
        return "There is not enough memory. Lower --micro_batch_size or --cutoff_len."
    return f"This went wrong: {type(error).__name__}: {said}."


def _complain(sentence: str, status: int) -> int:
    print(sentence, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
