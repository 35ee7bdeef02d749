"""The few HTTP requests that the command makes of a running engine.

Owns the transport only: standard library, no proxy, short timeouts.
"""

from __future__ import annotations

import base64
import urllib.error
import urllib.request
from dataclasses import dataclass

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes


class Unreachable(Exception):
    """Nothing answered at the address, or not in time; the message names it and says why."""


def request(
    url: str,
    *,
    body: bytes | None = None,
    credentials: tuple[str, str] | None = None,
    headers: dict[str, str] | None = None,
    timeout_seconds: float = 5.0,
) -> Answer:
    """GET, or POST when there is a body. An HTTP error status is an answer too. Raises Unreachable."""
    message = urllib.request.Request(url, data=body, headers=headers or {})
    if credentials is not None:
        token = base64.b64encode(":".join(credentials).encode()).decode()
        message.add_header("Authorization", f"Basic {token}")
    try:
        with _OPENER.open(message, timeout=timeout_seconds) as response:
            return Answer(response.status, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read())
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise Unreachable(f"{url} does not answer: {reason}") from error
