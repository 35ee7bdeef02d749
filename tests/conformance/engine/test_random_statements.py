"""Random statements on the engine and on a live PostgreSQL 15: whatever the engine answers, it must be the same.

The engine's rows sink from memory to disk within a second or two while the statements run, so that the same comparison
holds for rows in every tier. What the engine refuses by name (0A000) is counted and is no failure. A failing test is
named for its seed, and each difference for its statement: `pytest -k 'short and 7'` runs seed 7 again.
"""

from __future__ import annotations

import psycopg
import pytest

from tests.conformance.engine.comparing import Comparison
from tests.fixtures.fix_engine import Engine, StartEngine

pytestmark = pytest.mark.integration

SINKING = {"HOT_TIER_RETENTION_HOURS": "0.0003", "TIER_MIGRATION_INTERVAL_MS": "200"}
SHORT_SEEDS, SHORT_LENGTH = range(1, 7), 40
LONG_SEEDS, LONG_LENGTH = range(1_000, 1_100), 200


@pytest.fixture(scope="module")
def sinking(start_engine: StartEngine) -> Engine:
    """An engine whose rows stay in memory for about a second."""
    return start_engine(SINKING)


def _compare(engine: Engine, postgres_dsn: str, seed: int, length: int) -> None:
    with engine.connect() as ours, psycopg.connect(postgres_dsn, autocommit=True) as theirs:
        theirs.execute("SET client_min_messages = error")
        comparison = Comparison(ours, theirs)
        comparison.session(seed, length)
    found = comparison.differences
    assert not found, f"seed {seed}: {len(found)} of {comparison.asked} statements differ:\n\n" + "\n\n".join(found)
    refused = sum(comparison.refused.values())
    print(f"seed {seed}: {comparison.asked} statements, {refused} refused")
    assert refused < comparison.asked / 4, f"seed {seed}: {refused} of {comparison.asked} refused: {comparison.refused}"


@pytest.mark.parametrize("seed", SHORT_SEEDS)
def test_short(seed: int, sinking: Engine, postgres_dsn: str) -> None:
    _compare(sinking, postgres_dsn, seed, SHORT_LENGTH)


@pytest.mark.slow
@pytest.mark.parametrize("seed", LONG_SEEDS)
def test_long(seed: int, sinking: Engine, postgres_dsn: str) -> None:
    _compare(sinking, postgres_dsn, seed, LONG_LENGTH)
