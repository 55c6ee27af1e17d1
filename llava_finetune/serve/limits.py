"""What one request to a server may bring: bytes, pixels, pictures, and hosts to fetch from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What one request may bring: bytes of a body and of a picture, pixels of a picture, pictures, and remote hosts."""

    body_bytes: int = 32_000_000
    picture_bytes: int = 10_000_000
    pixels: int = 40_000_000
    pictures: int = 8
    remote_hosts: frozenset[str] = frozenset()
