"""pg_catalog and information_schema as tables computed from the catalog."""

from __future__ import annotations

from orbit.kernel.schema import Table


class SystemCatalog:
    @staticmethod
    def table(schema: str, name: str) -> Table | None:
        return None
