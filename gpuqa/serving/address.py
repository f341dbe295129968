"""The address that a server listens on, and whether there is a network beyond it."""

from __future__ import annotations

import errno
import socket

from gpuqa.config import UserError
from gpuqa.config.http import HttpConfig

NOWHERE = ("192.0.2.1", 9)  # RFC 5737: an address for documentation; a UDP connect sends nothing


def check_port(http: HttpConfig) -> None:
    """Refuse an address that this process cannot listen on, before it spends minutes on starting an engine.

    Raises:
        UserError: names the address and the reason.
    """
    family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
            probe.bind((http.host, http.port))
            probe.listen()  # two may be bound to a port, and only one may listen
    except OSError as error:
        wrong_host = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        allowed = "http.host: choose an address of this machine" if wrong_host else "http.port: choose another port"
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{allowed}; {http.host}:{http.port} cannot be listened on: {reason}") from error


def has_route() -> bool:
    """Whether the kernel knows a way out of this machine. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(NOWHERE)
        except OSError:
            return False
    return True
