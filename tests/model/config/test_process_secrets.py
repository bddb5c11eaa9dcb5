"""Command lines and environments without secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from model.config.process_secrets import masked, without_secrets
from model.config.server_flags import SECRET_FLAGS
from model.config.settings import CHECKOUT, Settings


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["python", "app.py", "--server_port", "7860", "--auth", "anna:pw"],
         ["python", "app.py", "--server_port", "7860", "--auth", "***"]),
        (["--auth=anna:pw", "--api-key", "a=b", "--api-key=c=d", "--share"],
         ["--auth=***", "--api-key", "***", "--api-key=***", "--share"]),
        (["--admin_key", "k", "--engine_key", "k", "--database-url=u", "--engine_url", "u"],
         ["--admin_key", "***", "--engine_key", "***", "--database-url=***", "--engine_url", "u"]),
        (["--auth_file", "f", "--api_key_file=f"], ["--auth_file", "f", "--api_key_file=f"]),
        (["--auth", "--auth", "anna:pw"], ["--auth", "***", "***"]),
        (["--auth"], ["--auth"]),
        ([], []),
    ],
)  # fmt: skip
def test_masked_hides_secrets_of_a_command_line(words: list[str], shown: list[str]) -> None:
    assert masked(words) == shown


def test_every_secret_field_is_a_secret_flag() -> None:
    """The same flags are hidden in `repr`, on command lines and in environments."""
    assert {field.name for field in fields(Settings) if not field.repr} == set(SECRET_FLAGS)


def test_without_secrets_keeps_only_the_named_ones() -> None:
    secret = {f"LINLY_{flag.upper()}{end}": "s" for flag in SECRET_FLAGS for end in ("", "_FILE")}
    other = {"PATH": "/bin", "LINLY_CACHE_DIR": "/c", "HF_TOKEN": "needed for bases"}
    environ = {**secret, **other, "PGPASSWORD": "s"}
    assert without_secrets(environ) == other
    kept = without_secrets(environ, keep=("engine_key", "base_model"))
    assert kept == {**other, "LINLY_ENGINE_KEY": "s", "LINLY_ENGINE_KEY_FILE": "s"}


PROGRAM = """
import json, os, subprocess, sys
from pathlib import Path
from model.config.process_secrets import hide_secrets
hide_secrets()
child = subprocess.run([sys.executable, "-c", "import os; print(dict(os.environ))"],
                       capture_output=True, text=True)
seen = [Path(f"/proc/self/{name}").read_bytes().decode() for name in ("cmdline", "environ")]
print(json.dumps([*seen, child.stdout, dict(os.environ)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_hide_secrets_changes_the_process_title_and_environment(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT), "LINLY_AUTH": "bo:s3cret",
               "LINLY_ADMIN_KEY": "s3cret", "LINLY_DEVICE": "cpu"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, program, "--device", "two words", "--auth", "anna:s3cret"], env=environ,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "s3cret" not in done.stdout
    cmdline, _, child, own = json.loads(done.stdout)
    shown = cmdline.rstrip("\0")
    assert shown == f"{sys.executable} {program} --device 'two words' --auth ***"
    assert "LINLY_DEVICE" in child
    assert own["LINLY_DEVICE"] == "cpu"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_hide_secrets_changes_nothing_without_secrets(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, program, "--device", "cpu"], env=environ,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert json.loads(done.stdout)[0].split("\0")[-3:] == ["--device", "cpu", ""]
