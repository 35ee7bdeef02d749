"""pgbench makes its tables and runs in all three protocol modes without an error, and its books balance."""

from __future__ import annotations

import pytest

from tests.fixtures.fix_engine import DATABASE, PASSWORD, USER, Engine
from tests.fixtures.fix_pgbench import Pgbench

pytestmark = pytest.mark.e2e

CLIENTS = 4
SECONDS = 3


@pytest.fixture(scope="module")
def pgbench(engine: Engine) -> Pgbench:
    bench = Pgbench("127.0.0.1", engine.ports["postgres"], USER, PASSWORD, DATABASE)
    bench.initialize()
    return bench


def balances(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        found: dict[str, int] = {}
        for table, column in {"accounts": "abalance", "tellers": "tbalance", "branches": "bbalance"}.items():
            row = connection.execute(f"SELECT sum({column}) FROM pgbench_{table}").fetchone()
            assert row is not None
            found[table] = int(row[0])
        row = connection.execute("SELECT coalesce(sum(delta), 0), count(*) FROM pgbench_history").fetchone()
        assert row is not None
        return found | {"history": int(row[0]), "transactions": int(row[1])}


def test_the_tables_are_full(engine: Engine, pgbench: Pgbench) -> None:
    with engine.connect() as connection:
        for table, rows in {"branches": 1, "tellers": 10, "accounts": 100_000, "history": 0}.items():
            assert connection.execute(f"SELECT count(*) FROM pgbench_{table}").fetchone() == (rows,)


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_transactions_run_without_an_error_and_the_books_balance(
    engine: Engine, pgbench: Pgbench, protocol: str
) -> None:
    before = balances(engine)["transactions"]
    done = pgbench.run(seconds=SECONDS, clients=CLIENTS, protocol=protocol)
    print(f"\n{protocol}: {done.tps:.0f} transactions a second")
    assert done.failed == 0
    assert done.transactions > 0
    after = balances(engine)
    assert after["transactions"] - before == done.transactions
    assert after["accounts"] == after["tellers"] == after["branches"] == after["history"]


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_reads_run_without_an_error(pgbench: Pgbench, protocol: str) -> None:
    done = pgbench.run(seconds=2, clients=CLIENTS, protocol=protocol, options=["-S"])
    print(f"\n{protocol}: {done.tps:.0f} reads a second")
    assert done.failed == 0
    assert done.transactions > 0


def test_the_books_balance_after_kill_9(engine: Engine, pgbench: Pgbench) -> None:
    before = balances(engine)
    engine.kill9()
    engine.start()
    assert balances(engine) == before
    assert pgbench.run(seconds=1, clients=CLIENTS).failed == 0
    after = balances(engine)
    assert after["accounts"] == after["tellers"] == after["branches"] == after["history"]
