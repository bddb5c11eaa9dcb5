"""The settings of `app.py`, read from flags and environment variables; no other module reads these.

The flag `--some_name` can be written `--some-name`. Its value can also come from the environment as
`LINLY_SOME_NAME`, or from the file that `LINLY_SOME_NAME_FILE` names. A flag overrides the
environment, and the environment overrides the default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path, user_data_path

from model.config.argument_parser import ArgumentParser
from model.config.secret_files import read_accounts, read_keys, read_value
from model.config.server_flags import EMBEDDED_DEFAULT, SECRET_FLAGS, build_parser
from model.errors import SettingsError

APP_NAME = "linly-chat"
CHECKOUT = Path(__file__).parents[2]
TRUE_WORDS = {"1", "true", "yes", "on"}
FALSE_WORDS = {"", "0", "false", "no", "off"}


def _secret(default: Any) -> Any:
    """A field that never appears in logs or messages."""
    return field(default=default, repr=False)


@dataclass(frozen=True)
class Settings:
    """The settings of a run. Lengths are in tokens; `server_port` 0 means any free port."""

    base_model: str = EMBEDDED_DEFAULT
    adapters_dir: Path = Path("adapters")
    prompts_dir: Path = Path("prompts")
    quantization: str = "8bit"
    server_name: str = "127.0.0.1"
    server_port: int = 7860
    share: bool = False
    share_public: bool = False
    share_hours: float | None = 72.0
    share_messages: int | None = None
    share_adapters: tuple[str, ...] | None = None
    auth: tuple[str, ...] = _secret(())  # includes those of `auth_file`
    auth_file: Path | None = None
    api_key: tuple[str, ...] = _secret(())
    api_key_file: Path | None = None
    api_without_key: bool = False
    allow_origin: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()  # "*.example.com" for subdomains, "*" for any
    admin_key: str | None = _secret(None)
    engine_url: str | None = None
    engine_key: str | None = _secret(None)
    log_format: str = "text"
    log_requests: bool = False
    log_prompts: bool = False
    max_sequences: int = 16
    max_waiting: int = 256
    context_length: int | None = None
    threads: int | None = None
    cache_memory: int | None = None  # bytes
    data_dir: Path = Path()
    database_url: str | None = _secret(None)  # it may contain a password
    device: str = "auto"
    training: str = "local"
    cache_dir: Path = Path()

    @property
    def accounts(self) -> dict[str, str]:
        """The passwords of all accounts, or their hashes, by user."""
        parts = (account.partition(":") for account in self.auth)
        return {user: password for user, _, password in parts}


FIELDS = tuple(field.name for field in fields(Settings))


def read_settings(
    argv: Sequence[str],
    environ: Mapping[str, str],
    checkout: Path | None = None,
) -> Settings:
    """Reads the settings.

    Args:
        argv: the flags, without the program's name.
        environ: the environment variables.
        checkout: the folder with the default `Open-Linly-13b`, `adapters` and `prompts`. By default
            it is the project's folder, not the working directory.

    Raises:
        SettingsError: a flag or a value is wrong.
    """
    parser = build_parser()
    flags = {key: value for key, value in vars(parser.read(argv)).items() if value is not None}
    variables = _read_environment(environ, parser)
    merged = {**_defaults(checkout or CHECKOUT), **variables, **flags}
    settings = Settings(**{
        **merged, "auth": _accounts(merged), "api_key": _api_keys(merged),
        "allow_origin": tuple(merged.get("allow_origin", ())),
        "allowed_hosts": tuple(dict.fromkeys(merged.get("allowed_hosts", ()))),
    })  # fmt: skip
    _check(settings, explicit={*variables, *flags})
    return settings


def secret_files(settings: Settings, environ: Mapping[str, str]) -> dict[str, Path]:
    """Returns the files that secrets were read from, by the flag or variable that names them."""
    by_flag = {"--auth_file": settings.auth_file, "--api_key_file": settings.api_key_file}
    files = {flag: file for flag, file in by_flag.items() if file is not None}
    for name in SECRET_FLAGS:
        variable = f"{_variable(name)}_FILE"
        if variable in environ and f"{name}_file" not in FIELDS:
            files[variable] = Path(environ[variable])
    return files


def _accounts(merged: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the accounts of `--auth` and of the `--auth_file`."""
    accounts = tuple(merged.get("auth", ()))
    file: Path | None = merged.get("auth_file")
    if file is not None:
        users = [account.partition(":")[0] for account in accounts]
        accounts += read_accounts("--auth_file", file, users)
    return accounts


