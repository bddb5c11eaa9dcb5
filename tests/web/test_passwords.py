"""Hashing and verifying passwords, and the command that prints an account line."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pty
import subprocess
import sys
import threading
from typing import Any

import pytest
from argon2 import PasswordHasher

from model.config.secret_values import MAX_PASSWORD_BYTES, user_and_password
from model.config.settings import CHECKOUT
from model.errors import SettingsError
from web import passwords
from web.passwords import PasswordChecker, hash_password, is_hash, verify_password

COMMAND = [sys.executable, "-m", "web.passwords"]


@pytest.fixture(scope="module")
def hashed() -> str:
    return hash_password("s3cret")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records the stored passwords that are verified from now on."""
    verified: list[str] = []
    verify = verify_password

    def count(password: str | bytes, stored: str) -> bool:
        verified.append(stored)
        return verify(password, stored)

    monkeypatch.setattr(passwords, "verify_password", count)
    return verified


def test_a_hash_is_verified(hashed: str) -> None:
    assert is_hash(hashed)
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert verify_password("s3cret", hashed)
    assert verify_password(b"s3cret", hashed)
    for wrong in ("s3cret ", "S3cret", "", "s3cret\0", hashed, "\ud800"):
        assert not verify_password(wrong, hashed)
    assert user_and_password(f"anna:{hashed}") == f"anna:{hashed}"


def test_each_hash_has_its_salt(hashed: str) -> None:
    assert hash_password("s3cret") != hashed


@pytest.mark.parametrize("password", ["密码", "p w", "\ud800", "x" * MAX_PASSWORD_BYTES, "a\0b"])
def test_any_password_can_be_hashed(password: str) -> None:
    stored = hash_password(password)
    assert verify_password(password, stored)
    assert not verify_password(password[:-1], stored)


def test_plain_passwords_are_compared() -> None:
    assert verify_password("密码", "密码")
    assert not verify_password("口令", "密码")
    assert not verify_password("", "")  # no user of that name


@pytest.mark.parametrize("broken", ["$argon2id$", "$argon2id$v=19$m=19456,t=2,p=1$x$y", "$argon2ü"])
def test_a_broken_hash_matches_nothing(broken: str) -> None:
    assert not verify_password(broken, broken)


