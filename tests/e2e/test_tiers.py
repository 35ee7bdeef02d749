"""Rows sink from memory to RocksDB to Iceberg files in a local folder, and no query can tell where they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from tests.fixtures.fix_engine import Engine, StartEngine
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.e2e

ROWS = 3_000
SINK = {
    "HOT_TIER_RETENTION_HOURS": "0.0005",
    "WARM_TIER_RETENTION_DAYS": "0.00005",
    "TIER_MIGRATION_INTERVAL_MS": "300",
}
SETUP = (
    """CREATE TABLE sinking (
        id integer PRIMARY KEY, word text, price numeric(12, 2), at timestamptz, flag boolean, raw bytea,
        weight double precision, born date, code text UNIQUE)""",
    f"""INSERT INTO sinking
        SELECT n, CASE WHEN n % 7 = 0 THEN NULL ELSE 'word ' || n % 13 END, n * 1.25,
               timestamptz '2024-01-01 00:00:00Z' + n * interval '1 minute', n % 2 = 0, 'raw'::bytea,
               n / 3.0::double precision, date '2000-01-01' + n, 'code ' || n
        FROM generate_series(1, {ROWS}) AS n""",
)
QUERIES = (
    "SELECT * FROM sinking ORDER BY id",
    "SELECT * FROM sinking WHERE id = 1234",
    "SELECT id, word FROM sinking WHERE code = 'code 77'",
    "SELECT word, count(*), sum(price), min(at), max(born) FROM sinking GROUP BY word ORDER BY word NULLS FIRST",
    "SELECT count(*), count(word), avg(weight) > 1 FROM sinking WHERE price > 1000 AND flag",
    "SELECT a.id FROM sinking a JOIN sinking b ON b.id = a.id + 1 WHERE b.word = 'word 5' ORDER BY a.id LIMIT 20",
)

Answers = list[list[tuple[Any, ...]]]


def answers(engine: Engine) -> Answers:
    with engine.connect() as connection:
        return [connection.execute(query).fetchall() for query in QUERIES]


def tiers(engine: Engine) -> dict[str, int]:
    """Return rows by tier, as `orbit tiers` tells them."""
    done = engine.command("tiers", "--json")
    assert done.returncode == 0, done.stderr
    for one in json.loads(done.stdout)["tables"]:
        if one["table"] == "public.sinking":
            return {tier: found["rows"] for tier, found in one["tiers"].items()}
    raise AssertionError("the table is not there")


def all_in(engine: Engine, tier: str, rows: int) -> Callable[[], bool]:
    return lambda: tiers(engine)[tier] == rows and sum(tiers(engine).values()) == rows


@pytest.fixture(scope="module")
def sinking(start_engine: StartEngine) -> Engine:
    engine = start_engine(SINK)
    engine.allow("change feed waits")  # a loaded machine's change stream may be slow to answer; the feed tries again
    with engine.connect() as connection:
        for statement in SETUP:
            connection.execute(statement)
    return engine


@pytest.fixture(scope="module")
def expected(sinking: Engine) -> Answers:
    """The answers while the rows are in memory."""
    found = answers(sinking)
    assert len(found[0]) == ROWS
    return found


def test_the_answers_stay_while_rows_sink_to_iceberg(sinking: Engine, expected: Answers) -> None:
    before = sinking.metrics()
    seen: set[str] = set()

    def cold() -> bool:
        now = tiers(sinking)
        seen.update(tier for tier, rows in now.items() if rows)
        assert answers(sinking) == expected, f"another answer while the rows are in {now}"
        return now["cold"] == ROWS

    eventually(cold, "every row in the cold tier", 60)
    print(f"\ntiers seen on the way: {sorted(seen)}")
    after = sinking.metrics()
    assert after["orbit_storage_tier_migration_total"] > before["orbit_storage_tier_migration_total"]
    assert after["orbit_storage_cold_tier_size_bytes"] > 0
    assert answers(sinking) == expected


def rows_by_pyiceberg(engine: Engine) -> list[tuple[Any, ...]]:
    """Read the table without the engine, as another program would."""
    data = engine.state_dir / "data"
    catalog = SqlCatalog("orbit", uri=f"sqlite:///{data / 'catalog.db'}", warehouse=f"file://{data / 'warehouse'}")
    table = catalog.load_table(("public", "sinking"))
    rows = table.scan(selected_fields=("id", "word", "price", "code")).to_arrow().sort_by("id")
    return [tuple(row.values()) for row in rows.to_pylist()]


def test_pyiceberg_alone_reads_every_row(sinking: Engine, expected: Answers) -> None:
    wanted = [(row[0], row[1], row[2], row[8]) for row in expected[0]]
    assert rows_by_pyiceberg(sinking) == wanted


def test_the_answers_stay_after_kill_9_and_after_a_clean_stop(sinking: Engine, expected: Answers) -> None:
    sinking.kill9()
    sinking.start()
    assert answers(sinking) == expected
    assert tiers(sinking)["cold"] == ROWS
    sinking.stop()
    sinking.start()
    assert answers(sinking) == expected


def test_keys_of_cold_rows_are_still_unique(sinking: Engine, expected: Answers) -> None:
    with sinking.connect() as connection:
        for row in ("(5, 'new code')", "(100001, 'code 5')"):
            with pytest.raises(psycopg.errors.UniqueViolation):
                connection.execute(f"INSERT INTO sinking (id, code) VALUES {row}")


def test_cold_rows_can_be_changed_and_sink_again(sinking: Engine, expected: Answers) -> None:
    with sinking.connect() as connection:
        assert connection.execute("UPDATE sinking SET word = 'changed' WHERE id = 10").rowcount == 1
        assert connection.execute("DELETE FROM sinking WHERE id = 11").rowcount == 1
        assert connection.execute("UPDATE sinking SET price = price + 1 WHERE id BETWEEN 20 AND 29").rowcount == 10
        assert connection.execute("DELETE FROM sinking WHERE word = 'word 3' AND id < 100").rowcount > 0
        connection.execute("INSERT INTO sinking (id, code, word) VALUES (11, 'code 11', 'born again')")
    changed = answers(sinking)
    by_id = {row[0]: row for row in changed[0]}
    assert by_id[10][1] == "changed"
    assert by_id[11][1] == "born again"
    assert by_id[25][2] == expected[0][24][2] + 1
    untouched = [row for row in expected[0] if row[0] > 100]
    assert [row for row in changed[0] if row[0] > 100] == untouched
    left = len(changed[0])

    def cold_again() -> bool:
        assert answers(sinking) == changed
        return all_in(sinking, "cold", left)()

    eventually(cold_again, "the changed rows in the cold tier too", 60)
    sinking.kill9()
    sinking.start()
    assert answers(sinking) == changed


def test_pyiceberg_alone_reads_the_rows_as_they_are_now(sinking: Engine, expected: Answers) -> None:
    found = rows_by_pyiceberg(sinking)
    with sinking.connect() as connection:
        wanted = connection.execute("SELECT id, word, price, code FROM sinking ORDER BY id").fetchall()
    assert set(wanted) <= set(found)
    # A deleted row stays in the files until they are folded; a changed one is there in its last image only.
    deleted = {row[0] for row in expected[0]} - {row[0] for row in wanted} | {11}
    assert sorted(row[0] for row in set(found) - set(wanted)) == sorted(deleted)
    assert len(found) == len(wanted) + len(deleted)


def test_the_table_of_tiers_is_readable(sinking: Engine) -> None:
    shown = sinking.command("tiers").stdout
    assert "public.sinking" in shown
    assert "cold" in shown
