"""Hides secrets from other processes: in the command line, and in the environment.

Other users of the machine can read a process's command line. Child processes inherit its
environment.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence

from model.config.argument_parser import underscored
from model.config.server_flags import SECRET_FLAGS

MASK = "***"
# PostgreSQL's variables: this process needs them for new connections, child processes do not.
DATABASE_VARIABLES = ("PGPASSWORD", "POSTGRES_PASSWORD")


def hide_secrets() -> None:
    """Replaces the secrets in this process's command line, and removes their variables from its
    environment. Call it once the settings are read, before threads and child processes.

    Where the system allows it (Linux, macOS), `ps` then shows the command line with `***` in place
    of the values. On Linux that also overwrites what /proc shows of the environment.
    """
    variables = [name for name in _secret_variables(()) if name in os.environ]
    shown = masked(sys.orig_argv)
    if variables or shown != sys.orig_argv:
        from setproctitle import setproctitle  # imported here: few commands get a secret

        # Before the variables are deleted: it has to find their memory.
        setproctitle(" ".join(_quoted(word) for word in shown))
    for name in variables:
        del os.environ[name]


def masked(words: Sequence[str]) -> list[str]:
    """Returns a command line with `***` in place of each secret."""
    shown: list[str] = []
    secret_follows = False
    for word in words:
        flag, equals, _ = underscored(word).partition("=")
        secret = flag.startswith("--") and flag[2:] in SECRET_FLAGS
        if secret_follows:
            shown.append(MASK)
        elif secret and equals:
            shown.append(f"{word.partition('=')[0]}={MASK}")
        else:
            shown.append(word)
        secret_follows = secret and not equals
    return shown


def without_secrets(environ: Mapping[str, str], keep: Collection[str] = ()) -> dict[str, str]:
    """Returns an environment for a child process, without secrets except those of the flags in
    `keep`."""
    dropped = {*_secret_variables(keep), *DATABASE_VARIABLES}
    return {name: value for name, value in environ.items() if name not in dropped}


def _secret_variables(keep: Collection[str]) -> Iterator[str]:
    for flag in SECRET_FLAGS:
        if flag not in keep:
            yield f"LINLY_{flag.upper()}"
            yield f"LINLY_{flag.upper()}_FILE"


def _quoted(word: str) -> str:
    return word if word.endswith(MASK) else shlex.quote(word)
