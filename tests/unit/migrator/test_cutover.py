"""The transition table of a move, and what the service does around it."""

from __future__ import annotations

import pytest

from services.migrator.cutover import FINAL, TRANSITIONS, Event, State


def test_every_state_reaches_an_end() -> None:
    for start in State:
        reached, border = {start}, {start}
        while border:
            border = {new for (old, _), new in TRANSITIONS.items() if old in border} - reached
            reached |= border
        assert reached & FINAL, start


def test_rows_are_evicted_only_after_their_snapshot_is_published() -> None:
    before = {old for (old, _), new in TRANSITIONS.items() if new is State.COMMITTED}
    assert before == {State.PUBLISHED}
    ways = {(old, event) for (old, event), new in TRANSITIONS.items() if new is State.PUBLISHED}
    assert ways == {(State.CLAIMED, Event.FOUND), (State.COPIED, Event.PUBLISHED)}


@pytest.mark.parametrize("state", [state for state in State if state not in FINAL])
def test_a_cancelled_claim_ends_every_open_state(state: State) -> None:
    assert TRANSITIONS[state, Event.GONE] is State.ENDED
    assert TRANSITIONS[state, Event.HOPELESS] is State.ABORTED
