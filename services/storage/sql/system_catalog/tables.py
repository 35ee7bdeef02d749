"""The relations of the system catalog as tables that queries can bind to."""

from __future__ import annotations

from typing import Final

from orbit.kernel.schema import Column, Table
from orbit.kernel.types import SqlType
from services.storage.sql.bind.type_catalog import BY_NAME
from services.storage.sql.system_catalog.columns import COLUMNS
from services.storage.sql.system_catalog.names import SYSTEM_RELATIONS

OWNER: Final = "postgres"


def _type(name: str) -> SqlType:
    if name.endswith("[]"):
        return SqlType(BY_NAME[name[:-2]].array)
    return SqlType(BY_NAME[name].oid)


def _load() -> dict[tuple[str, str], Table]:
    tables: dict[tuple[str, str], Table] = {}
    blocks = [block for block in COLUMNS.replace("\n    ", " ").strip().splitlines() if block]
    for block in blocks:
        heading, _, body = block.partition(": ")
        schema, name = heading.strip().split(".")
        columns = tuple(
            Column(number=at, name=column, type=_type(kind))
            for at, (column, kind) in enumerate((item.split() for item in body.split(", ")), 1)
        )
        oid = SYSTEM_RELATIONS[schema, name]
        tables[schema, name] = Table(id=oid, schema=schema, name=name, columns=columns, storage_id=oid, owner=OWNER)
    return tables


TABLES: Final = _load()
EMPTY: Final = frozenset(
    {
        "pg_inherits", "pg_trigger", "pg_rewrite", "pg_enum", "pg_extension", "pg_policy", "pg_partitioned_table",
        "pg_range", "pg_auth_members", "pg_publication", "pg_publication_rel", "pg_publication_namespace",
        "pg_statistic_ext", "pg_foreign_table", "pg_foreign_server", "pg_opclass", "pg_matviews", "pg_event_trigger",
        "pg_locks", "pg_db_role_setting", "pg_aggregate", "pg_operator", "pg_shdescription", "pg_group", "pg_depend",
    }
)  # fmt: skip
"""Relations whose subject the engine has none of; pg_operator, pg_aggregate and pg_opclass are not filled."""


def system_table(schema: str, name: str) -> Table | None:
    return TABLES.get((schema, name))
