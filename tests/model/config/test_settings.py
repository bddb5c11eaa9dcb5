"""Settings: flags, environment variables, defaults, and one short error for each wrong use."""

from __future__ import annotations

import traceback
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from model.config.server_flags import EMBEDDED_DEFAULT
from model.config.settings import Settings, default_base_model, read_settings
from model.errors import SettingsError

SWITCHES = {"share", "share_public", "api_without_key", "log_requests", "log_prompts"}


def error_text(argv: list[str], environ: dict[str, str] | None = None) -> str:
    """Returns the error message for `argv`."""
    with pytest.raises(SettingsError) as caught:
        read_settings(argv, environ or {})
    assert caught.value.exit_status == 2
    text = str(caught.value)
    assert text
    assert "\n" not in text
    assert text[-1] in ".?"
    return text


def test_defaults(tmp_path: Path) -> None:
    settings = read_settings([], {}, checkout=tmp_path)
    assert settings.base_model == EMBEDDED_DEFAULT == "smollm2-135m-instruct"
    assert settings.adapters_dir == tmp_path / "adapters"
    assert settings.prompts_dir == tmp_path / "prompts"
    assert settings.quantization == "8bit"
    assert (settings.server_name, settings.server_port) == ("127.0.0.1", 7860)
    assert settings.device == "auto"
    assert settings.context_length is None
    assert (settings.share, settings.share_public) == (False, False)
    assert (settings.auth, settings.accounts, settings.api_key) == ((), {}, ())
    assert settings.data_dir.is_absolute()
    assert settings.cache_dir.is_absolute()


FLAGS: list[tuple[str, str, Any]] = [
    ("base_model", "some/folder", "some/folder"),
    ("quantization", "4bit", "4bit"),
    ("quantization", "none", "none"),
    ("server_name", "0.0.0.0", "0.0.0.0"),  # noqa: S104 (a value to parse)
    ("server_port", "0", 0),
    ("server_port", "65535", 65535),
    ("auth", "anna:se:cret", ("anna:se:cret",)),
    ("api_key", "sk-1", ("sk-1",)),
    ("admin_key", "sk-2", "sk-2"),
    ("allow_origin", "https://chat.example.com/", ("https://chat.example.com",)),
    ("allowed_hosts", "Chat.Example.com", ("chat.example.com",)),
    ("allowed_hosts", "a.example, *.B.example.", ("a.example", "*.b.example")),
    ("allowed_hosts", "linly_chat,例子.中国", ("linly_chat", "xn--fsqu00a.xn--fiqs8s")),
    ("allowed_hosts", "*", ("*",)),
    ("engine_url", "http://gpu-box:8000", "http://gpu-box:8000/v1"),
    ("engine_url", "https://gpu-box/vllm/v1/", "https://gpu-box/vllm/v1"),
    ("engine_key", "sk-3", "sk-3"),
    ("log_format", "json", "json"),
    ("max_sequences", "1", 1),
    ("max_waiting", "1", 1),
    ("context_length", "16", 16),
    ("data_dir", "chats", Path("chats")),
    (
        "database_url",
        "postgresql://u:p%40w@host:5432/chats",
        "postgresql://u:p%40w@host:5432/chats",
    ),
    ("database_url", "postgres://u@host/chats", "postgres://u@host/chats"),
    ("database_url", "postgresql:///chats?host=/run/pg", "postgresql:///chats?host=/run/pg"),
    ("cache_dir", "cache", Path("cache")),
    ("device", "cuda", "cuda"),
]


@pytest.mark.parametrize(("name", "text", "value"), FLAGS)
def test_flag_is_read_in_every_spelling(name: str, text: str, value: Any) -> None:
    hyphens = name.replace("_", "-")
    for argv in ([f"--{name}", text], [f"--{name}={text}"], [f"--{hyphens}", text],
                 [f"--{hyphens}={text}"]):  # fmt: skip
        assert getattr(read_settings(argv, {}), name) == value


@pytest.mark.parametrize(("name", "text", "value"), FLAGS)
def test_environment_variable_is_read_like_the_flag(name: str, text: str, value: Any) -> None:
    assert getattr(read_settings([], {f"LINLY_{name.upper()}": text}), name) == value


