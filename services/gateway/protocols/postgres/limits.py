"""What a PostgreSQL client may cost: the named limits of this door.

Owns numbers only; `__main__` may override them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PostgresLimits:
    """Limits of one listener. Sizes in bytes, times in seconds."""

    max_connections: int = 10_000
    """Clients past this are told 53300."""
    max_unanswered_connections: int = 256
    """Connections past `max_connections` that are kept just long enough to be told so."""
    authentication_timeout_s: float = 60.0
    """From accept to ReadyForQuery."""
    max_startup_bytes: int = 10_000
    max_authentication_bytes: int = 65_535
    """One SASL message."""
    max_small_message_bytes: int = 10_000
    """Sync, Flush, Describe, Close, Execute: what holds at most a name."""
    max_message_bytes: int = 256 * 1024 * 1024
    """Query, Parse, Bind; also a CopyData message, which is never held whole."""
    max_statements: int = 10_000
    """Named prepared statements of one session."""
    max_portals: int = 1_000
    """Open portals of one session."""
    max_held_bytes: int = 256 * 1024 * 1024
    """Rows held for a portal whose client fetches them in parts."""
    pause_reading_bytes: int = 1024 * 1024
    """Unread input past which a busy connection stops reading from its socket."""
    write_buffer_bytes: int = 1024 * 1024
    """Undrained output past which a connection runs no more messages, and streamed rows are held back."""
    copy_block_bytes: int = 4 * 1024 * 1024
    """Input of COPY that is parsed at once."""
    copy_blocks_in_flight: int = 3
    """Blocks of one COPY that are parsed or wait for storage before reading stops."""
    max_copy_row_bytes: int = 64 * 1024 * 1024
    """The longest line that COPY takes."""
    copy_threads: int = 2
    """Threads that parse COPY data, shared by all connections of a listener."""

    def __post_init__(self) -> None:
        assert self.max_startup_bytes <= self.max_authentication_bytes <= self.max_message_bytes
        assert self.copy_block_bytes <= self.max_copy_row_bytes <= self.max_message_bytes
        assert self.max_connections > 0 and self.copy_blocks_in_flight > 0 and self.copy_threads > 0
