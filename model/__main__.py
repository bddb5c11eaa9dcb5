"""`python -m model COMMAND`: what is done to model folders and adapters before they are served."""

from __future__ import annotations

import sys
from argparse import ArgumentParser

from model.commands import convert_command
from model.types import LinlyError

COMMANDS = (convert_command,)


def main(argv: list[str]) -> int:
    """Run a command: 0, 1 when it failed, 2 for wrong use."""
    options = build_parser().parse_args(argv)
    try:
        return int(options.run(options))
    except LinlyError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 1


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m model", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
