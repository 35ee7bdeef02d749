"""Plans: what a statement compiles to, and what a session offers a running plan.

Owns the contract between the session and the kinds of plans (point, DML, DDL, scan, control). A plan is compiled once
for a statement text and a catalog version and holds no state of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from orbit.kernel.errors import OrbitError
from orbit.kernel.types import SqlType
from orbit.kernel.values import parse_parameter
from services.storage.client import ColumnDescription

if TYPE_CHECKING:
    from services.storage.session import StorageSession


class Plan(Protocol):
    """A compiled statement."""

    @property
    def columns(self) -> tuple[ColumnDescription, ...] | None:
        """The result's columns, None for a statement that returns no rows."""
        ...

    @property
    def parameter_types(self) -> tuple[SqlType, ...]: ...

    @property
    def in_failed_block(self) -> bool:
        """Whether the statement is taken in a failed transaction block (COMMIT, ROLLBACK and their like)."""
        ...

    def run(self, session: StorageSession, parameters: Sequence[Any], formats: Sequence[int]) -> bytes | None:
        """Return the answer, or None: the transaction waits for a lock (the plan runs again from the top when it is
        granted), or the plan has taken over and will call `session.complete`.
        """
        ...


@dataclass(frozen=True, slots=True)
class ControlPlan:
    """A statement without parameters or rows that is a call on the session."""

    action: Callable[[StorageSession], bytes | None]
    in_failed_block: bool = False
    columns: tuple[ColumnDescription, ...] | None = None
    parameter_types: tuple[SqlType, ...] = ()

    def run(self, session: StorageSession, parameters: Sequence[Any], formats: Sequence[int]) -> bytes | None:
        return self.action(session)


@lru_cache(maxsize=4096)
def _decoder(oid: int, wire_format: int, zone: tzinfo) -> Callable[[bytes], Any]:
    return parse_parameter(oid, wire_format, zone)


def decode_parameters(
    types: Sequence[SqlType], values: Sequence[bytes | None], formats: Sequence[int], zone: tzinfo
) -> list[Any]:
    """Return parameters as row values. Raises 08P01 for a wrong count, and what the type's input raises."""
    if len(values) != len(types):
        raise OrbitError(
            f"bind message supplies {len(values)} parameters, but prepared statement requires {len(types)}",
            sqlstate="08P01",
        )
    if not values:
        return []
    if len(formats) <= 1:
        one = formats[0] if formats else 0
        return [
            None if value is None else _decoder(kind.oid, one, zone)(value)
            for kind, value in zip(types, values, strict=True)
        ]
    return [
        None if value is None else _decoder(kind.oid, wire_format, zone)(value)
        for kind, value, wire_format in zip(types, values, formats, strict=True)
    ]
