"""Passwords, keys and database URLs do not leave the program: they are not in its output, its
command line (which other users can read) or its child processes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio import networking, tunneling

from model.config.settings import CHECKOUT
from tests.test_app import Process, read_until, run, started
from tests.web.public_link.test_tunnel import WORKING, ShareServer
from training.job import TrainingRunner
from web.passwords import hash_password
from web.public_link import tunnel

SECRET = "s3cret-Xy"
FROM_FILE = "fr0m-file-Xy"
ENVIRONMENT = {"LINLY_API_KEY": f"{SECRET}-key", "LINLY_AUTH": f"cy:{SECRET}-cy"}

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def accounts(tmp_path: Path) -> Path:
    """A file with a plain and a hashed password, which all users can read."""
    file = tmp_path / "accounts"
    file.write_text(f"bo:{FROM_FILE}\nmei:{hash_password(SECRET)}\n")
    file.chmod(0o644)
    return file


@pytest.fixture
def app(
    accounts: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Process, str]]:
    """The program with secrets from flags, the environment and a file."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with started(
        "--base_model", str(tiny_folder), "--auth", f"anna:{SECRET}", "--admin-key",
        f"{SECRET}-admin", f"--engine_key={SECRET}-engine", "--auth_file", str(accounts),
        "--log_requests", "--log_prompts",
    ) as running:  # fmt: skip
        yield running


def system_view(pid: int) -> dict[str, str]:
    """What /proc tells of a process and of its children: command lines and environments."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {
        f"/proc/{process}/{name}": Path(f"/proc/{process}/{name}").read_text(errors="replace")
        for process in (pid, *map(int, children))
        for name in ("cmdline", "environ", "comm")
    }


@linux
def test_the_system_sees_no_secret_of_a_running_program(app: tuple[Process, str]) -> None:
    process, _ = app
    seen = system_view(process.pid)
    for name, text in seen.items():
        assert SECRET not in text, name
        assert FROM_FILE not in text, name
    shown = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(process.pid)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert f"{sys.executable} app.py --server_port 0 --base_model " in shown
    assert " --auth *** --admin-key *** --engine_key=*** --auth_file /" in shown


def test_no_output_has_a_secret(app: tuple[Process, str], accounts: Path) -> None:
    """Checks responses with right and wrong keys, metrics, the API's document, and the log."""
    process, address = app
    read_until(process, "Ready after")
    answers = []
    with httpx.Client(base_url=address, timeout=60) as client:
        for key in (f"{SECRET}-key", f"{SECRET}-wrong", f"{SECRET}-admin"):
            headers = {"Authorization": f"Bearer {key}"}
            answers.append(client.get("/v1/models", headers=headers))
            answers.append(client.get("/v1/adapters", headers=headers))
        answers += [client.get(path) for path in ("/health", "/metrics", "/openapi.json")]
        for user, password in (("anna", SECRET), ("mei", SECRET), ("bo", f"{SECRET}-wrong")):
            form = {"username": user, "password": password}
            answers.append(client.post("/login", data=form))
        answers += [client.get(path) for path in ("/", "/config")]
    texts = [answer.text for answer in answers]
    statuses = [answer.status_code for answer in answers]
    docs, logins, page = [200, 200, 401], [303, 303, 401], [200, 404]
    assert statuses == [200, 403, 401, 401, 200, 200, *docs, *logins, *page]
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert "/v1/models" in out  # the requests are in the log
    assert err.startswith(f"--auth_file: other users of this machine can read {accounts}.")
    assert len(err.splitlines()) == 1
    for text in (*texts, out, err):
        assert SECRET not in text
        assert FROM_FILE not in text
        assert "$argon2" not in text


# More of them, without a process each: tests/model/config/test_settings.py, test_secret_files.py.
REFUSED = [
    [f"--aut=anna:{SECRET}"],
    ["--auth", "anna:my", SECRET],
    ["--database_url", f"postgresql://u:{SECRET}/x@host/chats"],
    ["--auth_file", "{folder}/accounts"],
    ["--api_key_file", "{folder}/keys"],
]


