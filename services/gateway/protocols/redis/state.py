"""The states of a Redis connection and what moves it between them.

Owns the table. The adapter asks `after` and does what the new state allows; a step that the table does not have
is a defect and raises.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class State(Enum):
    """Where a connection stands."""

    UNAUTHENTICATED = auto()
    """Only AUTH, HELLO and QUIT are taken."""
    READY = auto()
    MULTI = auto()
    """Commands are queued until EXEC."""
    MULTI_BROKEN = auto()
    """As MULTI, but a command was refused: EXEC will discard the queue."""
    CLOSED = auto()


class Event(Enum):
    """What happened to a connection."""

    AUTHENTICATED = auto()
    REJECTED = auto()
    """A wrong password. Nobody is authenticated any more: what was pipelined behind it must not run."""
    MULTI = auto()
    REFUSED = auto()
    """A command could not be queued."""
    EXEC = auto()
    DISCARD = auto()
    CLOSE = auto()


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.UNAUTHENTICATED, Event.AUTHENTICATED): State.READY,
    (State.UNAUTHENTICATED, Event.REJECTED): State.UNAUTHENTICATED,
    (State.UNAUTHENTICATED, Event.CLOSE): State.CLOSED,
    (State.READY, Event.AUTHENTICATED): State.READY,
    (State.READY, Event.REJECTED): State.UNAUTHENTICATED,
    (State.READY, Event.MULTI): State.MULTI,
    (State.READY, Event.CLOSE): State.CLOSED,
    (State.MULTI, Event.REFUSED): State.MULTI_BROKEN,
    (State.MULTI, Event.EXEC): State.READY,
    (State.MULTI, Event.DISCARD): State.READY,
    (State.MULTI, Event.CLOSE): State.CLOSED,
    (State.MULTI_BROKEN, Event.REFUSED): State.MULTI_BROKEN,
    (State.MULTI_BROKEN, Event.EXEC): State.READY,
    (State.MULTI_BROKEN, Event.DISCARD): State.READY,
    (State.MULTI_BROKEN, Event.CLOSE): State.CLOSED,
    (State.CLOSED, Event.CLOSE): State.CLOSED,
}


class IllegalTransition(Exception):
    """An event that the state does not know: a defect of the adapter."""


def after(state: State, event: Event) -> State:
    """Return the next state. Raises IllegalTransition."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"{event.name} in state {state.name}") from None
