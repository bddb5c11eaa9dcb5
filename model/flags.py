"""Flags as every command reads them: hyphens count as underscores, errors are one sentence."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import NoReturn

from model.types import SettingsError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises one SettingsError where argparse prints and exits."""

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        raise SettingsError(message[:1].upper() + message[1:], "See --help.")

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """The flags of `argv`, without the program's name.

        Raises:
            SettingsError: one of them is wrong.
        """
        known, unknown = self.parse_known_args([underscored(word) for word in argv])
        if unknown:
            flags = [option for parser in self._all() for option in parser._option_string_actions]
            close = difflib.get_close_matches(unknown[0].partition("=")[0], flags, n=1)
            remedy = f"Did you mean {close[0]}?" if close else "See --help."
            raise SettingsError(f"There is no flag {unknown[0]}", remedy)
        return known

    def _all(self) -> list[argparse.ArgumentParser]:
        """This parser, and those of its commands."""
        choices = [a.choices for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        return [self, *(parser for each in choices for parser in each.values())]


def underscored(word: str) -> str:
    """`--server-port=1` as `--server_port=1`; values and short words stay as they are."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value
