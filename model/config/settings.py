"""One frozen Settings, and the only reader of flags and environment.

Every flag `--some_name` can be written `--some-name` and can come from the environment as
`LINLY_SOME_NAME`, or from the file that `LINLY_SOME_NAME_FILE` names; a flag wins over the
environment, the environment over the default.
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
SWITCHES = {"share", "share_public", "api_without_key", "log_requests", "log_prompts"}
REPEATED = {"auth", "api_key", "allow_origin", "allowed_hosts"}  # in the environment one a line
FALSE_WORDS = {"", "0", "false", "no", "off"}


def _secret(default: Any) -> Any:
    """A field that no log or message gets to see."""
    return field(default=default, repr=False)


@dataclass(frozen=True)
class Settings:
    """What the program was told. Sizes are in tokens, `server_port` 0 means any free port."""

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
    auth: tuple[str, ...] = _secret(())  # those of `auth_file` among them
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
    database_url: str | None = _secret(None)  # it may have a password in it
    device: str = "auto"
    training: str = "local"
    cache_dir: Path = Path()

    @property
    def accounts(self) -> dict[str, str]:
        """The passwords of `--auth` by user, or their hashes."""
        parts = (account.partition(":") for account in self.auth)
        return {user: password for user, _, password in parts}


FIELDS = tuple(field.name for field in fields(Settings))


def read_settings(
    argv: Sequence[str],
    environ: Mapping[str, str],
    checkout: Path | None = None,
) -> Settings:
    """Read `argv` (without the program's name) over `environ`.

    `checkout` is where `Open-Linly-13b`, `adapters` and `prompts` are looked for by default: the
    project's own folder, wherever the program is started.

    Raises:
        SettingsError: a flag or a value is wrong, in one sentence.
    """
    parser = build_parser()
    read = vars(parser.read(argv)).items()
    given = {key: value for key, value in read if value is not None}
    from_environment = _read_environment(environ, parser)
    merged = {**_defaults(checkout or CHECKOUT), **from_environment, **given}
    settings = Settings(**{
        **merged, "auth": _accounts(merged), "api_key": _api_keys(merged),
        "allow_origin": tuple(merged.get("allow_origin", ())),
        "allowed_hosts": tuple(dict.fromkeys(merged.get("allowed_hosts", ()))),
    })  # fmt: skip
    _check(settings, explicit={*from_environment, *given})
    return settings


def secret_files(settings: Settings, environ: Mapping[str, str]) -> dict[str, Path]:
    """The files that secrets were read from, by the flag or variable that names them."""
    named = {"--auth_file": settings.auth_file, "--api_key_file": settings.api_key_file}
    files = {flag: file for flag, file in named.items() if file is not None}
    for name in SECRET_FLAGS:
        variable = f"{_variable(name)}_FILE"
        if variable in environ and f"{name}_file" not in FIELDS:
            files[variable] = Path(environ[variable])
    return files


def _accounts(merged: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that were passed, and those of the file."""
    accounts = tuple(merged.get("auth", ()))
    file: Path | None = merged.get("auth_file")
    if file is not None:
        users = [account.partition(":")[0] for account in accounts]
        accounts += read_accounts("--auth_file", file, users)
    return accounts


def _api_keys(merged: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that were passed, and those of the file."""
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
    """Open-Linly-13b where somebody put it, else the embedded default."""
    for folder in (checkout / "Open-Linly-13b", checkout / "models" / "Open-Linly-13b"):
        if folder.is_dir():
            return str(folder)
    return EMBEDDED_DEFAULT


def _variable(name: str) -> str:
    return f"LINLY_{name.upper()}"


def _read_environment(environ: Mapping[str, str], parser: ArgumentParser) -> dict[str, Any]:
    """Each `LINLY_<FLAG>`, or what is in the file of `LINLY_<FLAG>_FILE`, parsed as its flag would
    be."""
    found: dict[str, Any] = {}
    for name in FIELDS:
        variable, file_variable = _variable(name), f"{_variable(name)}_FILE"
        if variable in environ and file_variable in environ:
            raise SettingsError(
                "variable_set_twice", variable=variable, file_variable=file_variable
            )
        if variable in environ:
            found[name] = _parse(name, variable, environ[variable], parser)
        elif file_variable in environ and f"{name}_file" not in FIELDS:
            text = read_value(file_variable, environ[file_variable])
            found[name] = _parse_file(name, file_variable, text, parser)
    return found


def _parse_file(name: str, variable: str, text: str, parser: ArgumentParser) -> Any:
    try:
        return _parse(name, variable, text, parser)
    except SettingsError:
        if name in SECRET_FLAGS:
            raise  # what is said of these repeats nothing
        # The variable may name the wrong file, one with a secret.
        raise SettingsError("secret_file_without_value", variable=variable, name=name) from None


def _parse(name: str, variable: str, text: str, parser: ArgumentParser) -> Any:
    if name in SWITCHES:
        return _truth(variable, text)
    # Several accounts stand in lines of their own: anything else may be in a password.
    values = text.split("\n") if name in REPEATED else [text]
    try:
        return getattr(parser.parse_args([f"--{name}={value}" for value in values]), name)
    except SettingsError as error:
        raise SettingsError("variable_wrong", variable=variable, problem=error) from error


def _truth(variable: str, text: str) -> bool:
    if text.lower() in TRUE_WORDS:
        return True
    if text.lower() in FALSE_WORDS:
        return False
    raise SettingsError("switch_value", variable=variable, text=text)


def _check(settings: Settings, explicit: set[str]) -> None:
    """What no single flag can tell."""
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
