"""What a Redis client may cost: the named limits of this door.

Owns numbers only; `__main__` may override them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RedisLimits:
    """Limits of one listener. Sizes in bytes, times in seconds."""

    max_bulk_bytes: int = 64 * 1024 * 1024
    """One argument (Redis: `proto-max-bulk-len`)."""
    max_command_bytes: int = 128 * 1024 * 1024
    """All arguments of one command together."""
    max_arguments: int = 1024 * 1024
    max_inline_bytes: int = 64 * 1024
    """One line: an inline command, or a count."""
    max_arguments_before_auth: int = 10
    max_bulk_bytes_before_auth: int = 16 * 1024
    max_queued_commands: int = 65_536
    """Commands between MULTI and EXEC."""
    max_queued_bytes: int = 128 * 1024 * 1024
    """Arguments of all commands between MULTI and EXEC together."""
    max_connections: int = 10_000
    max_failed_auths: int = 3
    """Wrong passwords on one connection before it is closed."""
    auth_timeout_s: float = 60.0
    """Time that a connection has to authenticate."""
    pause_reading_bytes: int = 256 * 1024
    """Unread input past which a busy connection stops reading from its socket."""
    write_buffer_bytes: int = 1024 * 1024
    """Undrained output past which a connection runs no more commands."""
    commands_per_turn: int = 256
    """Commands of one connection before the event loop gets to serve the others."""
    scan_page_keys: int = 1000
    """Keys that one SCAN call fetches at least."""
    max_scan_cursors: int = 10_000
    """Open SCAN positions of one listener; the oldest are forgotten."""

    def __post_init__(self) -> None:
        assert self.max_bulk_bytes <= self.max_command_bytes
        assert self.max_bulk_bytes_before_auth <= self.max_bulk_bytes
        assert self.max_inline_bytes >= 1024
        assert self.commands_per_turn > 0 and self.scan_page_keys > 0