@pytest.mark.parametrize("flags", REFUSED)
def test_no_refusal_has_a_secret(flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "accounts").write_text(f"anna:pw\n{SECRET}\n")
    (tmp_path / "keys").write_text(f"ключ-{SECRET}\n")
    done = run(*(flag.format(folder=tmp_path) for flag in flags))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert SECRET not in done.stderr


def test_a_database_that_is_away_is_named_without_its_password() -> None:
    url = f"postgresql://u:{SECRET}@127.0.0.1:1/chats"
    done = run("--server_port", "0", "--database_url", url)
    assert done.returncode == 1
    assert SECRET not in done.stderr + done.stdout


CHILD_SECRETS = (
    "LINLY_AUTH", "LINLY_AUTH_FILE", "LINLY_API_KEY", "LINLY_API_KEY_FILE", "LINLY_ADMIN_KEY_FILE",
    "LINLY_DATABASE_URL", "LINLY_ENGINE_KEY", "PGPASSWORD",
)  # fmt: skip


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHILD_SECRETS:
        monkeypatch.setenv(name, SECRET)


@pytest.mark.usefixtures("environment")
def test_a_training_gets_no_secrets(tmp_path: Path) -> None:
    code = "import json, os; print(json.dumps({'event': 'Note', 'text': str(dict(os.environ))}))"
    trainings = TrainingRunner({"LINLY_X": "here"}, lambda flags: [sys.executable, "-c", code])
    trainings.start("mine", tmp_path, [])
    deadline = time.monotonic() + 60
    while trainings.running and time.monotonic() < deadline:
        time.sleep(0.02)
    assert trainings.job
    (note,) = trainings.job.notes
    assert "LINLY_X" in note.facts["text"]
    assert SECRET not in note.facts["text"]


CLIENT = """#!{python}
import json, os, pathlib, sys, time
pathlib.Path({seen!r}).write_text(json.dumps([sys.argv, dict(os.environ)]))
print({line!r}, flush=True)
time.sleep(60)
"""


@linux
@pytest.mark.usefixtures("environment")
def test_the_tunnel_client_gets_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a third-party program, and must not get other services' tokens either."""
    monkeypatch.chdir(tmp_path)  # Gradio writes its certificate into the current folder
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    client, seen = tmp_path / "frpc", tmp_path / "seen.json"
    client.write_text(CLIENT.format(python=sys.executable, seen=str(seen), line=WORKING))
    client.chmod(client.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setattr(tunneling, "BINARY_PATH", str(client))
    monkeypatch.setattr(networking.httpx, "get", lambda url, **_: ShareServer())
    try:
        assert tunnel.open_tunnel(7860) == "https://abc.example"
    finally:
        for process in tunneling.CURRENT_TUNNELS:
            if process.proc:
                process.proc.kill()
                process.proc.communicate()
                process.proc = None
        tunneling.CURRENT_TUNNELS.clear()
    argv, environ = json.loads(seen.read_text())
    assert SECRET not in str(argv)
    assert SECRET not in str(environ)
    assert environ["PATH"] == os.environ["PATH"]
    assert environ["https_proxy"] == "http://proxy:3128"


@pytest.mark.parametrize("command", [["-m", "model", "check", "nowhere"], ["finetune.py"]])
def test_commands_that_need_no_secrets_do_not_read_them(command: list[str]) -> None:
    """Their users need not be able to read the server's files."""
    done = subprocess.run(
        [sys.executable, *command, *(["--data_path", "x"] if command == ["finetune.py"] else [])],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
        env={**os.environ, "LINLY_AUTH_FILE": "/nowhere/accounts", "LINLY_AUTH": SECRET},
    )  # fmt: skip
    assert done.returncode != 0
    assert "nowhere/accounts" not in done.stderr
    assert "LINLY_" not in done.stderr
