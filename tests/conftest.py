"""What the whole suite shares: the list of fixture plugins, one topic each, under tests/fixtures.

Owns nothing else. A fixture that only one folder needs lives in that folder's own conftest.
"""

from __future__ import annotations

pytest_plugins: list[str] = [
    # One line for each topic, in alphabetical order: "tests.fixtures.fix_<topic>",
    "tests.fixtures.fix_certificates",
    "tests.fixtures.fix_cluster",
    "tests.fixtures.fix_engine",
    "tests.fixtures.fix_etcd",
    "tests.fixtures.fix_flights",
    "tests.fixtures.fix_nats",
    "tests.fixtures.fix_otlp",
    "tests.fixtures.fix_pg_backend",
    "tests.fixtures.fix_postgres",
    "tests.fixtures.fix_regions",
    "tests.fixtures.fix_storage",
    "tests.fixtures.fix_weed",
]
