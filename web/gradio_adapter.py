"""The parts of Gradio that are not its public interface, all in this module.

Written for Gradio 6.31; check each of them when Gradio is upgraded.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
from fastapi import FastAPI
from gradio import networking, tunneling
from starlette.routing import BaseRoute, Mount

from model.cleanup import ChildProcess

UPDATE = {"__type__": "update"}  # marks the dict that `gr.update` returns


def update_properties(value: Any) -> dict[str, Any]:
    """Returns the properties that an update sets; a plain value sets `value`.

    The page sends updates itself, so it must know how Gradio marks them.
    """
    if isinstance(value, dict) and UPDATE.items() <= value.items():
        return {name: each for name, each in value.items() if name not in UPDATE}
    return {"value": value}


def keep_routes(app: FastAPI, paths: Collection[str]) -> None:
    """Removes all routes of the mounted Gradio app, except for reading these paths.

    Gradio has no option for this. Its other routes call functions, and upload and serve files.
    """
    for mount in app.routes:
        if isinstance(mount, Mount) and isinstance(mount.app, gr.routes.App):
            mount.app.router.routes[:] = [
                route for route in mount.app.routes if _is_kept(route, paths)
            ]


def _is_kept(route: BaseRoute, paths: Collection[str]) -> bool:
    methods = getattr(route, "methods", None) or set()
    return getattr(route, "path", None) in paths and methods <= {"GET", "HEAD"}


class ShareTunnel(tunneling.Tunnel):
    """Gradio's tunnel, with other environment variables for its client, and a silent failure.

    Gradio's own passes every variable of this program, among them tokens, to the downloaded client,
    and prints the client's log on stderr, where this program's threads log.
    """

    def __init__(self, port: int, token: str, environment: Mapping[str, str]) -> None:
        host, server_port, certificate = _share_server()
        super().__init__(host, server_port, "127.0.0.1", port, token, certificate)
        self._environment = environment

    def _start_tunnel(self, binary: str) -> str:
        tunneling.CURRENT_TUNNELS.append(self)
        process = ChildProcess(
            self._command(binary), env=self._environment, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        self.proc = process  # type: ignore[assignment]  # Gradio declares it by its first value, None
        return _read_address(process)

    def _command(self, binary: str) -> list[str]:
        server = f"{self.remote_host}:{self.remote_port}"
        command = [
            binary, "http", "-n", self.share_token, "-l", str(self.local_port),
            "-i", self.local_host, "--uc", "--sd", "random", "--ue", "--server_addr", server,
            "--disable_log_color",
        ]  # fmt: skip
        if self.share_server_tls_certificate is None:
            return command
        certificate = self.share_server_tls_certificate
        return [*command, "--tls_enable", "--tls_trusted_ca_file", certificate]


def _read_address(process: ChildProcess) -> str:
    """Reads the tunnel client's log up to the tunnel's address.

    Raises:
        ValueError: with the log, if the client is refused, ends, or reports no address in time.
    """
    deadline = time.monotonic() + tunneling.TUNNEL_TIMEOUT_SECONDS
    log: list[str] = []
    while process.stdout is not None and time.monotonic() < deadline:
        line = process.stdout.readline().decode("utf-8")
        log += filter(None, [line.strip()])
        if address := re.search("start proxy success: (.+)\n", line):
            return address[1]
        ended = not line and process.poll() is not None
        if ended or "start proxy success" in line or "login to server failed" in line:
            break
    raise ValueError("\n".join([tunneling.TUNNEL_ERROR_MESSAGE, *log]))


def _share_server() -> tuple[str, int, str | None]:
    """Returns host, port and certificate file of the share server, as `setup_tunnel` finds them.

    Raises:
        RuntimeError: Gradio's list of servers cannot be read; the cause says why.
    """
    if networking.GRADIO_SHARE_SERVER_ADDRESS is not None:
        host, _, port = networking.GRADIO_SHARE_SERVER_ADDRESS.partition(":")
        return host, int(port), None
    try:
        server = httpx.get(networking.GRADIO_API_SERVER, timeout=30).json()[0]
        address, certificate = (server["host"], int(server["port"])), server["root_ca"]
    except Exception as error:
        raise RuntimeError("Gradio's share server cannot be found") from error
    path = Path(tunneling.CERTIFICATE_PATH)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(certificate)
    return *address, str(path)
