"""What the benchmarks' flags share. What is wrong is said in one sentence, with exit status 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Its errors are one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        print(f"{message[:1].upper()}{message[1:]}. See --help.", file=sys.stderr)
        raise SystemExit(2)

    def read(self, argv: Sequence[str]) -> dict[str, Any]:
        """The flags of `argv` (without the program's name) by name.

        Raises:
            SystemExit: with status 2 where something is wrong, after saying what.
        """
        return vars(self.parse_args([_underscored(word) for word in argv]))


def at_least(least: int, text: str) -> int:
    """A whole number."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1 on."""
    return at_least(1, text)


def folder(text: str) -> Path:
    """A folder that exists."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return Path(text).resolve()


def _underscored(word: str) -> str:
    """Hyphens in a flag's name count as underscores."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word[2:].partition("=")
    return f"--{flag.replace('-', '_')}{equals}{value}"
