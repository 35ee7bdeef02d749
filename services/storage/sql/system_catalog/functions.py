"""Functions about catalog objects: names, visibility, definitions, privileges, sizes."""

from __future__ import annotations

from typing import Any

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.schema import Sequence, Table, View
from services.storage.sql.bind.type_catalog import REGCLASS, REGTYPE
from services.storage.sql.evaluate import EvaluationContext
from services.storage.sql.evaluate.registered_names import oid_of, type_text
from services.storage.sql.evaluate.registry import function, keys
from services.storage.sql.system_catalog.definitions import (
    constraint_text,
    find_constraint,
    find_index,
    index_column,
    index_text,
)
from services.storage.sql.system_catalog.names import system_relation_name
from services.storage.sql.system_catalog.rows import roles


@function("pg_get_userbyid(oid)", context=True)
def _user_name(context: EvaluationContext, oid: int) -> str:
    return next((role.name for role in roles(context.catalog) if role.id == oid), f"unknown (OID={oid})")


function("pg_encoding_to_char(int4)")(lambda code: "UTF8" if code == 6 else "")
function("pg_char_to_encoding(name)")(lambda name: 6 if name.upper().replace("-", "") == "UTF8" else -1)


@function("format_type(oid,int4)")
def _format_type(oid: int | None, modifier: int | None) -> str | None:
    return None if oid is None else type_text(oid, -1 if modifier is None else modifier)


@function("pg_table_is_visible(oid)", context=True)
def _table_is_visible(context: EvaluationContext, oid: int) -> bool | None:
    system = system_relation_name(oid)
    if system is not None:
        return system[0] == "pg_catalog"
    item = context.catalog.objects.get(oid)
    if item is None:
        found = find_index(context.catalog, oid)
        return None if found is None else found[0].schema in context.search_path
    schema = getattr(item, "schema", None)
    if schema not in context.search_path:
        return False
    earlier = context.search_path[: context.search_path.index(schema)]
    name = getattr(item, "name", "")
    return not any(context.catalog.relation(place, name) is not None for place in earlier)


function(*keys("pg_type_is_visible pg_function_is_visible pg_operator_is_visible pg_opclass_is_visible "
               "pg_collation_is_visible pg_conversion_is_visible", "oid"))(lambda oid: True)  # fmt: skip
function("pg_get_expr(pg_node_tree,oid)")(lambda text, relation: text)
function("pg_get_expr(pg_node_tree,oid,bool)")(lambda text, relation, pretty: text)


@function("pg_get_indexdef(oid)", context=True)
def _index_definition(context: EvaluationContext, oid: int) -> str | None:
    found = find_index(context.catalog, oid)
    return None if found is None else index_text(*found)


@function("pg_get_indexdef(oid,int4,bool)", context=True)
def _index_part(context: EvaluationContext, oid: int, column: int, pretty: bool) -> str | None:
    found = find_index(context.catalog, oid)
    if found is None:
        return None
    if column:
        return index_column(*found, column)
    return index_text(*found).replace(f" ON {found[0].schema}.", " ON ") if pretty else index_text(*found)


@function("pg_get_constraintdef(oid)", context=True)
def _constraint_definition(context: EvaluationContext, oid: int) -> str | None:
    found = find_constraint(context.catalog, oid)
    return None if found is None else constraint_text(context.catalog, found, context.search_path)


function("pg_get_constraintdef(oid,bool)", context=True)(
    lambda context, oid, pretty: _constraint_definition(context, oid)
)


@function("pg_get_viewdef(oid)", context=True)
def _view_definition(context: EvaluationContext, oid: int) -> str | None:
    item = context.catalog.objects.get(oid)
    return item.query if isinstance(item, View) else None


function("pg_get_viewdef(oid,bool)", context=True)(lambda context, oid, pretty: _view_definition(context, oid))
function(*keys("pg_get_ruledef pg_get_function_identity_arguments pg_get_function_result pg_get_functiondef "
               "pg_get_function_arguments pg_get_statisticsobjdef_columns pg_get_partkeydef "
               "pg_get_partition_constraintdef pg_get_triggerdef", "oid"))(lambda oid: None)  # fmt: skip
function("pg_tablespace_location(oid)")(lambda oid: "")
function("pg_get_triggerdef(oid,bool)")(lambda oid, pretty: None)
function("pg_get_ruledef(oid,bool)")(lambda oid, pretty: None)
function("pg_relation_is_publishable(regclass)")(lambda oid: False)
function("pg_stat_get_numscans(oid)")(lambda oid: 0)
function("pg_my_temp_schema()")(lambda: 0)
function("pg_is_other_temp_schema(oid)")(lambda oid: False)


@function("obj_description(oid)", context=True)
def _description(context: EvaluationContext, oid: int) -> str | None:
    item = context.catalog.objects.get(oid)
    return item.comment if isinstance(item, Table) else None


function("obj_description(oid,name)", context=True)(
    lambda context, oid, catalog: _description(context, oid) if catalog == "pg_class" else None
)
function("col_description(oid,int4)")(lambda oid, column: None)
function("shobj_description(oid,name)")(lambda oid, catalog: None)


