"""The connection's table: every pair is decided, and after a rejection nothing but authentication is open."""

from __future__ import annotations

import itertools

import pytest

from services.gateway.protocols.redis.state import TRANSITIONS, Event, IllegalTransition, State, after


def test_every_pair_is_a_transition_or_raises() -> None:
    for state, event in itertools.product(State, Event):
        if (state, event) in TRANSITIONS:
            assert after(state, event) is TRANSITIONS[state, event]
        else:
            with pytest.raises(IllegalTransition, match=f"{event.name} in state {state.name}"):
                after(state, event)


def test_closed_is_final() -> None:
    assert [after(State.CLOSED, event) for event in Event if (State.CLOSED, event) in TRANSITIONS] == [State.CLOSED]


def test_only_authentication_leads_out_of_unauthenticated() -> None:
    ways = {
        event
        for (state, event), target in TRANSITIONS.items()
        if state is State.UNAUTHENTICATED and target is State.READY
    }
    assert ways == {Event.AUTHENTICATED}
    assert after(State.READY, Event.REJECTED) is State.UNAUTHENTICATED
