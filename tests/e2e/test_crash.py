"""kill -9 of everything in the middle of a write load: what was acknowledged is there, nothing is half there."""

from __future__ import annotations

import random

import pytest

from tests.fixtures.fix_engine import Engine
from tests.fixtures.fix_load import Load

pytestmark = pytest.mark.e2e

UNITS_BEFORE_THE_KILL = 300


@pytest.fixture(scope="module")
def load(engine: Engine) -> Load:
    load = Load(engine.connect, seed=random.randrange(1 << 32))
    load.prepare()
    return load


@pytest.mark.parametrize("round_number", [1, 2])
def test_nothing_acknowledged_is_lost_and_nothing_is_half_there(engine: Engine, load: Load, round_number: int) -> None:
    load.start()
    load.wait_done(UNITS_BEFORE_THE_KILL)
    engine.kill9()
    load.wait_ended()
    engine.start()
    print(f"\n{load.summary()}")
    assert load.interrupted, "the kill met nobody at work"
    load.check()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_at_any_moment(engine: Engine, load: Load) -> None:
    """Some meet a checkpoint (every 15 s), a sealing or a recovery."""
    rng = random.Random(load.seed)
    for _ in range(20):
        load.start()
        load.wait_done(rng.randrange(50, 3000))
        engine.kill9()
        load.wait_ended()
        engine.start()
        load.check()
    print(f"\n{load.summary()}")


def test_it_goes_on_after_the_crashes(engine: Engine, load: Load) -> None:
    load.start()
    load.wait_done(100)
    load.stop()
    load.check()
