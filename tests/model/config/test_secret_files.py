"""Files of secrets: what is read from them, and wrong ones as a sentence without it."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from model.config import secret_files
from model.config.secret_files import MAX_FILE_BYTES, exposure_warnings, read_accounts, read_keys
from model.config.settings import read_settings
from model.config.settings import secret_files as named_files
from model.errors import SettingsError
from tests.model.config.test_secret_values import HASH

SECRET = "s3cret-Xy"
READERS: list[tuple[str, str, str]] = [
    ("auth_file", "anna:{}", "auth"),
    ("api_key_file", "{}", "api_key"),
]


def write(folder: Path, content: str | bytes) -> Path:
    file = folder / "secret"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    file.chmod(0o600)
    return file


def refusal(argv: list[str], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        read_settings(argv, environ or {})
    assert caught.value.exit_status == 2
    told = "".join(traceback.format_exception(caught.value))
    assert SECRET not in told
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_auth_file_is_read(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        f"\ufeff# who may come in\r\nanna:{HASH}\r\n\n  bo:p:w #1  \n#old:pw\n安娜:密码",
    )
    settings = read_settings(["--auth_file", str(file)], {})
    assert settings.accounts == {"anna": HASH, "bo": "p:w #1", "安娜": "密码"}
    assert read_settings([], {"LINLY_AUTH_FILE": str(file)}).auth == settings.auth
    assert settings.auth_file == file


def test_secret_file_adds_to_the_flags(tmp_path: Path) -> None:
    file = write(tmp_path, "bo:two\n")
    settings = read_settings(["--auth", "anna:one", "--auth_file", str(file)], {})
    assert settings.accounts == {"anna": "one", "bo": "two"}
    assert read_settings(["--auth-file", str(file)], {"LINLY_AUTH": "cy:3"}).accounts == {
        "cy": "3", "bo": "two",
    }  # fmt: skip


def test_api_key_file_is_read(tmp_path: Path) -> None:
    file = write(tmp_path, "# who has which\nalpha  # Ann\n\nbeta gamma\n")
    assert read_keys("--api_key_file", file) == ("alpha", "beta", "gamma")


@pytest.mark.parametrize(("flag", "line", "field"), READERS)
def test_secret_file_has_a_maximum_size(flag: str, line: str, field: str, tmp_path: Path) -> None:
    text = line.format(SECRET) + "\n"
    full = write(tmp_path, text + "#" * (MAX_FILE_BYTES - len(text)))
    assert getattr(read_settings([f"--{flag}={full}"], {}), field)
    over = write(tmp_path, text + "#" * (MAX_FILE_BYTES - len(text) + 1))
    assert "larger than 64 kB" in refusal([f"--{flag}={over}"])


MAKERS: list[tuple[Callable[[Path], object], str]] = [
    (lambda p: None, "No such file or directory"),
    (lambda p: p.mkdir(), "not a regular file"),
    (lambda p: os.mkfifo(p), "not a regular file"),  # would be waited for
    (lambda p: p.symlink_to("/dev/zero"), "not a regular file"),
    (lambda p: p.write_bytes(b""), "empty"),
    (lambda p: p.write_bytes(b" \n\t\n"), "empty"),
    (lambda p: p.write_bytes(SECRET.encode() + b"\xff"), "not UTF-8"),
    (lambda p: p.write_bytes(f"anna:{SECRET}\0".encode()), "NUL"),
    (lambda p: p.write_bytes(b"# none yet\n"), "on each line"),
]


@pytest.mark.parametrize(("make", "said"), MAKERS)
@pytest.mark.parametrize("flag", ["auth_file", "api_key_file"])
def test_unusable_secret_file_is_refused(
    flag: str, make: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    """Most of all an empty file, which must not give access to all users."""
    file = tmp_path / "file"
    make(file)
    for sentence in (
        refusal([f"--{flag}={file}"]), refusal([], {f"LINLY_{flag.upper()}": str(file)})
    ):  # fmt: skip
        assert said in sentence
        assert f"--{flag}" in sentence
        assert str(file) in sentence


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads any file")
def test_secret_file_without_read_permission_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, f"anna:{SECRET}")
    file.chmod(0)
    assert "Permission denied" in refusal([f"--auth_file={file}"])


def test_secret_file_that_fails_to_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like the test above, for tests that run as root."""

    def refuse(file: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(secret_files, "_read_bytes", refuse)
    assert "Permission denied" in refusal([f"--auth_file={tmp_path}"])


@pytest.mark.parametrize(
    ("line", "said"),
    [(SECRET, "expected user:password"), (f":{SECRET}", "expected user:password"),
     (f"anna:$argon2id${SECRET}", "argon2id"), (f"bo:{SECRET}", "user bo has an account already"),
     (f"cy:{SECRET}", "user cy has an account already"), ("anna:" + SECRET * 200, "1024 bytes")],
)  # fmt: skip
def test_malformed_account_is_named_by_its_line(line: str, said: str, tmp_path: Path) -> None:
    file = write(tmp_path, f"# accounts\n\nbo:pw\n{line}\n")
    sentence = refusal(["--auth=cy:pw", f"--auth_file={file}"])
    assert f"line 4 of {file}" in sentence
    assert said in sentence


@pytest.mark.parametrize("line", [f"schlüssel-{SECRET}", f"{SECRET} \x07{SECRET}", HASH])
def test_malformed_key_is_named_by_its_line(line: str, tmp_path: Path) -> None:
    file = write(tmp_path, f"alpha\n\n{line}\n")
    assert f"line 3 of {file}" in refusal([f"--api_key_file={file}"])


# LINLY_<FLAG>_FILE


@pytest.mark.parametrize(
    ("name", "content", "value"),
    [
        ("admin_key", " sk-admin\n", "sk-admin"),
        ("engine_key", "sk-engine", "sk-engine"),
        ("database_url", "postgresql://u:pw@h/chats\n", "postgresql://u:pw@h/chats"),
        ("server_port", "7000\n", 7000),
        ("share", "yes\n", True),
        ("allow_origin", "https://a.example\nhttps://b.example\n",
         ("https://a.example", "https://b.example")),
    ],
)  # fmt: skip
def test_file_variable_sets_value(name: str, content: str, value: object, tmp_path: Path) -> None:
    file = write(tmp_path, content)
    environ = {f"LINLY_{name.upper()}_FILE": str(file)}
    assert getattr(read_settings([], environ), name) == value


def test_flag_wins_over_a_file_variable(tmp_path: Path) -> None:
    environ = {"LINLY_ADMIN_KEY_FILE": str(write(tmp_path, SECRET))}
    assert read_settings(["--admin_key", "other"], environ).admin_key == "other"


@pytest.mark.parametrize("name", ["auth", "api_key", "admin_key", "database_url", "server_port"])
def test_variable_and_its_file_variable_exclude_each_other(name: str, tmp_path: Path) -> None:
    file = write(tmp_path, f"anna:{SECRET}")
    variable = f"LINLY_{name.upper()}"
    sentence = refusal([], {variable: SECRET, f"{variable}_FILE": str(file)})
    assert f"{variable} and {variable}_FILE are both set" in sentence


@pytest.mark.parametrize(
    ("name", "content"),
    [("admin_key", f"two {SECRET}"), ("database_url", f"mysql://u:{SECRET}@host/chats"),
     ("database_url", f"{SECRET}://host"), ("engine_key", f"{SECRET}\n{SECRET}"),
     # A variable may name the wrong file, one with a secret.
     ("server_port", SECRET), ("share", SECRET), ("engine_url", f"http://u:{SECRET}@host:x"),
     ("allowed_hosts", f"{SECRET}/"), ("quantization", SECRET)],
)  # fmt: skip
def test_error_repeats_no_value_of_a_file(name: str, content: str, tmp_path: Path) -> None:
    file = write(tmp_path, content)
    variable = f"LINLY_{name.upper()}_FILE"
    assert variable in refusal([], {variable: str(file)})


def test_empty_file_variable_is_refused() -> None:
    assert "LINLY_ADMIN_KEY_FILE is set, but names no file" in refusal(
        [], {"LINLY_ADMIN_KEY_FILE": ""}
    )
    assert "LINLY_ADMIN_KEY_FILE" in refusal([], {"LINLY_ADMIN_KEY_FILE": "/nowhere/key"})


# Who else can read them


@pytest.mark.parametrize(
    ("mode", "warned"),
    [(0o600, False), (0o400, False), (0o640, True), (0o604, True), (0o644, True)],
)
def test_file_that_others_can_read_is_warned_of(mode: int, warned: bool, tmp_path: Path) -> None:
    file = write(tmp_path, f"anna:{SECRET}")
    file.chmod(mode)
    warnings = exposure_warnings({"--auth_file": file})
    assert len(warnings) == warned
    for warning in warnings:
        assert "--auth_file" in warning
        assert str(file) in warning
        assert SECRET not in warning
    assert read_accounts("--auth_file", file, ()) == (f"anna:{SECRET}",)


def test_secret_file_of_another_owner_may_be_readable_by_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes mounts secrets so: the program can read them only as a member of the group."""
    file = write(tmp_path, SECRET)
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    file.chmod(0o440)
    assert exposure_warnings({"--auth_file": file}) == []
    file.chmod(0o444)
    assert len(exposure_warnings({"--auth_file": file})) == 1


def test_secret_files_lists_all_files(tmp_path: Path) -> None:
    accounts, key = tmp_path / "accounts", tmp_path / "key"
    accounts.write_text("anna:pw")
    key.write_text("sk-1")
    environ = {"LINLY_AUTH_FILE": str(accounts), "LINLY_ADMIN_KEY_FILE": str(key),
               "LINLY_DEVICE_FILE": str(key)}  # fmt: skip
    settings = read_settings([], {k: v for k, v in environ.items() if "DEVICE" not in k})
    assert named_files(settings, environ) == {
        "--auth_file": accounts, "LINLY_ADMIN_KEY_FILE": key,
    }  # fmt: skip
