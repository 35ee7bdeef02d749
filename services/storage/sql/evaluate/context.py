"""What an expression may know of the session that runs it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from typing import Protocol

from orbit.kernel.errors import NotSupported
from orbit.kernel.schema import Catalog

SERVER_VERSION = "15.18"


class Sequences(Protocol):
    """Sequence functions of the session, by the sequence's OID."""

    def nextval(self, sequence: int) -> int: ...

    def currval(self, sequence: int) -> int: ...

    def setval(self, sequence: int, value: int, called: bool) -> int: ...

    def lastval(self) -> int: ...


class NoSequences:
    """Stands where no session is: expressions over constants, tests."""

    def nextval(self, sequence: int) -> int:
        raise NotSupported("sequence functions are not supported here")

    currval = nextval

    def setval(self, sequence: int, value: int, called: bool) -> int:
        raise NotSupported("sequence functions are not supported here")

    def lastval(self) -> int:
        raise NotSupported("sequence functions are not supported here")


def _no_setting(name: str) -> str | None:
    return None


def _cannot_set(name: str, value: str, local: bool) -> str:
    raise NotSupported("set_config is not supported here")


def _wall_clock_us() -> int:
    return time.time_ns() // 1000


@dataclass(slots=True)
class EvaluationContext:
    """One statement's view of its session. Times are microseconds since 1970 UTC."""

    now_us: int = 0
    """Start of the transaction: now()."""
    statement_us: int = 0
    zone: tzinfo = UTC
    user: str = ""
    session_user: str = ""
    database: str = ""
    search_path: tuple[str, ...] = ("public",)
    catalog: Catalog = field(default_factory=lambda: Catalog({}, 0))
    setting: Callable[[str], str | None] = _no_setting
    set_setting: Callable[[str, str, bool], str] = _cannot_set
    sequences: Sequences = field(default_factory=NoSequences)
    clock_us: Callable[[], int] = _wall_clock_us
    random: Callable[[], float] = random.random
    random_bytes: Callable[[int], bytes] = os.urandom
    backend_pid: int = 0
    started_us: int = 0
    relation_size: Callable[[int], int] | None = None
    """Bytes of a relation by OID, where the storage tells."""
