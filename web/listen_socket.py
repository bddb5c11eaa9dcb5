"""The port, taken before anything slow is imported."""

from __future__ import annotations

import errno
import socket

from model.errors import LinlyError


class AddressError(LinlyError):
    """The port cannot be had."""

    code = "address"


def bind(host: str, port: int) -> socket.socket:
    """Take the port; from here on, early visitors wait in its queue.

    Raises:
        AddressError: it is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressError("port_in_use", port=port) from error
        raise AddressError(
            "address_unusable",
            host=host,
            port=port,
            reason=error.strerror or error,
        ) from error
    return sock
