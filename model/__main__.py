"""`python -m model COMMAND`: prepares model folders and adapters for serving."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from model.program import run_program

if TYPE_CHECKING:
    from model.config.argument_parser import ArgumentParser

REMEDY = "Run `python -m model check` on the folders involved; their files may be damaged."


def main(argv: list[str]) -> int:
    """Runs a command; returns 0, 1 if it failed, or 2 for wrong use."""
    from model.errors import LinlyError, lack_of_memory, missing_package_text

    try:
        options = build_parser().read(argv)
        return int(options.run(options))
    except LinlyError as error:
        print(lack_of_memory(error) or error, file=sys.stderr)
        return error.exit_status
    except ModuleNotFoundError as error:
        print(missing_package_text(error), file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of the pipe, such as `head -1`, has ended
        return 1
    except Exception as error:  # a file with unexpected contents
        if lack := lack_of_memory(error):
            print(lack, file=sys.stderr)
            return 1
        reason = (str(error).splitlines() or [""])[0]
        print(f"Unexpected error: {type(error).__name__}: {reason}. {REMEDY}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 1


def build_parser() -> ArgumentParser:
    """Returns the parser of all commands, whose modules need other packages."""
    from model.commands import check_command, convert_command, merge_command
    from model.config.argument_parser import ArgumentParser

    parser = ArgumentParser(prog="python -m model", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (check_command, convert_command, merge_command):
        command.add_to(commands)
    return parser


if __name__ == "__main__":
    run_program(main)