@pytest.mark.parametrize(
    "url",
    ["mysql://u:s3cret@host/chats", "chats.db", "s3cret", "", "postgresql:u:s3cret@host",
     "postgresql://u:s3cret@host:port/chats", "postgresql://u:s3cret@[::1/chats",
     "postgresql://u:s3cret@host/chats?nonsense=1", "postgresql://u:s3cret%zz@host/chats",
     "postgresql://u:s3cret%00@host/chats",
     # The password would be looked up as a host, or shown as the name of a database.
     "postgresql://u:@s3cret@host/chats", "postgresql://u:5/s3cret@host/chats",
     "postgresql://u:/s3cret@host/chats"],
)  # fmt: skip
def test_invalid_database_url_is_refused(url: str) -> None:
    for said in (
        error_text([f"--database_url={url}"]), error_text([], {"LINLY_DATABASE_URL": url})
    ):  # fmt: skip
        assert "postgresql://" in said
        assert "s3cret" not in said


def test_repr_hides_the_password_of_the_database() -> None:
    settings = read_settings(["--database_url", "postgresql://u:s3cret@host/chats"], {})
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize("name", ["adapters_dir", "prompts_dir"])
def test_existing_folder_is_accepted(name: str, tmp_path: Path) -> None:
    assert getattr(read_settings([f"--{name}", str(tmp_path)], {}), name) == tmp_path


def test_hyphens_in_a_value_are_kept() -> None:
    settings = read_settings(["--base-model=my-base-model", "--api-key", "sk-a-b"], {})
    assert (settings.base_model, settings.api_key) == ("my-base-model", ("sk-a-b",))


@pytest.mark.parametrize("name", sorted(SWITCHES))
def test_switch_is_set_by_its_flag(name: str) -> None:
    assert getattr(read_settings([f"--{name}"], {}), name) is True
    assert getattr(read_settings([f"--{name.replace('_', '-')}"], {}), name) is True


@pytest.mark.parametrize(
    ("text", "on"),
    [("1", True), ("true", True), ("YES", True), ("on", True),
     ("0", False), ("False", False), ("no", False), ("off", False), ("", False)],
)  # fmt: skip
def test_switch_from_the_environment(text: str, on: bool) -> None:
    for name in SWITCHES:
        assert getattr(read_settings([], {f"LINLY_{name.upper()}": text}), name) is on


def test_flag_wins_over_environment_and_environment_over_default(tmp_path: Path) -> None:
    (tmp_path / "Open-Linly-13b").mkdir()
    environ = {"LINLY_SERVER_PORT": "1111", "LINLY_BASE_MODEL": "from-environment"}
    settings = read_settings(["--server_port", "2222"], environ, checkout=tmp_path)
    assert settings.server_port == 2222
    assert settings.base_model == "from-environment"


def test_unknown_variable_is_ignored() -> None:
    environ = {"SERVER_PORT": "1", "linly_server_port": "2", "LINLY_": "3", "LINLY_HOME": "4"}
    assert read_settings([], environ).server_port == 7860


def test_account_splits_at_the_first_colon() -> None:
    assert Settings(auth=("anna:se:cret",)).accounts == {"anna": "se:cret"}


