"""Engine errors as Redis error replies.

Owns the mapping from SQLSTATE to the error codes that Redis clients know.
"""

from __future__ import annotations

from typing import Final

from orbit.kernel.errors import OrbitError
from services.gateway.protocols.redis import wire

_CODES: Final[dict[str, str]] = {
    "25006": "READONLY",
    "28P01": "WRONGPASS",
    "28000": "WRONGPASS",
    "40001": "TRYAGAIN",
    "40P01": "TRYAGAIN",
    "42501": "NOPERM",
    "53100": "OOM",
    "53200": "OOM",
    "53300": "TRYAGAIN",
    "55P03": "TRYAGAIN",
    "57P01": "CLUSTERDOWN",
    "57P02": "CLUSTERDOWN",
    "57P03": "CLUSTERDOWN",
}
"""Anything else is ERR."""


def reply(error: OrbitError) -> bytes:
    """Return the error reply, with its SQLSTATE for those who want to know exactly."""
    return wire.error(f"{_CODES.get(error.sqlstate, 'ERR')} {error.message} (SQLSTATE {error.sqlstate})")
