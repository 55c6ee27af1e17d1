"""Fetch a picture from a named public host: no private network, no redirect, no second look-up, limited bytes and time.

Why by hand: a server that fetches addresses for its callers can be made to ask its own network (SSRF). The name is
looked up once, every address must be public, and the connection goes to that address, for TIMEOUT seconds in all.

    fetch("https://example.com/a.png", Limits(remote_hosts=frozenset({"example.com"})))
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

from llava_finetune.errors import UserError
from llava_finetune.serve.limits import Limits

TIMEOUT = 10.0


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet (not loopback, private, link-local, multicast or reserved).

    Reserved are IPv6 forms that hold an IPv4 address too (`64:ff9b::/96`, `::/96`), which `is_global` lets pass.
    """
    ip = ipaddress.ip_address(address.split("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    ip = mapped or ip
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def fetch(url: str, limits: Limits, allowed: Callable[[str], bool] = is_public) -> bytes:
    """Bytes at `url`. `allowed` decides about addresses. Raises UserError for whatever is not allowed or fails."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower().rstrip(".")
    if not limits.remote_hosts:
        raise UserError("pictures from the web are off; send a data URL, or start the server with --allow-remote HOST")
    if host not in limits.remote_hosts:
        raise UserError(
            f"pictures from {host or 'no host'} are not allowed; allowed: {', '.join(sorted(limits.remote_hosts))}"
        )
    if parts.username or parts.password:
        raise UserError("an address with a user name in it is not fetched")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise UserError("the address has no valid port") from None
    connection = _PinnedConnection(host, port, resolve(host, port, allowed), secure=parts.scheme == "https")
    return _download(connection, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), limits)


def _download(connection: _PinnedConnection, path: str, limits: Limits) -> bytes:
    """The body at `path`, at most `limits.picture_bytes` of it and within TIMEOUT."""
    host = connection.host
    # A socket's own time limit begins anew with every byte: a host that drips them would hold a worker for days.
    deadline = threading.Timer(TIMEOUT, connection.hang_up)
    deadline.daemon = True
    deadline.start()
    problem = ""
    try:
        connection.request("GET", path, headers={"User-Agent": "llava-finetune", "Accept": "image/*"})
        response = connection.getresponse()
        data = response.read(limits.picture_bytes + 1)
        if response.status != 200:
            problem = f"answered {response.status}; redirects are not followed, give the picture's own address"
        elif len(data) > limits.picture_bytes:
            problem = f"sent a picture of more than {limits.picture_bytes:,} bytes"
    except (OSError, http.client.HTTPException, ValueError) as error:
        problem = f"could not be read ({type(error).__name__})"
    finally:
        deadline.cancel()
        connection.close()
    if connection.is_late:
        problem = f"took longer than {TIMEOUT:g} s"
    if problem:
        raise UserError(f"{host} {problem}")
    return data


def resolve(host: str, port: int, allowed: Callable[[str], bool]) -> str:
    """One address of `host`; every one of them must be allowed."""
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        raise UserError(f"{host} has no address") from None
    if not found or not all(map(allowed, found)):
        raise UserError(f"{host} leads into a private network; it is not fetched")
    return found[0]


class _PinnedConnection(http.client.HTTPConnection):
    """Talks to one checked address; the host name is used only in the request and for the certificate."""

    def __init__(self, host: str, port: int, address: str, *, secure: bool) -> None:
        super().__init__(host, port, timeout=TIMEOUT)
        self.address, self.secure = address, secure
        self.is_late = False
        self.wire: socket.socket | None = None

    def connect(self) -> None:
        self.wire = socket.create_connection((self.address, self.port), self.timeout)
        if self.secure:
            context = ssl.create_default_context()
            self.wire = context.wrap_socket(self.wire, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = self.wire
        if self.is_late:
            raise TimeoutError
        if isinstance(self.wire, ssl.SSLSocket):
            self.wire.do_handshake()

    def hang_up(self) -> None:
        """End whatever is being read, from another thread; `sock` is already gone when the answer closes by itself."""
        self.is_late = True
        if self.wire is not None:
            with contextlib.suppress(OSError):
                self.wire.shutdown(socket.SHUT_RDWR)
