"""The rows of pg_catalog, computed from the catalog. A row is the columns that differ from their type's empty value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from orbit.kernel.schema import Catalog, Role, Schema, Sequence, Table, View
from orbit.kernel.types import Oid
from services.storage.sql.bind.signatures import FUNCTIONS
from services.storage.sql.bind.type_catalog import ALL_TYPES, ELEMENT_OF
from services.storage.sql.evaluate import EvaluationContext
from services.storage.sql.system_catalog.definitions import Constraint, constraints, index_text
from services.storage.sql.system_catalog.names import NAMESPACES, PG_CATALOG
from services.storage.sql.system_catalog.tables import OWNER, TABLES

Row = dict[str, Any]
HEAP: Final = 2
BTREE: Final = 403
SUPERUSER: Final = 10
DATABASE: Final = 5
DEFAULT_COLLATION: Final = 100
C_COLLATION: Final = 950
_COLLATED: Final = frozenset((Oid.TEXT, Oid.VARCHAR, Oid.BPCHAR))
FUNCTION_OIDS: Final = {
    signature.key: 20000 + at
    for at, signature in enumerate(item for overloads in FUNCTIONS.values() for item in overloads)
}
"""Our functions' OIDs: not PostgreSQL's, and stable only within one version of the engine."""


def namespace_oid(catalog: Catalog, name: str) -> int:
    if name in NAMESPACES:
        return NAMESPACES[name]
    schema = catalog.schema(name)
    return schema.id if schema is not None else 0


def role_oid(catalog: Catalog, name: str) -> int:
    role = catalog.role(name)
    return role.id if role is not None else SUPERUSER


def roles(catalog: Catalog) -> Iterator[Role]:
    found = [item for item in catalog.objects.values() if isinstance(item, Role)]
    if not any(role.id == SUPERUSER or role.superuser for role in found):
        yield Role(id=SUPERUSER, name=OWNER, superuser=True)
    yield from found


def pg_namespace(context: EvaluationContext) -> Iterator[Row]:
    for name, oid in NAMESPACES.items():
        yield {"oid": oid, "nspname": name, "nspowner": SUPERUSER}
    for item in context.catalog.objects.values():
        if isinstance(item, Schema) and item.name not in NAMESPACES:
            yield {"oid": item.id, "nspname": item.name, "nspowner": role_oid(context.catalog, item.owner)}


def _class(oid: int, name: str, namespace: int, owner: int, kind: str, columns: int, **more: Any) -> Row:
    return {
        "oid": oid, "relname": name, "relnamespace": namespace, "relowner": owner, "relkind": kind,
        "relnatts": columns, "relpersistence": "p", "relreplident": "n" if kind != "r" else "d",
        "relispopulated": True, "reltuples": -1.0, "relfilenode": oid, **more,
    }  # fmt: skip


def pg_class(context: EvaluationContext) -> Iterator[Row]:
    catalog = context.catalog
    for (schema, name), table in TABLES.items():
        kind = "r" if schema == "pg_catalog" and table.id < 12000 else "v"
        yield _class(table.id, name, NAMESPACES[schema], SUPERUSER, kind, len(table.columns), reltype=0)
    for item in catalog.objects.values():
        if not isinstance(item, Table | View | Sequence):
            continue
        namespace, owner = namespace_oid(catalog, item.schema), role_oid(catalog, item.owner)
        if isinstance(item, Table):
            yield _class(
                item.id, item.name, namespace, owner, "r", len(item.columns), relam=HEAP,
                relhasindex=bool(item.indexes), relchecks=len(item.checks),
                reloptions=tuple(f"{key}={value}" for key, value in item.options.items()) or None,
            )  # fmt: skip
            for index in item.indexes:
                yield _class(index.id, index.name, namespace, owner, "i", len(index.columns), relam=BTREE)
        elif isinstance(item, View):
            yield _class(item.id, item.name, namespace, owner, "v", len(item.columns), relhasrules=True)
        else:
            yield _class(item.id, item.name, namespace, owner, "S", 3)


_TYPES: Final = {item.oid: item for item in ALL_TYPES}


def _collation(oid: int) -> int:
    return DEFAULT_COLLATION if oid in _COLLATED else C_COLLATION if oid == Oid.NAME else 0


def _attribute(relation: int, column: Any, number: int) -> Row:
    kind = _TYPES[column.type.oid]
    return {
        "attrelid": relation, "attname": column.name, "atttypid": column.type.oid, "attlen": kind.size,
        "attnum": number, "atttypmod": column.type.modifier, "attcacheoff": -1, "attstattarget": -1,
        "attbyval": kind.size in (1, 2, 4, 8), "attalign": "i", "attstorage": "p" if kind.size > 0 else "x",
        "attnotnull": not column.nullable, "atthasdef": column.default is not None, "attislocal": True,
        "attidentity": column.identity, "attgenerated": column.generated,
        "attcollation": _collation(column.type.oid),
    }  # fmt: skip


def pg_attribute(context: EvaluationContext) -> Iterator[Row]:
    for table in TABLES.values():
        for column in table.columns:
            yield _attribute(table.id, column, column.number)
    for item in context.catalog.objects.values():
        if isinstance(item, Table | View):
            for column in item.columns:
                yield _attribute(item.id, column, column.number)
        if isinstance(item, Table):
            for index in item.indexes:
                for at, number in enumerate(index.columns, 1):
                    yield {**_attribute(index.id, item.columns[item.position(number)], at), "attnotnull": False}


def pg_type(context: EvaluationContext) -> Iterator[Row]:
    for item in ALL_TYPES:
        yield {
            "oid": item.oid, "typname": item.name, "typnamespace": PG_CATALOG, "typowner": SUPERUSER,
            "typlen": item.size, "typbyval": item.size in (1, 2, 4, 8), "typtype": "p" if item.category == "P" else "b",
            "typcategory": item.category, "typispreferred": item.preferred, "typisdefined": True, "typdelim": ",",
            "typelem": ELEMENT_OF.get(item.oid, 0), "typarray": item.array, "typalign": "i",
            "typstorage": "p" if item.size > 0 else "x", "typtypmod": -1,
            "typcollation": _collation(item.oid),
        }  # fmt: skip


def pg_index(context: EvaluationContext) -> Iterator[Row]:
    for table in context.catalog.tables():
        for index in table.indexes:
            yield {
                "indexrelid": index.id, "indrelid": table.id, "indnatts": len(index.columns),
                "indnkeyatts": len(index.columns), "indisunique": index.unique, "indisprimary": index.primary,
                "indnullsnotdistinct": not index.nulls_distinct, "indimmediate": True, "indisvalid": True,
                "indisready": True, "indislive": True, "indkey": index.columns,
                "indcollation": (0,) * len(index.columns), "indclass": (0,) * len(index.columns),
                "indoption": (0,) * len(index.columns), "indpred": index.predicate,
            }  # fmt: skip


def pg_constraint(context: EvaluationContext) -> Iterator[Row]:
    catalog = context.catalog
    for table in catalog.tables():
        for item in constraints(table):
            yield {**_constraint(catalog, table, item)}


def _constraint(catalog: Catalog, table: Table, item: Constraint) -> Row:
    row: Row = {
        "oid": item.oid, "conname": item.name, "connamespace": namespace_oid(catalog, table.schema),
        "contype": item.kind, "convalidated": True, "conrelid": table.id, "conislocal": True, "connoinherit": True,
        "confupdtype": " ", "confdeltype": " ", "confmatchtype": " ",
    }  # fmt: skip
    if item.index is not None:
        row |= {"conindid": item.index.id, "conkey": item.index.columns}
    elif item.check is not None:
        row |= {"conbin": item.check.expression, "connoinherit": False}
    elif item.foreign_key is not None:
        key = item.foreign_key
        parent = catalog.objects.get(key.parent_table)
        index = None
        if isinstance(parent, Table):
            index = next(
                (one for one in parent.indexes if one.unique and set(one.columns) == set(key.parent_columns)), None
            )
        row |= {
            "confrelid": key.parent_table, "conkey": key.columns, "confkey": key.parent_columns,
            "confupdtype": key.on_update, "confdeltype": key.on_delete, "confmatchtype": "s",
            "condeferrable": key.deferrable, "condeferred": key.deferred,
            "conindid": index.id if index is not None else 0,
        }  # fmt: skip
    return row


def pg_attrdef(context: EvaluationContext) -> Iterator[Row]:
    for table in context.catalog.tables():
        for column in table.columns:
            if column.default is not None:
                # One row a column: its number makes the OID unique within this table.
                yield {
                    "oid": table.id * 2000 % (1 << 32) + column.number,
                    "adrelid": table.id,
                    "adnum": column.number,
                    "adbin": column.default,
                }


def pg_database(context: EvaluationContext) -> Iterator[Row]:
    yield {
        "oid": DATABASE, "datname": context.database, "datdba": SUPERUSER, "encoding": 6, "datlocprovider": "c",
        "datallowconn": True, "datconnlimit": -1, "dattablespace": 1663, "datcollate": "C", "datctype": "C.UTF-8",
    }  # fmt: skip


def pg_roles(context: EvaluationContext) -> Iterator[Row]:
    for role in roles(context.catalog):
        yield {
            "rolname": role.name, "rolsuper": role.superuser, "rolinherit": True, "rolcreaterole": role.superuser,
            "rolcreatedb": role.superuser, "rolcanlogin": role.login, "rolconnlimit": -1, "rolpassword": "********",
            "rolbypassrls": role.superuser, "rolreplication": role.superuser, "oid": role.id,
        }  # fmt: skip


def pg_user(context: EvaluationContext) -> Iterator[Row]:
    for role in roles(context.catalog):
        if role.login:
            yield {
                "usename": role.name, "usesysid": role.id, "usesuper": role.superuser, "usecreatedb": role.superuser,
                "usebypassrls": role.superuser, "passwd": "********",
            }  # fmt: skip


def pg_proc(context: EvaluationContext) -> Iterator[Row]:
    kinds = {"a": "a", "w": "w"}
    for overloads in FUNCTIONS.values():
        for item in overloads:
            yield {
                "oid": FUNCTION_OIDS[item.key], "proname": item.name, "pronamespace": PG_CATALOG, "proowner": SUPERUSER,
                "prolang": 12, "prokind": kinds.get(item.kind, "f"), "proisstrict": item.strict,
                "proretset": item.kind == "s", "provolatile": item.volatility, "proparallel": "s",
                "pronargs": len(item.args), "prorettype": item.result, "proargtypes": item.args, "prosrc": item.name,
            }  # fmt: skip


def pg_tables(context: EvaluationContext) -> Iterator[Row]:
    for (schema, name), table in TABLES.items():
        if schema == "pg_catalog" and table.id < 12000:
            yield {"schemaname": schema, "tablename": name, "tableowner": OWNER, "hasindexes": True}
    for table in context.catalog.tables():
        yield {
            "schemaname": table.schema, "tablename": table.name, "tableowner": table.owner,
            "hasindexes": bool(table.indexes),
        }  # fmt: skip


def pg_indexes(context: EvaluationContext) -> Iterator[Row]:
    for table in context.catalog.tables():
        for index in table.indexes:
            yield {
                "schemaname": table.schema, "tablename": table.name, "indexname": index.name,
                "indexdef": index_text(table, index),
            }  # fmt: skip


def pg_views(context: EvaluationContext) -> Iterator[Row]:
    for item in context.catalog.objects.values():
        if isinstance(item, View):
            yield {"schemaname": item.schema, "viewname": item.name, "viewowner": item.owner, "definition": item.query}


def pg_sequence(context: EvaluationContext) -> Iterator[Row]:
    for item in context.catalog.objects.values():
        if isinstance(item, Sequence):
            yield {
                "seqrelid": item.id, "seqtypid": item.type.oid, "seqstart": item.start, "seqincrement": item.increment,
                "seqmax": item.maximum, "seqmin": item.minimum, "seqcache": 1, "seqcycle": item.cycle,
            }  # fmt: skip


def pg_sequences(context: EvaluationContext) -> Iterator[Row]:
    for item in context.catalog.objects.values():
        if isinstance(item, Sequence):
            yield {
                "schemaname": item.schema, "sequencename": item.name, "sequenceowner": item.owner,
                "data_type": item.type.oid, "start_value": item.start, "min_value": item.minimum,
                "max_value": item.maximum, "increment_by": item.increment, "cycle": item.cycle, "cache_size": 1,
                "last_value": None,
            }  # fmt: skip


def pg_description(context: EvaluationContext) -> Iterator[Row]:
    for table in context.catalog.tables():
        if table.comment is not None:
            yield {"objoid": table.id, "classoid": 1259, "objsubid": 0, "description": table.comment}


def _fixed(*rows: Row) -> Callable[[EvaluationContext], Iterator[Row]]:
    return lambda context: iter(rows)


ROWS: Final[dict[str, Callable[[EvaluationContext], Iterator[Row]]]] = {
    "pg_namespace": pg_namespace,
    "pg_class": pg_class,
    "pg_attribute": pg_attribute,
    "pg_type": pg_type,
    "pg_index": pg_index,
    "pg_constraint": pg_constraint,
    "pg_attrdef": pg_attrdef,
    "pg_database": pg_database,
    "pg_roles": pg_roles,
    "pg_user": pg_user,
    "pg_proc": pg_proc,
    "pg_tables": pg_tables,
    "pg_indexes": pg_indexes,
    "pg_views": pg_views,
    "pg_sequence": pg_sequence,
    "pg_sequences": pg_sequences,
    "pg_description": pg_description,
    "pg_am": _fixed({"oid": HEAP, "amname": "heap", "amtype": "t"}, {"oid": BTREE, "amname": "btree", "amtype": "i"}),
    "pg_tablespace": _fixed(
        {"oid": 1663, "spcname": "pg_default", "spcowner": SUPERUSER},
        {"oid": 1664, "spcname": "pg_global", "spcowner": SUPERUSER},
    ),
    "pg_collation": _fixed(
        {
            "oid": DEFAULT_COLLATION,
            "collname": "default",
            "collnamespace": PG_CATALOG,
            "collprovider": "d",
            "collencoding": -1,
        },
        {"oid": C_COLLATION, "collname": "C", "collnamespace": PG_CATALOG, "collprovider": "c", "collencoding": -1},
    ),
    "pg_language": _fixed(
        {"oid": 12, "lanname": "internal", "lanowner": SUPERUSER}, {"oid": 14, "lanname": "sql", "lanowner": SUPERUSER}
    ),
}
