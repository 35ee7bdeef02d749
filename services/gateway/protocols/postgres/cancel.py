"""Cancel keys: which connection a CancelRequest means.

Owns the registry that the connections of one process share. A request comes on a connection of its own, without
authentication: its secret must be right, and it is never answered.
"""

from __future__ import annotations

import hmac
import os
from typing import Protocol

KEY_BYTES = 4
LONG_KEY_BYTES = 32
"""Protocol 3.2 lets the server choose the length."""


class Cancelable(Protocol):
    def cancel(self) -> None: ...


class CancelKeys:
    """process number -> (secret, connection)."""

    def __init__(self) -> None:
        self._keys: dict[int, tuple[bytes, Cancelable]] = {}

    def register(self, connection: Cancelable, *, long: bool) -> tuple[int, bytes]:
        """Return a new process number and its secret."""
        while True:
            process = int.from_bytes(os.urandom(4), "big") & 0x7FFFFFFF
            if process and process not in self._keys:
                break
        secret = os.urandom(LONG_KEY_BYTES if long else KEY_BYTES)
        self._keys[process] = (secret, connection)
        return process, secret

    def forget(self, process: int) -> None:
        self._keys.pop(process, None)

    def cancel(self, process: int, secret: bytes) -> bool:
        """Cancel what the connection runs; returns whether the key was right."""
        known = self._keys.get(process)
        if known is None or not hmac.compare_digest(known[0], secret):
            return False
        known[1].cancel()
        return True

    def __len__(self) -> int:
        return len(self._keys)
