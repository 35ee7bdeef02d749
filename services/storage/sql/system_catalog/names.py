"""OIDs of the system catalog's schemas and relations, as PostgreSQL numbers them."""

from __future__ import annotations

from typing import Final

PG_CATALOG: Final = 11
PUBLIC: Final = 2200
INFORMATION_SCHEMA: Final = 13183
NAMESPACES: Final = {
    "pg_catalog": PG_CATALOG,
    "public": PUBLIC,
    "information_schema": INFORMATION_SCHEMA,
    "pg_toast": 99,
}

_CATALOG_TABLES: Final = {
    "pg_type": 1247, "pg_attribute": 1249, "pg_proc": 1255, "pg_class": 1259, "pg_attrdef": 2604,
    "pg_constraint": 2606, "pg_inherits": 2611, "pg_index": 2610, "pg_operator": 2617, "pg_opclass": 2616,
    "pg_am": 2601, "pg_language": 2612, "pg_description": 2609, "pg_depend": 2608, "pg_namespace": 2615,
    "pg_database": 1262, "pg_tablespace": 1213, "pg_shdescription": 2396, "pg_trigger": 2620, "pg_rewrite": 2618,
    "pg_enum": 3501, "pg_collation": 3456, "pg_extension": 3079, "pg_policy": 3256, "pg_partitioned_table": 3350,
    "pg_sequence": 2224, "pg_range": 3541, "pg_authid": 1260, "pg_auth_members": 1261, "pg_publication": 6104,
    "pg_publication_rel": 6106, "pg_publication_namespace": 6237, "pg_statistic_ext": 3381, "pg_foreign_table": 3118,
    "pg_foreign_server": 1417, "pg_event_trigger": 3466, "pg_aggregate": 2600, "pg_cast": 2605,
    "pg_db_role_setting": 2964, "pg_subscription": 6100, "pg_largeobject_metadata": 2995, "pg_conversion": 2607,
}  # fmt: skip
_VIEWS: Final = (
    "pg_roles", "pg_user", "pg_group", "pg_tables", "pg_views", "pg_indexes", "pg_settings", "pg_stat_activity",
    "pg_sequences", "pg_matviews", "pg_stat_user_tables", "pg_locks", "pg_prepared_statements",
    "pg_available_extensions", "pg_timezone_names",
)  # fmt: skip
_INFORMATION_VIEWS: Final = (
    "tables", "columns", "schemata", "views", "table_constraints", "key_column_usage", "referential_constraints",
    "constraint_column_usage", "sequences", "check_constraints", "triggers", "routines", "character_sets",
    "column_privileges", "table_privileges", "domains", "element_types",
)  # fmt: skip

SYSTEM_RELATIONS: Final[dict[tuple[str, str], int]] = {
    **{("pg_catalog", name): oid for name, oid in _CATALOG_TABLES.items()},
    **{("pg_catalog", name): 12000 + at for at, name in enumerate(_VIEWS)},
    **{("information_schema", name): 13200 + at for at, name in enumerate(_INFORMATION_VIEWS)},
}
_BY_OID: Final = {oid: name for name, oid in SYSTEM_RELATIONS.items()}


def system_relation_name(oid: int) -> tuple[str, str] | None:
    """Return (schema, name) of a system relation."""
    return _BY_OID.get(oid)
