"""Prepared statements of one session."""

from __future__ import annotations

from collections.abc import Sequence

from services.storage.client import ColumnDescription
from services.storage.sql.plan import Plan


class PreparedStatement:
    """A statement text with its plan; planned again when the catalog or the search path has changed."""

    __slots__ = ("key", "parameter_oids", "plan", "sql")

    def __init__(self, sql: str, plan: Plan, key: object) -> None:
        self.sql = sql
        self.plan = plan
        self.key = key
        self.parameter_oids: Sequence[int] = [kind.oid for kind in plan.parameter_types]

    @property
    def columns(self) -> Sequence[ColumnDescription] | None:
        return self.plan.columns