def _api_keys(merged: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the keys of `--api_key` and of the `--api_key_file`."""
    keys = [key for text in merged.get("api_key", ()) for key in text.split()]
    file: Path | None = merged.get("api_key_file")
    if file is not None:
        keys += read_keys("--api_key_file", file)
    return tuple(dict.fromkeys(keys))


def _defaults(checkout: Path) -> dict[str, Any]:
    return {
        "base_model": default_base_model(checkout),
        "adapters_dir": checkout / "adapters",
        "prompts_dir": checkout / "prompts",
        "cache_dir": user_cache_path(APP_NAME),
        "data_dir": user_data_path(APP_NAME),
    }


def default_base_model(checkout: Path) -> str:
    """Returns the folder Open-Linly-13b if the user has it, else the embedded default."""
    for folder in (checkout / "Open-Linly-13b", checkout / "models" / "Open-Linly-13b"):
        if folder.is_dir():
            return str(folder)
    return EMBEDDED_DEFAULT


def _variable(name: str) -> str:
    return f"LINLY_{name.upper()}"


def _read_environment(environ: Mapping[str, str], parser: ArgumentParser) -> dict[str, Any]:
    """Reads each `LINLY_<FLAG>`, or the file that `LINLY_<FLAG>_FILE` names; parses the value like
    that of the flag."""
    values: dict[str, Any] = {}
    for name in FIELDS:
        variable, file_variable = _variable(name), f"{_variable(name)}_FILE"
        if variable in environ and file_variable in environ:
            raise SettingsError(
                "variable_set_twice", variable=variable, file_variable=file_variable
            )
        if variable in environ:
            values[name] = _parse(name, variable, environ[variable], parser)
        elif file_variable in environ and f"{name}_file" not in FIELDS:
            text = read_value(file_variable, environ[file_variable])
            values[name] = _parse_file(name, file_variable, text, parser)
    return values


def _parse_file(name: str, variable: str, text: str, parser: ArgumentParser) -> Any:
    try:
        return _parse(name, variable, text, parser)
    except SettingsError:
        if name in SECRET_FLAGS:
            raise  # the messages for secrets do not repeat the value
        # Without the value: the variable may name the wrong file, one with a secret.
        raise SettingsError("secret_file_without_value", variable=variable, name=name) from None


def _parse(name: str, variable: str, text: str, parser: ArgumentParser) -> Any:
    if name in parser.switches:
        return _parse_switch(variable, text)
    # One value a line: any other separator may be part of a password.
    values = text.split("\n") if name in parser.repeated else [text]
    try:
        return getattr(parser.parse_args([f"--{name}={value}" for value in values]), name)
    except SettingsError as error:
        raise SettingsError("variable_wrong", variable=variable, problem=error) from error


def _parse_switch(variable: str, text: str) -> bool:
    if text.lower() in TRUE_WORDS:
        return True
    if text.lower() in FALSE_WORDS:
        return False
    raise SettingsError("switch_value", variable=variable, text=text)


def _check(settings: Settings, explicit: set[str]) -> None:
    """Checks that the values of several flags fit together, and that folders exist."""
    if settings.share and settings.share_public:
        raise SettingsError("share_flags_exclude")
    if settings.share_public and settings.auth:
        raise SettingsError("share_public_with_auth")
    for name in ("adapters_dir", "prompts_dir"):
        folder: Path = getattr(settings, name)
        if name in explicit and not folder.is_dir():
            raise SettingsError("flag_folder_missing", name=name, folder=folder)
    if settings.context_length is not None and settings.context_length < 16:
        raise SettingsError("context_length_too_short")