def test_a_too_long_password_is_not_hashed(hashed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it is being hashed")

    monkeypatch.setattr(PasswordHasher, "hash", refuse)
    monkeypatch.setattr(PasswordHasher, "verify", refuse)
    assert not verify_password("x" * (MAX_PASSWORD_BYTES + 1), hashed)
    assert not verify_password("密" * 342, hashed)  # the bytes count
    assert not verify_password("", hashed)
    for bad in ("", "x" * (MAX_PASSWORD_BYTES + 1)):
        with pytest.raises(SettingsError):
            hash_password(bad)


def test_users_that_do_not_exist_cost_a_hash(hashed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verified = counted(monkeypatch)
    checker, accounts = PasswordChecker(), {"bo": "plain", "anna": hashed}
    for user, password, right in [
        ("anna", "s3cret", True), ("anna", "guess", False), ("bo", "plain", True),
        ("bo", "guess", False), ("other", "s3cret", False), ("other", "", False),
        ("anna", hashed, False), ("", "s3cret", False),
    ]:  # fmt: skip
        verified.clear()
        assert checker.verify_account(accounts, user, password) is right
        assert verified.count(hashed) == 1
    verified.clear()
    assert not checker.verify_account({"bo": "plain"}, "other", "plain")
    assert verified == [""]


def test_right_keys_are_cached_and_wrong_ones_are_not(
    hashed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = counted(monkeypatch)
    checker, other = PasswordChecker(), hash_password("other")
    stored = (other, hashed)
    for _ in range(3):
        assert checker.verify_key(b"s3cret", stored)
    assert verified == [other, hashed]
    assert checker.has_verified(b"s3cret", stored)
    assert not checker.has_verified(b"s3cret", (other,))
    verified.clear()
    for _ in range(2):
        assert not checker.verify_key(b"guess", stored)
    assert verified == [other, hashed] * 2
    assert not checker.has_verified(b"guess", stored)
    assert not checker.verify_key(hashed.encode(), stored)


def test_cache_of_keys_is_bounded_and_has_digests(
    hashed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "verify_password", lambda password, stored: True)
    monkeypatch.setattr(passwords, "MAX_CACHED_KEYS", 3)
    secrets: list[bytes] = []
    blake2b = hashlib.blake2b

    def record(text: bytes, *, key: bytes, digest_size: int) -> Any:
        secrets.append(key)
        assert digest_size == 32
        return blake2b(text, key=key, digest_size=digest_size)

    monkeypatch.setattr(hashlib, "blake2b", record)
    checker = PasswordChecker()
    for key in (b"a", b"b", b"c", b"a", b"d"):
        checker.verify_key(key, (hashed,))
    cached = [key for key in (b"a", b"b", b"c", b"d") if checker.has_verified(key, (hashed,))]
    assert cached == [b"a", b"c", b"d"]  # without the least recently used one
    (secret,) = set(secrets)
    secrets.clear()
    PasswordChecker().verify_key(b"a", (hashed,))
    assert secrets
    assert secret not in secrets  # each process has its own


def test_few_passwords_are_verified_at_once_and_not_on_the_event_loop() -> None:
    """Each verification takes 19 MiB: forty threads at once would take most of a gigabyte."""
    running, most, lock = 0, 0, threading.Lock()
    barrier = threading.Barrier(passwords.MAX_THREADS)

    def check(right: bool) -> bool:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        barrier.wait(30)
        with lock:
            running -= 1
        barrier.wait(30)
        return right

    async def many() -> list[bool]:
        checker = PasswordChecker()
        return await asyncio.gather(*(checker.in_thread(check, n % 2 == 0) for n in range(12)))

    assert asyncio.run(many()) == [True, False] * 6
    assert most == passwords.MAX_THREADS


# The command


def run(*flags: str, piped: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *flags], cwd=CHECKOUT, input=piped, capture_output=True, check=False
    )


@pytest.mark.parametrize("piped", [b"s3cret\n", b"s3cret", b"s3cret\r\n"])
def test_a_password_is_piped_in(piped: bytes) -> None:
    done = run("anna", piped=piped)
    assert (done.returncode, done.stderr) == (0, b"")
    user, _, stored = done.stdout.decode().rstrip("\n").partition(":")
    assert user == "anna"
    assert verify_password("s3cret", stored)


@pytest.mark.parametrize(
    ("flags", "piped", "message"),
    [
        ([], b"s3cret\n", "There is no user name"),
        (["anna"], b"", "The password is empty"),
        (["anna"], b"\n", "The password is empty"),
        (["anna"], b"s3cret\nbo\n", "not one line"),
        (["anna"], b"s3cret\0", "not one line"),
        (["anna"], b"s3cret\xff", "not UTF-8"),
        (["anna"], b"s3cret" * 200, "longer than 1024 bytes"),
        (["anna"], b"s3cret" * 100_000, "longer than 1024 bytes"),
        (["an:na"], b"s3cret", "contain a colon"),
        (["#anna"], b"s3cret", "begin with #"),
        ([" anna"], b"s3cret", "A user name"),
        ([""], b"s3cret", "A user name"),
        (["an\nna"], b"s3cret", "printable"),
        (["--usr", "anna"], b"s3cret", "Unknown flag --usr"),
        (["anna", "bo"], b"s3cret", "Unknown flag bo"),
    ],
)
def test_wrong_use_is_one_sentence(flags: list[str], piped: bytes, message: str) -> None:
    done = run(*flags, piped=piped)
    assert (done.returncode, done.stdout) == (2, b"")
    assert message in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1
    assert b"s3cret" not in done.stderr


def test_help_suffices() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert b"standard input" in done.stdout


def at_terminal(*flags: str, typed: list[str]) -> tuple[int, str, str]:
    """Runs the command on a terminal; returns its status, standard output and the terminal's
    content."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *flags], cwd=CHECKOUT, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs,
        start_new_session=True, preexec_fn=_take_terminal,
    )  # fmt: skip
    os.close(theirs)
    shown = ""
    for words in typed:
        shown += _read_until(ours, ": ")
        os.write(ours, f"{words}\n".encode())
    out, _ = process.communicate(timeout=30)
    shown += _read_until(ours, None)
    os.close(ours)
    return process.returncode, out.decode(), shown


def _take_terminal() -> None:
    """Makes standard input the terminal that getpass opens as /dev/tty."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _read_until(descriptor: int, end: str | None) -> str:
    shown = ""
    while end is None or not shown.endswith(end):
        try:
            read = os.read(descriptor, 1024)
        except OSError:  # the other end is closed
            break
        if not read:
            break
        shown += read.decode()
    return shown


@pytest.mark.skipif(sys.platform != "linux", reason="gives the command a terminal of its own")
@pytest.mark.parametrize(("flags", "names"), [((), ["anna"]), (("anna",), [])])
def test_a_terminal_is_asked_and_shows_no_password(flags: tuple[str], names: list[str]) -> None:
    status, line, shown = at_terminal(*flags, typed=[*names, "s3cret", "s3cret"])
    assert status == 0, shown
    assert line.startswith("anna:")
    assert verify_password("s3cret", line.strip().partition(":")[2])
    assert "Password" in shown
    assert "s3cret" not in shown


@pytest.mark.skipif(sys.platform != "linux", reason="gives the command a terminal of its own")
def test_two_passwords_that_differ_make_nothing() -> None:
    status, line, shown = at_terminal("anna", typed=["s3cret", "s3crte"])
    assert (status, line) == (2, "")
    assert "differ" in shown


def test_an_interruption_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(passwords, "getpass", interrupt)
    assert passwords.main(["anna"]) == 1
    assert capsys.readouterr().err == "Interrupted: no line was written.\n"
