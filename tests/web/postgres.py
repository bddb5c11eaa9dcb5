"""A real PostgreSQL server for tests, from the system's packages."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

USER, PASSWORD = "linly", "se:cr@t"
ENCODED = "se%3Acr%40t"
START_SECONDS = 60.0  # far more than a start or a stop takes
STOP_SECONDS = 60.0
CONNECT_SECONDS = 5  # for one attempt to connect during the start
SIGNAL_SECONDS = 1.0  # until a signal is sent again
FAST_SETTINGS = (
    "fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=16MB",
    "max_connections=60", "autovacuum=off", "unix_socket_directories=",
)  # fmt: skip


def programs_folder() -> Path:
    """Returns the folder of initdb and postgres. Without it, tests fail in CI, else they skip."""
    in_path = shutil.which("postgres")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if in_path or installed:
        return Path(in_path).parent if in_path else installed[-1].parent
    if os.environ.get("CI"):
        pytest.fail("CI must run the tests with PostgreSQL, and there is none")
    pytest.skip("there is no PostgreSQL on this machine: apt-get install postgresql")


class PostgresServer:
    """A PostgreSQL server with its data in `folder`, which its user must own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs = programs_folder()
        self._numbers = count()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._init()
        self._process = self._launch()

    def url(self, database: str, user: str = USER, password: str = ENCODED) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def database(self, options: str = "") -> str:
        """Creates an empty database, and returns its URL."""
        name = f"test{next(self._numbers)}"
        execute(self.url("postgres"), f"CREATE DATABASE {name} {options}")
        return self.url(name)

    def stop(self) -> None:
        """Stops the server at once; clients lose their connections."""
        end(self._process, signal.SIGINT)

    def start(self) -> None:
        """Starts the server again after `stop`, at the same address.

        Call it on the main thread: the server ends with the thread that has started it.
        """
        self._process = self._launch()

    @contextmanager
    def hanging(self, url: str) -> Iterator[None]:
        """Suspends the server as on a paused machine: its connections stay open but silent."""
        pids = [pid for (pid,) in rows(url, "SELECT pid FROM pg_stat_activity"
                                            " WHERE datname = current_database()"
                                            " AND pid <> pg_backend_pid()")]  # fmt: skip
        stopped = [self._process.pid, *pids]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        if self._process.poll() is None:
            end(self._process, signal.SIGQUIT)

    def _init(self) -> None:
        secret = self._folder / "password"
        secret.write_text(PASSWORD, encoding="utf-8")
        # The simplest locale: the program may not depend on the database's locales.
        done = subprocess.run(
            [*unprivileged_command(), self._programs / "initdb", "--no-sync", "--locale=C",
             "--encoding=UTF8", f"--username={USER}", "--auth=scram-sha-256",
             f"--pwfile={secret}", self._folder / "data"],
            cwd=self._folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def _launch(self) -> subprocess.Popen[bytes]:
        """
        Raises:
            RuntimeError: the server does not accept connections within START_SECONDS, and has been
                stopped.
        """
        settings = [arg for setting in FAST_SETTINGS for arg in ("-c", setting)]
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*unprivileged_command(), self._programs / "postgres", "-D", self._folder / "data",
                 "-p", str(self.port), *settings],
                cwd=self._folder, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            # A server that is starting may accept a connection and not respond.
            with contextlib.suppress(psycopg.OperationalError):
                url = self.url("postgres")
                with psycopg.connect(url, connect_timeout=CONNECT_SECONDS):
                    return process
            time.sleep(0.02)
        end(process, signal.SIGQUIT)
        raise RuntimeError((self._folder / "log").read_text(encoding="utf-8"))


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Sends the signal until the process has ended, and kills it after STOP_SECONDS.

    The process ignores a signal before it sets its handlers, if a shell has started the tests in
    the background. A process that stayed would make an unrelated test fail with a ResourceWarning.
    """
    deadline = time.monotonic() + STOP_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SIGNAL_SECONDS)
    if process.poll() is None:
        process.kill()
        process.wait()
        pytest.fail(f"PostgreSQL did not end within {STOP_SECONDS:g} s")


def unprivileged_command() -> list[str]:
    """Returns the command that runs PostgreSQL without root, and ends it with the tests."""
    command = ["setpriv", "--pdeathsig=QUIT"] if shutil.which("setpriv") else []
    if os.geteuid() != 0:
        return command
    user = unprivileged_user()
    return [
        "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups",
        "--pdeathsig=QUIT",
    ]  # fmt: skip


def unprivileged_user() -> pwd.struct_passwd:
    """Returns the user that runs PostgreSQL if root runs the tests."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("there is no user but root")


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Runs a server in a temporary folder."""
    programs_folder()
    with tempfile.TemporaryDirectory(prefix="linly-postgres-") as name:
        folder = Path(name)  # not pytest's, which only its user may enter
        if os.geteuid() == 0:
            user = unprivileged_user()
            os.chown(folder, user.pw_uid, user.pw_gid)
        server = PostgresServer(folder)
        try:
            yield server
        finally:
            server.kill()


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query).fetchall()  # type: ignore[arg-type]


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[arg-type]


def cut_connections(url: str) -> None:
    """Ends all connections to the database, as a restart of the server would."""
    pids = {pid for pid, _ in rows(url, "SELECT pid, pg_terminate_backend(pid)"
                                        " FROM pg_stat_activity WHERE datname = current_database()"
                                        " AND pid <> pg_backend_pid()")}  # fmt: skip
    deadline = time.monotonic() + STOP_SECONDS
    while pids & {pid for (pid,) in rows(url, "SELECT pid FROM pg_stat_activity")}:
        assert time.monotonic() < deadline
        time.sleep(0.002)
