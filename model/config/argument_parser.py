"""Argument parser of all commands: accepts hyphens for underscores, reports one short error."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from model.errors import SettingsError
from model.suggestions import did_you_mean
from model.translations import LocalizedText


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser that raises one SettingsError where argparse prints and exits.

    Errors do not repeat the words after a flag of `secret_flags`. `switches` are the flags without
    a value, `repeated` those that can be given several times.
    """

    secret_flags: frozenset[str] = frozenset()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.switches: set[str] = set()
        self.repeated: set[str] = set()
        super().__init__(*args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        action = super().add_argument(*args, **kwargs)
        if kwargs.get("action") == "store_true":
            self.switches.add(action.dest)
        if kwargs.get("action") in ("append", "extend"):
            self.repeated.add(action.dest)
        return action

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        raise SettingsError("flag_wrong", reason=message[:1].upper() + message[1:])

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parses `argv`, which is without the program's name.

        Raises:
            SettingsError: a flag or a value is wrong.
        """
        words = [underscored(word) for word in argv]
        # Before argparse misses a required flag, which may be the misspelt one.
        misspelt = [word for word in words if self._is_misspelt_flag(word, words)]
        if misspelt:
            raise self._unknown_word_error(misspelt[0], words)
        args, unknown = self.parse_known_args(words)
        if unknown:
            raise self._unknown_word_error(unknown[0], words)
        return args

    def _is_misspelt_flag(self, word: str, words: Sequence[str]) -> bool:
        """Whether a word is no flag, but looks like one and is not a secret."""
        flag = word.partition("=")[0]
        if not flag.startswith("--") or flag in ("--", *self._flags()):
            return False
        return not any(before[2:] in self.secret_flags for before in _flags_before(word, words))

    def _unknown_word_error(self, word: str, words: Sequence[str]) -> SettingsError:
        """Returns the error for a word that belongs to no flag."""
        if not word.startswith("--"):
            for flag in _flags_before(word, words):
                if flag.removeprefix("--") in self.secret_flags:
                    return SettingsError("flag_takes_one_value", flag=flag)
            return SettingsError("unknown_flag", flag=word, remedy=LocalizedText("see_help"))
        flag = word.partition("=")[0]  # a misspelt flag's value may be a secret
        return SettingsError(
            "unknown_flag", flag=flag, remedy=did_you_mean(flag, self._flags(), "see_help")
        )

    def _flags(self) -> list[str]:
        """Returns the flags of this parser and of those of its subcommands."""
        choices = [a.choices for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        parsers = [self, *(parser for each in choices for parser in each.values())]
        return [option for parser in parsers for option in parser._option_string_actions]


def _flags_before(word: str, words: Sequence[str]) -> Iterator[str]:
    """Yields the last flag before each occurrence of `word`."""
    flag = ""
    for current in words:
        if current == word:
            yield flag
        elif current.startswith("--"):
            flag = current.partition("=")[0]


def underscored(word: str) -> str:
    """Returns `--server-port=1` as `--server_port=1`; changes no value and no other word."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value


def not_empty(text: str) -> str:
    """A value that must not be empty."""
    if not text:
        raise argparse.ArgumentTypeError("the value is empty")
    return text
