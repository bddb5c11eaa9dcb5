"""Flags as every command reads them: hyphens count as underscores, errors are one sentence."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import NoReturn

from model.errors import SettingsError
from model.suggestions import did_you_mean
from model.translations import LocalizedText


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser that raises one SettingsError where argparse prints and exits.

    Words behind a flag of `secret_flags` are not repeated in errors.
    """

    secret_flags: frozenset[str] = frozenset()

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        raise SettingsError("flag_wrong", reason=message[:1].upper() + message[1:])

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """The flags of `argv`, without the program's name.

        Raises:
            SettingsError: one of them is wrong.
        """
        words = [underscored(word) for word in argv]
        known, unknown = self.parse_known_args(words)
        if unknown:
            raise self._unknown(unknown[0], words)
        return known

    def _unknown(self, word: str, words: Sequence[str]) -> SettingsError:
        """What is said of a word that no flag takes."""
        if not word.startswith("--"):
            for flag in _flags_before(word, words):
                if flag.removeprefix("--") in self.secret_flags:
                    return SettingsError("flag_takes_one_value", flag=flag)
            return SettingsError("unknown_flag", flag=word, remedy=LocalizedText("see_help"))
        flag = word.partition("=")[0]  # a misspelt flag's value may be a secret
        flags = [option for parser in self._all() for option in parser._option_string_actions]
        return SettingsError(
            "unknown_flag", flag=flag, remedy=did_you_mean(flag, flags, "see_help")
        )

    def _all(self) -> list[argparse.ArgumentParser]:
        """This parser, and those of its commands."""
        choices = [a.choices for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        return [self, *(parser for each in choices for parser in each.values())]


def _flags_before(word: str, words: Sequence[str]) -> Iterator[str]:
    """For each place of `word`, the last flag before it."""
    flag = ""
    for one in words:
        if one == word:
            yield flag
        elif one.startswith("--"):
            flag = one.partition("=")[0]


def underscored(word: str) -> str:
    """`--server-port=1` as `--server_port=1`; values and short words stay as they are."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value


def not_empty(text: str) -> str:
    """The text of a value that must not be empty."""
    if not text:
        raise argparse.ArgumentTypeError("the value is empty")
    return text