BAD_VALUES = [
    ("quantization", "16bit", "8bit"),
    ("device", "gpu", "cuda"),
    ("server_port", "65536", "65535"),
    ("server_port", "http", "http"),
    ("server_port", "-1", "server_port"),
    ("server_port", "", "server_port"),
    ("server_port", "7860.0", "7860.0"),
    ("server_port", "²", "not a port"),  # isdigit() says yes to it, int() says no
    ("max_sequences", "0", "above 0"),
    ("max_sequences", "-4", "max_sequences"),
    ("max_sequences", "many", "many"),
    ("max_sequences", "²", "whole number"),
    ("context_length", "0", "above 0"),
    ("context_length", "15", "16"),
    ("context_length", "2k", "2k"),
    ("auth", "anna", "user:password"),
    ("auth", ":secret", "user:password"),
    ("auth", "anna:", "user:password"),
    ("api_key", "sk key\x00", "ASCII"),
    ("admin_key", "two words", "spaces"),
    ("allow_origin", "*", "origin"),
    ("allow_origin", "chat.example.com", "origin"),
    ("allow_origin", "https://chat.example.com/page", "origin"),
    ("engine_url", "gpu-box:8000", "http://"),
    ("engine_url", "ftp://gpu-box", "http://"),
    ("engine_url", "http://", "http://"),
    ("engine_url", "http://gpu-box:port/v1", "http://"),
    ("engine_url", "http://gpu-box/v1?x=1", "http://"),
    ("engine_url", "http://user:pw@gpu-box/v1", "--engine_key"),
    ("allowed_hosts", "chat.example.com:8443", "without scheme and port"),
    ("allowed_hosts", "https://chat.example.com", "host name"),
    ("allowed_hosts", "[::1]", "host name"),
    ("allowed_hosts", "two words", "host name"),
    ("allowed_hosts", "a..example", "host name"),
    ("allowed_hosts", "-a.example", "host name"),
    ("allowed_hosts", "*.", "host name"),
    ("allowed_hosts", "chat.*.example", "host name"),
    ("allowed_hosts", "a" * 64 + ".example", "host name"),
    ("allowed_hosts", ".".join(["abcdefg"] * 33), "host name"),
    ("allowed_hosts", " , ", "no host is named"),
    ("log_format", "xml", "json"),
    ("adapters_dir", "/nowhere/adapters", "/nowhere/adapters"),
    ("prompts_dir", "/nowhere/prompts", "/nowhere/prompts"),
]
# An empty address would listen on every one, an empty key let everybody in.
NEVER_EMPTY = ["allowed_hosts", "server_name", "api_key", "admin_key", "engine_key", "base_model"]


@pytest.mark.parametrize(("name", "text", "named"), BAD_VALUES)
def test_bad_value_error_names_the_flag(name: str, text: str, named: str) -> None:
    sentence = error_text([f"--{name}={text}"])
    assert f"--{name}" in sentence
    assert named in sentence


@pytest.mark.parametrize(("name", "text", "named"), BAD_VALUES)
def test_bad_value_in_the_environment_is_refused(name: str, text: str, named: str) -> None:
    sentence = error_text([], {f"LINLY_{name.upper()}": text})
    assert named in sentence
    assert name in sentence.lower()


@pytest.mark.parametrize("name", NEVER_EMPTY)
def test_empty_value_is_refused(name: str) -> None:
    assert name in error_text([f"--{name}="])


@pytest.mark.parametrize("name", NEVER_EMPTY)
def test_empty_variable_is_refused_or_counts_as_not_set(name: str) -> None:
    try:
        value = getattr(read_settings([], {f"LINLY_{name.upper()}": ""}), name)
    except SettingsError:
        return
    assert value == getattr(read_settings([], {}), name)


@pytest.mark.parametrize("name", ["quantization", "device", "server_port", "auth"])
def test_bad_variable_error_names_the_variable(name: str) -> None:
    assert f"LINLY_{name.upper()}" in error_text([], {f"LINLY_{name.upper()}": "nonsense"})


@pytest.mark.parametrize("name", ["LINLY_SHARE", "LINLY_SHARE_PUBLIC"])
def test_bad_switch_in_the_environment_is_refused(name: str) -> None:
    sentence = error_text([], {name: "maybe"})
    assert name in sentence
    assert "maybe" in sentence


def test_flag_without_its_value_is_refused() -> None:
    assert "--server_port" in error_text(["--server_port"])
    assert "--auth" in error_text(["--auth", "--share"])


def test_switch_with_a_value_is_refused() -> None:
    assert "--share" in error_text(["--share=yes"])


