"""The phases of a PostgreSQL connection and what moves it between them.

Owns the table. The connection asks `after`; a step that the table does not have is a defect and raises. Nothing
leads from a failed authentication to a phase in which statements run.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class Phase(Enum):
    """Where a connection stands."""

    STARTUP = auto()
    """Waits for the first packet: a start-up message, or a request for encryption or cancellation."""
    ENCRYPTING = auto()
    """TLS is being negotiated."""
    IDENTIFYING = auto()
    """The role's credentials are being fetched."""
    PROVING = auto()
    """The SASL exchange: SASLInitialResponse, then SASLResponse."""
    READY = auto()
    SKIPPING = auto()
    """A message of an extended-protocol pipeline failed: everything up to Sync is dropped."""
    COPY_IN = auto()
    """COPY FROM STDIN takes CopyData until CopyDone or CopyFail."""
    CLOSED = auto()


class Event(Enum):
    """What happened to a connection."""

    TLS_WANTED = auto()
    TLS_DONE = auto()
    TLS_REFUSED = auto()
    STARTED = auto()
    """A start-up message was read."""
    IDENTIFIED = auto()
    """Credentials, real or mock, are at hand."""
    PROVEN = auto()
    """The client knows the password and the session is open."""
    PIPELINE_FAILED = auto()
    SYNCED = auto()
    COPY_WANTED = auto()
    COPY_ENDED = auto()
    CLOSE = auto()


TRANSITIONS: Final[dict[tuple[Phase, Event], Phase]] = {
    (Phase.STARTUP, Event.TLS_WANTED): Phase.ENCRYPTING,
    (Phase.STARTUP, Event.TLS_REFUSED): Phase.STARTUP,
    (Phase.ENCRYPTING, Event.TLS_DONE): Phase.STARTUP,
    (Phase.STARTUP, Event.STARTED): Phase.IDENTIFYING,
    (Phase.IDENTIFYING, Event.IDENTIFIED): Phase.PROVING,
    (Phase.PROVING, Event.PROVEN): Phase.READY,
    (Phase.READY, Event.PIPELINE_FAILED): Phase.SKIPPING,
    (Phase.READY, Event.SYNCED): Phase.READY,
    (Phase.SKIPPING, Event.SYNCED): Phase.READY,
    (Phase.READY, Event.COPY_WANTED): Phase.COPY_IN,
    (Phase.COPY_IN, Event.COPY_ENDED): Phase.READY,
    **{(phase, Event.CLOSE): Phase.CLOSED for phase in Phase},
}


class IllegalTransition(Exception):
    """The connection took a step that its phase does not allow: a defect in the gateway."""

    def __init__(self, phase: Phase, event: Event) -> None:
        super().__init__(f"no {event.name} in {phase.name}")


def after(phase: Phase, event: Event) -> Phase:
    """Return the phase that follows. Raises IllegalTransition."""
    try:
        return TRANSITIONS[phase, event]
    except KeyError:
        raise IllegalTransition(phase, event) from None
