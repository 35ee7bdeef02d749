"""What the whole suite shares: the list of fixture plugins, one topic each, under tests/fixtures.

Owns nothing else. A fixture that only one folder needs lives in that folder's own conftest.
"""

from __future__ import annotations

import os
import sys

import pytest

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

_status = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_status] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End at once, so that pytest's closing line is the last one.

    DuckDB's binding reports its own types as leaks when the interpreter is torn down, below that line.
    """
    status = config.stash.get(_status, None)
    if status is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
