"""A real PostgreSQL of the tests' own, from the system's packages."""

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
from psycopg import sql

USER, PASSWORD = "linly", "se:cr@t"
ENCODED = "se%3Acr%40t"
SECONDS = 60.0  # to start or to stop; a bound, not a measure
STOP_SECONDS = 60.0
SIGNAL_SECONDS = 1.0  # until a signal is sent again
QUICK = (
    "fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=16MB",
    "max_connections=60", "autovacuum=off", "unix_socket_directories=",
)  # fmt: skip


def programs() -> Path:
    """The folder of initdb and postgres. Where there is none, CI fails and others skip."""
    beside = shutil.which("postgres")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if beside or found:
        return Path(beside).parent if beside else found[-1].parent
    if os.environ.get("CI"):
        pytest.fail("CI must run the tests with PostgreSQL, and there is none")
    pytest.skip("there is no PostgreSQL on this machine: apt-get install postgresql")


class PostgresServer:
    """Runs in `folder`, which is its user's; nothing of it is to last."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs = programs()
        self._numbers = count()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._init()
        self._process = self._started()

    def url(self, database: str, user: str = USER, password: str = ENCODED) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def database(self, options: str = "") -> str:
        """A new, empty one; its address."""
        name = f"test{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} {options}")
        return self.url(name)

    def run(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(sql.SQL(statement))  # type: ignore[arg-type]

    def stop(self) -> None:
        """At once; whoever is connected is cut off."""
        end(self._process, signal.SIGINT)

    def start(self) -> None:
        """After `stop`, at the same address. On the main thread: it ends with the one it is of."""
        self._process = self._started()

    @contextmanager
    def hanging(self, url: str) -> Iterator[None]:
        """As on a machine that is paused: who is connected to the database is not even cut off."""
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
        # The plainest locale there is: nothing may depend on what a database knows of languages.
        done = subprocess.run(
            [*unprivileged(), self._programs / "initdb", "--no-sync", "--locale=C",
             "--encoding=UTF8", f"--username={USER}", "--auth=scram-sha-256",
             f"--pwfile={secret}", self._folder / "data"],
            cwd=self._folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def _started(self) -> subprocess.Popen[bytes]:
        settings = [word for one in QUICK for word in ("-c", one)]
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*unprivileged(), self._programs / "postgres", "-D", self._folder / "data",
                 "-p", str(self.port), *settings],
                cwd=self._folder, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url("postgres")).close()
                return process
            time.sleep(0.02)
        end(process, signal.SIGQUIT)
        raise RuntimeError((self._folder / "log").read_text(encoding="utf-8"))


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send the signal until the process has ended: one that comes before its handlers are set is
    ignored where a shell has started the tests in the background."""
    deadline = time.monotonic() + STOP_SECONDS
    while process.poll() is None:
        assert time.monotonic() < deadline
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SIGNAL_SECONDS)


def unprivileged() -> list[str]:
    """What PostgreSQL is to be run with: it refuses root, and goes when the test does."""
    ends = ["setpriv", "--pdeathsig=QUIT"] if shutil.which("setpriv") else []
    if os.geteuid() != 0:
        return ends
    user = nobody()
    return [
        "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups",
        "--pdeathsig=QUIT",
    ]  # fmt: skip


def nobody() -> pwd.struct_passwd:
    """Who runs PostgreSQL where root tests."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("there is no user but root")


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server for some tests."""
    programs()
    with tempfile.TemporaryDirectory(prefix="linly-postgres-") as name:
        folder = Path(name)  # not pytest's, which others than root may not enter
        if os.geteuid() == 0:
            os.chown(folder, nobody().pw_uid, nobody().pw_gid)
        server = PostgresServer(folder)
        try:
            yield server
        finally:
            server.kill()


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query).fetchall()  # type: ignore[arg-type]


def do(url: str, *deeds: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for deed in deeds:
            connection.execute(deed)  # type: ignore[arg-type]


def cut_off(url: str) -> None:
    """As a restart would, whoever else is connected to the database."""
    gone = {pid for pid, _ in rows(url, "SELECT pid, pg_terminate_backend(pid)"
                                        " FROM pg_stat_activity WHERE datname = current_database()"
                                        " AND pid <> pg_backend_pid()")}  # fmt: skip
    deadline = time.monotonic() + SECONDS
    while gone & {pid for (pid,) in rows(url, "SELECT pid FROM pg_stat_activity")}:
        assert time.monotonic() < deadline
        time.sleep(0.002)
