"""Binds the listening socket; app.py does so before slow imports, so this module has none."""

from __future__ import annotations

import errno
import socket

from model.errors import LinlyError


class AddressError(LinlyError):
    """The address cannot be bound."""

    code = "address"


def bind(host: str, port: int) -> socket.socket:
    """Binds and listens; from then on, connections wait in the socket's queue.

    Raises:
        AddressError: the port is in use, or the address is not one of this machine.
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
        reason = error.strerror or error
        raise AddressError("address_unusable", host=host, port=port, reason=reason) from error
    return sock
