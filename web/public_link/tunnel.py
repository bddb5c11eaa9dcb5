"""The temporary public link, through Gradio's tunnel.

Three things can go wrong far from here: the tunnel client's download, the address of a share
server, and the tunnel itself. Each is named; the local page goes on in any case.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from model.errors import ShareError

# What the tunnel client gets of this program's environment: it is another party's program, which is
# downloaded, so no tokens and keys.
PASSED_ON = {
    "PATH", "HOME", "USERPROFILE", "SYSTEMROOT", "TMPDIR", "TEMP", "TMP", "LANG", "SSL_CERT_FILE",
    "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
}  # fmt: skip


def open_tunnel(port: int) -> str:
    """Open a tunnel to `port` on this machine; its public address. Takes up to a minute.

    Raises:
        ShareError: with the step that failed.
    """
    from web.gradio_adapter import ShareTunnel

    _download_client()
    try:
        tunnel = ShareTunnel(port, secrets.token_urlsafe(32), client_environment(os.environ))
        address = tunnel.start_tunnel()
    except RuntimeError as error:
        raise ShareError(
            "share_server_unreachable",
            error=_because(error),
        ) from error
    except Exception as error:  # whatever the client, its log and its certificate come up with
        raise ShareError(
            "tunnel_refused",
            error=_because(error),
        ) from error
    return str(address)


def client_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a tunnel client needs."""
    return {name: value for name, value in environ.items() if name.upper() in PASSED_ON}


def _download_client() -> None:
    from gradio.tunneling import BINARY_PATH, Tunnel

    try:
        Tunnel.download_binary()
    except Exception as error:  # the HTTP library's, the disk's or Gradio's own
        # A file that failed its checksum would be taken for good the next time.
        Path(BINARY_PATH).unlink(missing_ok=True)
        raise ShareError(
            "tunnel_client_not_downloaded",
            error=_because(error),
        ) from error


def _because(error: BaseException) -> str:
    """The last line of what is behind an error, in brackets."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return f" ({lines[-1]})" if lines else ""


def close_tunnels() -> None:
    """End the tunnel clients; for an end that skips Gradio's own clearing up."""
    from gradio.tunneling import CURRENT_TUNNELS

    for tunnel in CURRENT_TUNNELS:
        if tunnel.proc is not None:
            tunnel.proc.terminate()
