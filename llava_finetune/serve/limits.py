"""What one request to a server may bring: bytes, pixels, pictures, and hosts to fetch from."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.records.pixels import pixel_limit


@dataclass(frozen=True)
class Limits:
    """What one request may bring, each bound by what it would cost, and what all requests may bring at one time.

    body_bytes, header_bytes: of one request; body_seconds: how long its body may take to arrive. values: objects, lists
    and commas of its JSON, each of which becomes an object in memory. picture_bytes: of one picture, as sent. pixels:
    of all its pictures together, decoded: as many as training opens in one. pictures: how many. bodies_bytes: of all
    bodies that are being read or answered. remote_hosts: from which pictures are fetched.
    """

    body_bytes: int = 32_000_000
    header_bytes: int = 32_000
    body_seconds: float = 60.0
    values: int = 100_000
    picture_bytes: int = 10_000_000
    pixels: int = field(default_factory=pixel_limit)
    pictures: int = 8
    bodies_bytes: int = 256_000_000
    remote_hosts: frozenset[str] = frozenset()
