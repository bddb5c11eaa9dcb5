"""The public link, with a stand-in for the tunnel client and for Gradio's servers."""

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
from tests.fake import FakeEngine, echo, fake_manager
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
    """Answers like the server that hands out addresses."""

    def json(self) -> list[dict[str, str]]:
        return [{"host": "127.0.0.1", "port": "9", "root_ca": "certificate"}]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # Gradio writes its certificate into the current folder


def use_client(monkeypatch: pytest.MonkeyPatch, path: Path, line: str) -> None:
    """A tunnel client that says `line`, as if it had been downloaded before."""
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


def test_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_client(monkeypatch, tmp_path / "frpc", WORKING)
    use_server(monkeypatch, ShareServer())
    assert tunnel.open_tunnel(7860) == "https://abc.example"


def test_a_failed_download_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_no_address_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_client(monkeypatch, tmp_path / "frpc", WORKING)
    use_server(monkeypatch, httpx.ConnectError("name not known"))
    with pytest.raises(ShareError, match=r"address of the share server .* \(name not known\)"):
        tunnel.open_tunnel(7860)


def test_a_refused_tunnel_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_client(monkeypatch, tmp_path / "frpc", REFUSING)
    use_server(monkeypatch, ShareServer())
    with pytest.raises(ShareError, match=r"tunnel was refused \(.*too many tunnels\)"):
        tunnel.open_tunnel(7860)


@pytest.mark.parametrize("settings", [Settings(share=True), Settings(share_public=True)])
def test_what_the_terminal_says(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "open_tunnel", lambda port: f"https://abc.example:{port}")
    rules = access.decide(settings)
    link = PublicLink(LinkRules(), lambda: None)
    console.share_link(settings, rules, 7860, link)
    assert link.address == "https://abc.example:7860"
    said = capsys.readouterr().out
    assert "https://abc.example:7860" in said
    assert ("Passphrase:" in said) == settings.share
    assert ("asks for no passphrase" in said) == settings.share_public
    assert rules.passphrase is None or rules.passphrase in said


def test_a_failure_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(port: int) -> str:
        raise ShareError(verbatim("No public link: it rained", "The local page still works."))

    monkeypatch.setattr(console, "open_tunnel", fail)
    link = PublicLink(LinkRules(), lambda: None)
    console.share_link(Settings(share=True), access.AccessPolicy(), 7860, link)
    assert str(link.problem).startswith("No public link: it rained")
    _, told = capsys.readouterr().out.splitlines()
    assert told == "No public link: it rained. The local page still works."


# Adapters that the link is for, of which the fake manager has pirate, linly and torn


def sharing(*adapters: str) -> PublicLink:
    return PublicLink(LinkRules(adapters=adapters or None), lambda: None)


def told_of_sharing(link: PublicLink | None, capsys: pytest.CaptureFixture[str], **how: Any) -> str:
    """What is said of `--share_adapters` once the model is ready, or has failed."""
    console.follow_loading(fake_manager(FakeEngine(echo), **how), link)
    said = capsys.readouterr().out.splitlines()
    return "\n".join(line for line in said if line.startswith("--share_adapters"))


def test_names_that_are_not_there_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    link = sharing("pirat", "pirate", "bsae", "base", "zzz", "torn")
    assert told_of_sharing(link, capsys).splitlines() == [
        "--share_adapters: there is no adapter pirat. Did you mean pirate?",
        "--share_adapters: there is no adapter bsae. Did you mean base?",
        "--share_adapters: there is no adapter zzz. Choose one of: base, pirate, linly, torn.",
    ]


def test_nothing_is_told_where_nothing_is_amiss(capsys: pytest.CaptureFixture[str]) -> None:
    for link in (None, sharing(), sharing("base"), sharing("linly", "pirate")):
        assert told_of_sharing(link, capsys) == ""
    # Without a model nobody knows which adapters there are.
    assert told_of_sharing(sharing("pirat"), capsys, fail=OSError("the disk is gone")) == ""


@pytest.mark.parametrize(
    ("adapters", "first"),
    [
        ((), ""),
        (("pirat", "base"), ""),
        (("pirat", "linly", "pirate"), "linly"),
        (("pirat", "lin"), "pirat"),
    ],
)
def test_visitors_begin_with_one_that_is_there(adapters: tuple[str, ...], first: str) -> None:
    assert sharing(*adapters).default_adapter({"pirate", "linly"}.__contains__) == first
