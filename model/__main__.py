"""`python -m model convert SOURCE DEST`: other formats to a model folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from model.convert import convert
from model.types import LinlyError


def main(argv: list[str]) -> int:
    """Run a command: 0, 1 when it failed, 2 for wrong use."""
    options = build_parser().parse_args(argv)
    try:
        convert(options.source, options.destination, options.tokenizer, options.heads)
    except LinlyError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except OSError as error:  # the disk: full, read-only, gone
        print(f"{options.destination} could not be written: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; nothing was left behind.", file=sys.stderr)
        return 1
    print(f"{options.destination} is ready: python app.py --base_model {options.destination}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "convert",
        help="other formats to a model folder",
        description="Convert a TencentPretrain LLaMA checkpoint (.bin) or a GGUF file of the llama "
        "architecture into a model folder in the Hugging Face layout.",
    )
    add = command.add_argument
    add("source", type=Path, metavar="SOURCE", help="a .bin or .gguf file")
    add("destination", type=Path, metavar="DEST", help="the folder to make; must not exist")
    add("--tokenizer", type=Path, metavar="FILE", help="the SentencePiece model of a .bin")
    add("--heads", type=int, metavar="N", help="attention heads of a .bin (default: hidden / 128)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
