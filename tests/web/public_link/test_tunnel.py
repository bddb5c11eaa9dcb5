"""The public link, with a fake tunnel client and fake servers of Gradio."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio import networking, tunneling

from model.config.settings import Settings
from model.errors import ShareError
from model.translations import verbatim
from tests.fake_engine import FakeEngine, echo, fake_manager
from web import access, console
from web.public_link import tunnel
from web.public_link.limits import LinkRules, PublicLink

CLIENT = """#!{python}
import sys, time
print({line!r}, flush=True)
time.sleep(60)
"""
WORKING = "2026/01/01 [I] start proxy success: https://abc.example"
REFUSING = "2026/01/01 [E] login to server failed: too many tunnels"


class ShareServer:
    """A response of Gradio's API, which returns the address of a share server."""

    def json(self) -> list[dict[str, str]]:
        return [{"host": "127.0.0.1", "port": "9", "root_ca": "certificate"}]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # Gradio writes its certificate into the current folder


def use_client(monkeypatch: pytest.MonkeyPatch, path: Path, line: str) -> None:
    """Installs a tunnel client that prints `line`, as if it had been downloaded before."""
    path.write_text(CLIENT.format(python=sys.executable, line=line))
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setattr(tunneling, "BINARY_PATH", str(path))


def use_server(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    def get(url: str, **_: object) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(networking.httpx, "get", get)


@pytest.fixture(autouse=True)
def no_tunnel_stays_open() -> Any:
    yield
    for process in tunneling.CURRENT_TUNNELS:
        if process.proc:
            process.proc.kill()
            process.proc.communicate()
            process.proc = None
    tunneling.CURRENT_TUNNELS.clear()


def test_open_tunnel_returns_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_client(monkeypatch, tmp_path / "frpc", WORKING)
    use_server(monkeypatch, ShareServer())
    assert tunnel.open_tunnel(7860) == "https://abc.example"


def test_a_failed_download_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunneling, "BINARY_PATH", str(tmp_path / "absent"))
    monkeypatch.setattr(tunneling, "BINARY_FOLDER", tmp_path)
    use_server(monkeypatch, httpx.ConnectError("no route to host"))
    with pytest.raises(ShareError, match=r"tunnel client .* downloaded \(no route to host\)"):
        tunnel.open_tunnel(7860)


def test_a_damaged_download_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio checks the sum only after writing, so the next start would run the damaged file."""
    monkeypatch.setattr(tunneling, "BINARY_PATH", str(tmp_path / "frpc"))
    monkeypatch.setattr(tunneling, "BINARY_FOLDER", tmp_path)
    monkeypatch.setattr(tunneling, "BINARY_URL", next(iter(tunneling.CHECKSUMS)))
    use_server(monkeypatch, httpx.Response(200, content=b"junk", request=httpx.Request("GET", "h")))
    with pytest.raises(ShareError, match="tunnel client"):
        tunnel.open_tunnel(7860)
    assert not (tmp_path / "frpc").exists()


def test_a_failed_request_for_an_address_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_client(monkeypatch, tmp_path / "frpc", WORKING)
    use_server(monkeypatch, httpx.ConnectError("name not known"))
    with pytest.raises(ShareError, match=r"address of the share server .* \(name not known\)"):
        tunnel.open_tunnel(7860)


def test_a_refused_tunnel_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_client(monkeypatch, tmp_path / "frpc", REFUSING)
    use_server(monkeypatch, ShareServer())
    with pytest.raises(ShareError, match=r"tunnel was refused \(.*too many tunnels\)"):
        tunnel.open_tunnel(7860)


@pytest.mark.parametrize("settings", [Settings(share=True), Settings(share_public=True)])
def test_open_link_prints_address_and_passphrase(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "open_tunnel", lambda port: f"https://abc.example:{port}")
    rules = access.access_policy(settings)
    link = PublicLink(LinkRules(), lambda: None)
    console.open_link(settings, rules, 7860, link)
    assert link.address == "https://abc.example:7860"
    output = capsys.readouterr().out
    assert "https://abc.example:7860" in output
    assert ("Passphrase:" in output) == settings.share
    assert ("sets no passphrase" in output) == settings.share_public
    assert rules.passphrase is None or rules.passphrase in output


def test_open_link_prints_an_error_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(port: int) -> str:
        raise ShareError(verbatim("No public link: it rained", "The local page still works."))

    monkeypatch.setattr(console, "open_tunnel", fail)
    link = PublicLink(LinkRules(), lambda: None)
    console.open_link(Settings(share=True), access.AccessPolicy(), 7860, link)
    assert str(link.problem).startswith("No public link: it rained")
    _, line = capsys.readouterr().out.splitlines()
    assert line == "No public link: it rained. The local page still works."


# --share_adapters; the fake manager has pirate, linly and torn


def sharing(*adapters: str) -> PublicLink:
    return PublicLink(LinkRules(adapters=adapters or None), lambda: None)


def warnings_of_link(
    link: PublicLink | None, capsys: pytest.CaptureFixture[str], **options: Any
) -> str:
    """Returns what is printed about `--share_adapters` once the model is ready or has failed."""
    console.report_loading(fake_manager(FakeEngine(echo), **options), link)
    lines = capsys.readouterr().out.splitlines()
    return "\n".join(line for line in lines if line.startswith("--share_adapters"))


def test_unknown_names_in_share_adapters_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    link = sharing("pirat", "pirate", "bsae", "base", "zzz", "torn")
    assert warnings_of_link(link, capsys).splitlines() == [
        "--share_adapters: there is no adapter pirat. Did you mean pirate?",
        "--share_adapters: there is no adapter bsae. Did you mean base?",
        "--share_adapters: there is no adapter zzz. Choose one of: base, pirate, linly, torn.",
    ]


def test_valid_names_in_share_adapters_are_not_reported(capsys: pytest.CaptureFixture[str]) -> None:
    for link in (None, sharing(), sharing("base"), sharing("linly", "pirate")):
        assert warnings_of_link(link, capsys) == ""
    # Without a model the adapters are not known.
    assert warnings_of_link(sharing("pirat"), capsys, fail=OSError("the disk is gone")) == ""


@pytest.mark.parametrize(
    ("adapters", "first"),
    [
        ((), None),
        (("pirat", "base"), None),
        (("pirat", "linly", "pirate"), "linly"),
        (("pirat", "lin"), "pirat"),
    ],
)
def test_default_adapter_is_one_that_exists(adapters: tuple[str, ...], first: str | None) -> None:
    assert sharing(*adapters).default_adapter({"pirate", "linly"}.__contains__) == first
