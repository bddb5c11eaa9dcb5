"""What the benchmarks' flags share. What is wrong is said in one sentence, with exit status 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from model.config import argument_parser
from model.types import SettingsError


class Parser(argument_parser.ArgumentParser):
    """It ends the program when something is wrong."""

    def error(self, message: str) -> NoReturn:
        try:
            super().error(message)
        except SettingsError as error:
            print(error, file=sys.stderr)
            raise SystemExit(2) from error

    def given(self, argv: Sequence[str]) -> dict[str, Any]:
        """The flags of `argv` (without the program's name) by name.

        Raises:
            SystemExit: with status 2 where something is wrong, after saying what.
        """
        return vars(self.parse_args([argument_parser.underscored(word) for word in argv]))


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
