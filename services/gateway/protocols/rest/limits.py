"""What a REST client may cost: the named limits of this door.

Owns numbers only; `__main__` may override them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestLimits:
    """Limits of one listener. Sizes in bytes, times in seconds."""

    max_body_bytes: int = 16 * 1024 * 1024
    max_json_depth: int = 64
    max_header_bytes: int = 16 * 1024
    max_connections: int = 1000
    request_timeout_s: float = 30.0
    """Time for a request's statements; their session is cancelled then (57014)."""
    body_timeout_s: float = 30.0
    """Time for a client to send its request's body."""
    stall_timeout_s: float = 60.0
    """Time that a client may leave a part of its answer unread."""
    keep_alive_s: int = 30
    shutdown_timeout_s: int = 5
    default_rows: int = 100
    max_rows: int = 10_000
    """Rows of one page, of one POST of rows, and of one answer in a transaction."""
    max_statements: int = 1000
    """Statements of one POST /transactions."""
    max_parameters: int = 65_535
    """Parameters of one statement: the PostgreSQL protocol's own limit."""
    sessions_per_user: int = 4
    """Idle sessions that are kept for a user."""
    max_idle_sessions: int = 64
    max_sessions: int = 256
    """Sessions open at once, busy or idle; requests past it get 53300."""
    session_requests: int = 1000
    """Requests after which a session is replaced, so that what it has prepared does not pile up."""
    token_lifetime_s: int = 3600
    response_part_bytes: int = 64 * 1024
    """A streamed answer is sent in parts of about this size."""

    def __post_init__(self) -> None:
        assert self.default_rows <= self.max_rows
        assert self.sessions_per_user <= self.max_idle_sessions <= self.max_sessions
