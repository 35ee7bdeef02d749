"""The flights load through COPY, and ten analytical queries answer as PostgreSQL answers: same types, same bytes."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.fixtures.fix_engine import Engine
from tests.fixtures.fix_flights import ROWS, Flights

pytestmark = pytest.mark.e2e

QUERIES = {
    "delay by airline": """
        SELECT a.name, count(*) AS flights, count(f.arr_delay) AS landed, avg(f.arr_delay) AS mean,
               min(f.arr_delay), max(f.arr_delay), sum(f.distance) AS miles
        FROM flights f JOIN airlines a ON a.carrier = f.carrier
        GROUP BY a.name ORDER BY mean DESC, a.name""",
    "the longest routes": """
        SELECT DISTINCT f.origin, f.dest, d.name, f.distance
        FROM flights f LEFT JOIN airports d ON d.faa = f.dest
        ORDER BY f.distance DESC, f.origin, f.dest LIMIT 15""",
    "age of the planes": """
        SELECT CASE WHEN p.year IS NULL THEN 'unknown' WHEN p.year < 1990 THEN 'old'
                    WHEN p.year < 2005 THEN 'middle' ELSE 'new' END AS age,
               count(*) AS flights, count(DISTINCT p.tailnum) AS planes, sum(p.seats::bigint) AS seats,
               round(avg(f.dep_delay), 4) AS delay
        FROM flights f JOIN planes p USING (tailnum)
        GROUP BY 1 HAVING count(*) > 10 ORDER BY 1""",
    "weather and delay": """
        SELECT f.origin, w.precip > 0 AS wet, count(*), avg(f.dep_delay), max(w.wind_speed), min(w.temp), avg(w.temp)
        FROM flights f JOIN weather w ON w.origin = f.origin AND w.time_hour = f.time_hour
        WHERE f.dep_delay IS NOT NULL GROUP BY f.origin, w.precip > 0 ORDER BY f.origin, wet""",
    "rank within each airport": """
        SELECT origin, dest, n, rank() OVER (PARTITION BY origin ORDER BY n DESC) AS place,
               sum(n) OVER (PARTITION BY origin ORDER BY n DESC, dest ROWS UNBOUNDED PRECEDING) AS running,
               lag(n) OVER (PARTITION BY origin ORDER BY n DESC, dest) AS before
        FROM (SELECT origin, dest, count(*) AS n FROM flights GROUP BY origin, dest) r
        ORDER BY origin, place, dest LIMIT 40""",
    "months": """
        SELECT date_trunc('month', time_hour AT TIME ZONE 'America/New_York') AS month,
               extract(quarter FROM time_hour AT TIME ZONE 'America/New_York') AS quarter,
               count(*), count(*) FILTER (WHERE dep_time IS NULL) AS cancelled,
               round(100.0 * count(*) FILTER (WHERE dep_time IS NULL) / count(*), 3) AS percent
        FROM flights GROUP BY 1, 2 ORDER BY 1""",
    "spread of the delays": """
        SELECT carrier, stddev(arr_delay), variance(dep_delay), stddev_pop(air_time),
               percentile_cont(0.5) WITHIN GROUP (ORDER BY arr_delay) AS median,
               percentile_disc(0.9) WITHIN GROUP (ORDER BY arr_delay) AS ninth
        FROM flights GROUP BY carrier ORDER BY carrier""",
    "planes that flew for two airlines": """
        WITH several AS (SELECT tailnum FROM flights WHERE tailnum IS NOT NULL
                         GROUP BY tailnum HAVING count(DISTINCT carrier) > 1)
        SELECT s.tailnum, p.manufacturer, string_agg(DISTINCT f.carrier, '+' ORDER BY f.carrier) AS carriers
        FROM several s JOIN flights f USING (tailnum) LEFT JOIN planes p USING (tailnum)
        GROUP BY s.tailnum, p.manufacturer ORDER BY s.tailnum""",
    "airports that nobody flies to": """
        SELECT tzone, count(*) AS airports, max(alt) AS highest, min(lat), max(lon)
        FROM airports a
        WHERE NOT EXISTS (SELECT 1 FROM flights f WHERE f.dest = a.faa)
          AND alt > (SELECT avg(alt) FROM airports b WHERE b.tzone = a.tzone)
        GROUP BY tzone ORDER BY airports DESC, tzone NULLS FIRST""",
    "missing arrivals": """
        SELECT carrier, flight, year, month, day, dep_time, arr_time, arr_delay,
               coalesce(arr_delay, dep_delay, -1) AS known, dep_delay + arr_delay AS both,
               arr_delay / 60 AS hours, arr_delay % 60 AS minutes, time_hour
        FROM flights WHERE arr_delay IS NULL AND dest IN ('LEX', 'CAE', 'TYS')
        ORDER BY arr_time NULLS FIRST, dep_time DESC, carrier, flight, month, day, origin""",
}

Result = tuple[list[tuple[str, int]], list[tuple[bytes | None, ...]]]


def answer(connection: psycopg.Connection[Any], query: str) -> Result:
    """Return names and types of the columns, and the rows as the bytes that came."""
    with connection.cursor() as cursor:
        cursor.execute(query)
        result = cursor.pgresult
        assert result is not None
        columns = [((result.fname(at) or b"").decode(), result.ftype(at)) for at in range(result.nfields)]
        rows = [tuple(result.get_value(row, at) for at in range(result.nfields)) for row in range(result.ntuples)]
        return columns, rows


@pytest.fixture(scope="module")
def loaded(engine: Engine, flights: Flights) -> Engine:
    with engine.connect() as connection:
        flights.load(connection)
    return engine


@pytest.fixture(scope="module")
def expected(flights_in_postgres: str) -> dict[str, Result]:
    with psycopg.connect(flights_in_postgres, autocommit=True) as connection:
        return {name: answer(connection, query) for name, query in QUERIES.items()}


def check(engine: Engine, expected: dict[str, Result], name: str) -> None:
    with engine.connect() as connection:
        columns, rows = answer(connection, QUERIES[name])
    assert columns == expected[name][0]
    assert rows == expected[name][1]
    assert rows, "a query without an answer shows nothing"


def test_every_row_is_there(loaded: Engine) -> None:
    with loaded.connect() as connection:
        for table, rows in ROWS.items():
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (rows,)


@pytest.mark.parametrize("name", QUERIES)
def test_the_answer_is_postgresqls(loaded: Engine, expected: dict[str, Result], name: str) -> None:
    check(loaded, expected, name)


def test_the_answers_are_the_same_after_kill_9(loaded: Engine, expected: dict[str, Result]) -> None:
    loaded.kill9()
    loaded.start()
    for name in QUERIES:
        check(loaded, expected, name)


def test_a_second_copy_of_a_row_is_refused(loaded: Engine, flights: Flights) -> None:
    with loaded.connect() as connection, flights.open("airlines") as file:
        with pytest.raises(psycopg.errors.UniqueViolation):
            with connection.cursor().copy("COPY airlines FROM STDIN WITH (FORMAT csv, HEADER)") as copy:
                copy.write(file.read())
        assert connection.execute("SELECT count(*) FROM airlines").fetchone() == (16,)