@pytest.mark.parametrize(
    ("argv", "suggestion"),
    [
        (["--server_prot", "1"], "--server_port"),
        (["--server-prot=1"], "--server_port"),
        (["--quantisation", "8bit"], "--quantization"),
        (["--base_modle", "x"], "--base_model"),
        (["--server_por", "1"], "--server_port"),  # beginnings are not taken for the flag
    ],
)
def test_misspelt_flag_error_suggests_a_flag(argv: list[str], suggestion: str) -> None:
    sentence = error_text(argv)
    assert f"Did you mean {suggestion}?" in sentence


@pytest.mark.parametrize("argv", [["--zzzzzz"], ["leftover"], ["--share", "leftover"], ["-q"]])
def test_unknown_word_error_names_the_word(argv: list[str]) -> None:
    assert argv[-1] in error_text(argv)


@pytest.mark.parametrize(
    "argv",
    [
        ["--aut=anna:s3cret"],  # misspelt
        ["--adminkey=s3cret"],
        ["--auth", "anna:my", "s3cret"],  # without quotes
        ["--api_key=a", "-s3cret", "--share"],
        ["--admin-key", "two", "s3cret", "--share", "s3cret"],
        ["--engine_url", "http://user:s3cret@host:port/v1?x=1"],
        ["--auth_file", "nowhere", "--auth", "s3cret"],
        ["--admin_key", "my s3cret"],
        ["--admin_key", "--s3cret"],
    ],
)
def test_error_repeats_no_secret(argv: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(argv, {})
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_repr_shows_no_secret() -> None:
    argv = ["--auth", "anna:s3cret", "--api_key", "s3cret", "--admin_key", "s3cret"]
    argv += ["--engine_key", "s3cret", "--database_url", "postgresql://u:s3cret@host/chats"]
    settings = read_settings(argv, {})
    assert settings.engine_key == "s3cret"
    assert "s3cret" not in repr(settings)


def test_allowed_hosts_can_be_repeated() -> None:
    twice = read_settings(["--allowed_hosts", "a.example,b.example", "--allowed-hosts=c"], {})
    assert twice.allowed_hosts == ("a.example", "b.example", "c")
    environ = {"LINLY_ALLOWED_HOSTS": "a.example,b.example\nA.example"}
    assert read_settings([], environ).allowed_hosts == ("a.example", "b.example")
    assert read_settings([], {}).allowed_hosts == ()


@pytest.mark.parametrize(
    "argv",
    [["--share", "--share_public"], ["--share_public", "--auth", "a:b"]],
)
def test_contradicting_flags_are_refused(argv: list[str]) -> None:
    error_text(argv)


def test_flag_that_contradicts_the_environment_is_refused() -> None:
    error_text(["--share"], {"LINLY_SHARE_PUBLIC": "1"})


def test_missing_default_folders_are_no_error(tmp_path: Path) -> None:
    assert not read_settings([], {}, tmp_path).adapters_dir.exists()


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read_settings(["--help"], {})
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert all(
        f"--{field.name} " in said or f"--{field.name}]" in said for field in fields(Settings)
    )
    assert "LINLY_SERVER_PORT" in said


def test_open_linly_in_the_checkout_is_the_default_base(tmp_path: Path) -> None:
    (tmp_path / "models" / "Open-Linly-13b").mkdir(parents=True)
    assert default_base_model(tmp_path) == str(tmp_path / "models" / "Open-Linly-13b")
    (tmp_path / "Open-Linly-13b").mkdir()
    assert read_settings([], {}, tmp_path).base_model == str(tmp_path / "Open-Linly-13b")


def test_file_named_open_linly_is_not_the_default_base(tmp_path: Path) -> None:
    (tmp_path / "Open-Linly-13b").write_text("not a folder")
    assert default_base_model(tmp_path) == EMBEDDED_DEFAULT


def test_defaults_do_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another working directory the program served without its adapters, without an error."""
    monkeypatch.chdir(tmp_path)
    settings = read_settings([], {})
    assert (settings.adapters_dir / "lighthouse").is_dir()
    assert (settings.prompts_dir / "linly.toml").is_file()


def test_base_model_flag_wins_over_open_linly(tmp_path: Path) -> None:
    (tmp_path / "Open-Linly-13b").mkdir()
    assert read_settings(["--base_model", "other"], {}, tmp_path).base_model == "other"
