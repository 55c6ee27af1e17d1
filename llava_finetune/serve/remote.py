"""Fetch a picture from a named public host: no private network, no redirect, no second look-up, limited bytes and time.

Why by hand: a server that fetches addresses for its callers can be made to ask its own network (SSRF). The name is
looked up once, every address must be public, and the connection goes to that address.

    fetch("https://example.com/a.png", Limits(remote_hosts=frozenset({"example.com"})))
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from llava_finetune.errors import UserError
from llava_finetune.serve.pictures import Limits

TIMEOUT = 10.0


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet (not loopback, private, link-local, multicast or reserved)."""
    ip = ipaddress.ip_address(address.split("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    ip = mapped or ip
    return ip.is_global and not ip.is_multicast


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
    address = resolve(host, port, allowed)
    connection = _PinnedConnection(host, port, address, secure=parts.scheme == "https")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("GET", path, headers={"User-Agent": "llava-finetune", "Accept": "image/*"})
        response = connection.getresponse()
        if response.status != 200:
            raise UserError(
                f"{host} answered {response.status}; redirects are not followed, give the picture's own address"
            )
        return _read(response, limits, host)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UserError(f"{host} could not be read ({type(error).__name__})") from error
    finally:
        connection.close()


def resolve(host: str, port: int, allowed: Callable[[str], bool]) -> str:
    """One address of `host`; every one of them must be allowed."""
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        raise UserError(f"{host} has no address") from None
    if not found or not all(map(allowed, found)):
        raise UserError(f"{host} leads into a private network; it is not fetched")
    return found[0]


def _read(response: http.client.HTTPResponse, limits: Limits, host: str) -> bytes:
    """The body, read in pieces so that neither a large nor an endless one is taken."""
    start, data = time.monotonic(), b""
    while piece := response.read(65536):
        data += piece
        if len(data) > limits.picture_bytes:
            raise UserError(f"the picture from {host} has more than {limits.picture_bytes:,} bytes")
        if time.monotonic() - start > TIMEOUT:
            raise UserError(f"{host} took longer than {TIMEOUT:.0f} s")
    return data


class _PinnedConnection(http.client.HTTPConnection):
    """Talks to one checked address; the host name is used only in the request and for the certificate."""

    def __init__(self, host: str, port: int, address: str, *, secure: bool) -> None:
        super().__init__(host, port, timeout=TIMEOUT)
        self.address, self.secure = address, secure

    def connect(self) -> None:
        self.sock = socket.create_connection((self.address, self.port), self.timeout)
        if self.secure:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)
