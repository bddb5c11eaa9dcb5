"""Opens the temporary public link through Gradio's tunnel.

Three steps depend on other servers: the download of the tunnel client, the request for a share
server's address, and the tunnel itself. Errors name the step; the local page works in any case.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from model.errors import ShareError

# The environment variables that the tunnel client gets. It is a downloaded third-party program, so
# it gets no tokens or keys.
ALLOWED_VARIABLES = {
    "PATH", "HOME", "USERPROFILE", "SYSTEMROOT", "TMPDIR", "TEMP", "TMP", "LANG", "SSL_CERT_FILE",
    "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
}  # fmt: skip


def open_tunnel(port: int) -> str:
    """Opens a tunnel to `port` on this machine, and returns its public address. Takes up to a
    minute.

    Raises:
        ShareError: a step failed.
    """
    from web.gradio_adapter import ShareTunnel

    _download_client()
    try:
        tunnel = ShareTunnel(port, secrets.token_urlsafe(32), client_environment(os.environ))
        address = tunnel.start_tunnel()
    except RuntimeError as error:
        raise ShareError("share_server_unreachable", error=_reason(error)) from error
    except Exception as error:  # the client, its log and its certificate can raise any error
        raise ShareError("tunnel_refused", error=_reason(error)) from error
    return str(address)


def client_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that a tunnel client needs."""
    return {name: value for name, value in environ.items() if name.upper() in ALLOWED_VARIABLES}


def _download_client() -> None:
    from gradio.tunneling import BINARY_PATH, Tunnel

    try:
        Tunnel.download_binary()
    except Exception as error:  # from the HTTP library, the disk or Gradio
        # Gradio would use a file that failed its checksum at the next start.
        Path(BINARY_PATH).unlink(missing_ok=True)
        raise ShareError("tunnel_client_not_downloaded", error=_reason(error)) from error


def _reason(error: BaseException) -> str:
    """Returns the last line of an error's cause, in brackets."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return f" ({lines[-1]})" if lines else ""


def close_tunnels() -> None:
    """Ends the tunnel clients, for a shutdown that skips Gradio's own clean-up."""
    from gradio.tunneling import CURRENT_TUNNELS

    for tunnel in CURRENT_TUNNELS:
        if tunnel.proc is not None:
            tunnel.proc.terminate()