@function("pg_get_serial_sequence(text,text)", context=True)
def _serial_sequence(context: EvaluationContext, table: str, column: str) -> str | None:
    oid = oid_of(context, REGCLASS, table)
    found = context.catalog.objects.get(oid)
    if not isinstance(found, Table):
        return None
    wanted = found.column(column)
    if wanted is None:
        raise OrbitError(f'column "{column}" of relation "{found.name}" does not exist', sqlstate="42703")
    for item in context.catalog.objects.values():
        if isinstance(item, Sequence) and item.owned_by == (oid, wanted.number):
            return f"{item.schema}.{item.name}"
    return None


@function("to_regclass(text)", context=True)
def _to_regclass(context: EvaluationContext, name: str) -> int | None:
    try:
        return oid_of(context, REGCLASS, name)
    except OrbitError:
        return None


@function("to_regtype(text)", context=True)
def _to_regtype(context: EvaluationContext, name: str) -> int | None:
    try:
        return oid_of(context, REGTYPE, name)
    except OrbitError:
        return None


# Privileges

_LETTERS = {"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"}


def _role_names(context: EvaluationContext, user: str) -> set[str]:
    names, pending = {"public"}, [user]
    while pending:
        name = pending.pop()
        if name not in names:
            names.add(name)
            role = context.catalog.role(name)
            pending.extend(role.member_of if role is not None else ())
    return names


def _has_table_privilege(context: EvaluationContext, user: str, oid: int, wanted: str) -> bool | None:
    if system_relation_name(oid) is not None:
        return wanted.strip().upper() == "SELECT"
    item = context.catalog.objects.get(oid)
    if item is None:
        return None
    role = context.catalog.role(user)
    if role is None or role.superuser or getattr(item, "owner", None) == user:
        return True
    grants: dict[str, tuple[str, ...]] = getattr(item, "grants", {})
    held = {word.upper() for name in _role_names(context, user) for word in grants.get(name, ())}
    words = {word.strip().upper().removesuffix(" WITH GRANT OPTION") for word in wanted.split(",")}
    unknown = words - _LETTERS
    if unknown:
        raise OrbitError(f'unrecognized privilege type: "{unknown.pop()}"', sqlstate="22023")
    return bool(words & held)


function("has_table_privilege(oid,text)", context=True)(
    lambda c, oid, wanted: _has_table_privilege(c, c.user, oid, wanted)
)
function("has_table_privilege(text,text)", context=True)(
    lambda c, name, wanted: _has_table_privilege(c, c.user, oid_of(c, REGCLASS, name), wanted)
)
function("has_table_privilege(name,text,text)", context=True)(
    lambda c, user, name, wanted: _has_table_privilege(c, user, oid_of(c, REGCLASS, name), wanted)
)
function("has_table_privilege(name,oid,text)", context=True)(_has_table_privilege)
function("has_column_privilege(oid,int2,text)", context=True)(
    lambda c, oid, column, wanted: _has_table_privilege(c, c.user, oid, wanted)
)
function("has_column_privilege(text,text,text)", context=True)(
    lambda c, name, column, wanted: _has_table_privilege(c, c.user, oid_of(c, REGCLASS, name), wanted)
)
# Everyone may use every schema, database, function and type: the engine has grants on tables and sequences only.
function(*keys("has_schema_privilege has_database_privilege", "text,text", "oid,text"))(lambda name, wanted: True)
function(*keys("has_schema_privilege has_database_privilege", "name,text,text"))(lambda user, name, wanted: True)
function(*keys("has_function_privilege has_type_privilege has_tablespace_privilege", "oid,text"))(
    lambda oid, wanted: True
)
function("has_sequence_privilege(oid,text)", context=True)(
    lambda c, oid, wanted: _has_table_privilege(c, c.user, oid, wanted.upper().replace("USAGE", "SELECT"))
)


@function("pg_has_role(name,text)", context=True)
def _has_role(context: EvaluationContext, name: str, wanted: str) -> bool:
    role = context.catalog.role(context.user)
    return name in _role_names(context, context.user) or (role is not None and role.superuser)


@function("pg_has_role(oid,text)", context=True)
def _has_role_oid(context: EvaluationContext, oid: int, wanted: str) -> bool:
    return _has_role(context, _user_name(context, oid), wanted)


# Sizes


def _size(context: EvaluationContext, oid: int) -> int:
    if context.relation_size is None:
        raise NotSupported("sizes of relations are not supported here")
    return context.relation_size(oid)


function(*keys("pg_relation_size pg_table_size pg_total_relation_size", "regclass"), context=True)(_size)
function("pg_relation_size(regclass,text)", context=True)(lambda c, oid, fork: _size(c, oid))
function("pg_indexes_size(regclass)", context=True)(lambda c, oid: 0)


def _database_size(context: EvaluationContext, database: Any) -> int:
    return sum(_size(context, table.id) for table in context.catalog.tables())


function(*keys("pg_database_size", "oid", "name"), context=True)(_database_size)
