"""CREATE, ALTER, DROP and TRUNCATE as plans over the transaction's catalog.

Owns how each statement changes the catalog and which locks it takes. One transaction at a time defines (the catalog
lock), and waits for the writers of the tables that it touches. Statements of an unknown form are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
from sqlglot import exp

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.schema import Catalog, CatalogChange, Drop, Put, Role, Schema, Table
from orbit.kernel.schema import Sequence as NumberSequence
from services.storage.sql.bind.names import identifier
from services.storage.sql.ddl.columns import Definition, build_checks, build_keys, read_constraint, read_definition
from services.storage.sql.ddl.define import define
from services.storage.sql.ddl.names import creation_schema, find_table, need_owner, need_superuser, need_table, target
from services.storage.sql.ddl.sequences import (
    column_sequence,
    create_sequence,
    default_of,
    drop_sequence,
    owned_sequences,
)
from services.storage.sql.ddl.verify import verify_rows
from services.storage.sql.parse.statement import Kind, RoleCommand, Statement
from services.storage.sql.plan import ControlPlan
from services.storage.txn.locks import Mode
from services.storage.txn.transaction import Transaction

if TYPE_CHECKING:
    from services.storage.session import StorageSession

MAX_COLUMNS = 1600


def plan_ddl(statement: Statement) -> ControlPlan:
    """Return the plan of a CREATE, ALTER, DROP, TRUNCATE or role statement."""
    if statement.kind is Kind.ROLE:
        assert isinstance(statement.command, RoleCommand)
        return _role(statement.command)
    tree = statement.tree
    assert tree is not None
    if isinstance(tree, exp.TruncateTable):
        return _truncate(tree)
    what = str(tree.args.get("kind") or "").upper()
    planner = _PLANNERS.get((type(tree), what))
    if planner is None:
        raise NotSupported(f"{statement.kind.value.upper()} {what} is not supported".replace("  ", " "))
    return planner(tree)


def _ids(catalog: Catalog) -> Iterator[int]:
    number = catalog.next_id
    while True:
        yield number
        number += 1


def _relation_names(catalog: Catalog, schema: str) -> set[str]:
    names: set[str] = set()
    for item in catalog.objects.values():
        if not isinstance(item, (Role, Schema)) and item.schema == schema:
            names.add(item.name)
            if isinstance(item, Table):
                names.update(index.name for index in item.indexes)
    return names


# Tables.


def _create_table(tree: exp.Expr) -> ControlPlan:
    if tree.args.get("expression") is not None:
        raise NotSupported("CREATE TABLE AS is not supported")
    if not isinstance(tree.this, exp.Schema):
        raise NotSupported("CREATE TABLE without a column list is not supported")
    for prop in (tree.args.get("properties") or exp.Properties()).expressions:
        _check_property(prop)
    named, name = target(tree.this.this)
    definition = read_definition(tree.this.expressions)
    if len(definition.columns) > MAX_COLUMNS:
        raise OrbitError(f"tables can have at most {MAX_COLUMNS} columns", sqlstate="54011")

    def action(session: StorageSession, transaction: Transaction, catalog: Catalog) -> list[CatalogChange] | None:
        schema = creation_schema(session, catalog, named)
        if catalog.relation(schema, name) is not None:
            if tree.args.get("exists"):
                return []
            raise OrbitError(f'relation "{name}" already exists', sqlstate="42P07")
        ids = _ids(catalog)
        taken = _relation_names(catalog, schema) | {name}
        table_id, storage_id = next(ids), next(ids)
        columns, indexes = build_keys(name, definition.columns, definition.keys, lambda: next(ids), taken)
        changes: list[CatalogChange] = []
        for at, column in enumerate(columns):
            if column.name in definition.counted:
                sequence = column_sequence(schema, name, table_id, column, session.user, next(ids))
                changes.append(Put(sequence))
                columns[at] = msgspec.structs.replace(column, default=default_of(sequence))
        checks = build_checks(name, columns, definition.checks, lambda: next(ids), taken)
        table = Table(
            id=table_id,
            schema=schema,
            name=name,
            columns=tuple(columns),
            storage_id=storage_id,
            owner=session.user,
            indexes=tuple(indexes),
            checks=tuple(checks),
        )
        transaction.change_catalog(session.engine.state.catalog, changes)
        session.planner.check_table(session, table)
        return [Put(table)]

    return define("CREATE TABLE", action)


def _check_property(prop: exp.Expr) -> None:
    """pgbench and others give storage parameters: fillfactor means nothing to a log-structured store."""
    if isinstance(prop, exp.Property) and prop.name.lower() == "fillfactor":
        return
    if isinstance(prop, exp.TemporaryProperty):
        raise NotSupported("temporary tables are not supported")
    raise NotSupported(f"table property {prop.sql(dialect='postgres')} is not supported")


def _alter_table(tree: exp.Expr) -> ControlPlan:
    named, name = target(tree.this)
    actions = tree.args.get("actions") or []
    definition = Definition()
    for action_tree in actions:
        if not isinstance(action_tree, exp.AddConstraint):
            raise NotSupported(f"ALTER TABLE .. {action_tree.sql(dialect='postgres')} is not supported")
        for item in action_tree.expressions:
            read_constraint(definition, item)

    def action(session: StorageSession, transaction: Transaction, catalog: Catalog) -> list[CatalogChange] | None:
        table = find_table(session, catalog, named, name)
        if table is None and tree.args.get("exists"):
            return []
        table = need_table(session, catalog, named, name)
        need_owner(session, catalog, table)
        if not lock_tables(session, transaction, [table]):
            return None
        if any(key[2] for key in definition.keys) and table.primary_key is not None:
            raise OrbitError(f'multiple primary keys for table "{name}" are not allowed', sqlstate="42P16")
        ids = _ids(catalog)
        taken = _relation_names(catalog, table.schema) | {check.name for check in table.checks}
        columns, indexes = build_keys(name, table.columns, definition.keys, lambda: next(ids), taken)
        checks = build_checks(name, columns, definition.checks, lambda: next(ids), taken)
        changed = msgspec.structs.replace(
            table,
            columns=tuple(columns),
            indexes=(*table.indexes, *indexes),
            checks=(*table.checks, *checks),
        )
        session.planner.check_table(session, changed)
        verify_rows(session, transaction, table, changed)
        return [Put(changed)]

    return define("ALTER TABLE", action)


def lock_tables(session: StorageSession, transaction: Transaction, tables: Sequence[Table]) -> bool:
    """Wait for the writers of these tables. False: queued."""
    for table in tables:
        store = session.engine.store_to_define(transaction, table)
        if not session.engine.enter(transaction, store, Mode.TABLE_DEFINE):
            return False
    return True


def _create_index(tree: exp.Expr) -> ControlPlan:
    index = tree.this
    if not tree.args.get("unique"):
        raise NotSupported("indexes that are not unique are not supported")
    params = index.args.get("params")
    if params is None or params.args.get("where") is not None:
        raise NotSupported("partial indexes are not supported")
    if params.args.get("using") is not None and params.args["using"].name.lower() != "btree":
        raise NotSupported(f"index method {params.args['using'].name} is not supported")
    parts = [part.this if isinstance(part, exp.Ordered) else part for part in params.args.get("columns") or []]
    if not all(isinstance(part, exp.Column) for part in parts):
        raise NotSupported("indexes on expressions are not supported")
    names = tuple(identifier(part.this) for part in parts)
    named, table_name = target(index.args["table"])
    label = identifier(index.this) if index.this is not None else None

    def action(session: StorageSession, transaction: Transaction, catalog: Catalog) -> list[CatalogChange] | None:
        table = need_table(session, catalog, named, table_name)
        need_owner(session, catalog, table)
        taken = _relation_names(catalog, table.schema)
        if label in taken and tree.args.get("exists"):
            return []
        if not lock_tables(session, transaction, [table]):
            return None
        ids = _ids(catalog)
        stem = f"{table_name}_{'_'.join(names)}_idx"
        chosen = label or next(name for name in (stem, *(f"{stem}{n}" for n in range(1, 1000))) if name not in taken)
        _, built = build_keys(table_name, table.columns, [(chosen, names, False, True)], lambda: next(ids), taken)
        changed = msgspec.structs.replace(table, indexes=(*table.indexes, *built))
        verify_rows(session, transaction, table, changed)
        return [Put(changed)]

    return define("CREATE INDEX", action)


def _drop_table(tree: exp.Expr) -> ControlPlan:
    targets = list(dict.fromkeys(target(item) for item in tree.args.get("tables") or [tree.this]))

    def action(session: StorageSession, transaction: Transaction, catalog: Catalog) -> list[CatalogChange] | None:
        tables: list[Table] = []
        for named, name in targets:
            table = find_table(session, catalog, named, name)
            if table is None:
                if tree.args.get("exists"):
                    session.notice(f'table "{name}" does not exist, skipping', "00000")
                    continue
                raise OrbitError(f'table "{name}" does not exist', sqlstate="42P01")
            need_owner(session, catalog, table)
            tables.append(table)
        if not lock_tables(session, transaction, tables):
            return None
        owned = [sequence.id for table in tables for sequence in owned_sequences(catalog, table)]
        return [Drop(number) for number in dict.fromkeys((*(table.id for table in tables), *owned))]

    return define("DROP TABLE", action)


def _truncate(tree: exp.TruncateTable) -> ControlPlan:
    if str(tree.args.get("identity") or "").upper() == "RESTART":
        raise NotSupported("TRUNCATE .. RESTART IDENTITY is not supported")
    targets = [target(item) for item in tree.expressions]

    def action(session: StorageSession, transaction: Transaction, catalog: Catalog) -> list[CatalogChange] | None:
        tables = [need_table(session, catalog, named, name) for named, name in targets]
        for table in tables:
            need_owner(session, catalog, table)
        if not lock_tables(session, transaction, tables):
            return None
        ids = _ids(catalog)
        return [Put(msgspec.structs.replace(table, storage_id=next(ids))) for table in tables]

    return define("TRUNCATE TABLE", action)


# Schemas and roles.


def _create_schema(tree: exp.Expr) -> ControlPlan:
    name = _schema_name(tree.this)

    def action(session: StorageSession, transaction: Transaction, catalog: Catalog) -> list[CatalogChange] | None:
        need_superuser(session, catalog, f"create schema {name}")
        if catalog.schema(name) is not None:
            if tree.args.get("exists"):
                session.notice(f'schema "{name}" already exists, skipping', "42P06")
                return []
            raise OrbitError(f'schema "{name}" already exists', sqlstate="42P06")
        if name.startswith("pg_"):
            raise OrbitError(f'unacceptable schema name "{name}"', sqlstate="42939")
        return [Put(Schema(id=catalog.next_id, name=name, owner=session.user))]

    return define("CREATE SCHEMA", action)


def _schema_name(item: exp.Expr) -> str:
    """sqlglot reads a schema as a table that has only its schema part."""
    return identifier(item.args.get("db") or item.this)


def _drop_schema(tree: exp.Expr) -> ControlPlan:
    items = tree.args.get("tables") or [tree.this]
    names = list(dict.fromkeys(_schema_name(item) for item in items))

    def action(session: StorageSession, transaction: Transaction, catalog: Catalog) -> list[CatalogChange] | None:
        need_superuser(session, catalog, "drop schemas")
        changes: list[CatalogChange] = []
        for name in names:
            schema = catalog.schema(name)
            if schema is None:
                if tree.args.get("exists"):
                    session.notice(f'schema "{name}" does not exist, skipping', "00000")
                    continue
                raise OrbitError(f'schema "{name}" does not exist', sqlstate="3F000")
            inside = [table for table in catalog.tables() if table.schema == name]
            if inside and not tree.args.get("cascade"):
                raise OrbitError(
                    f"cannot drop schema {name} because other objects depend on it",
                    sqlstate="2BP01",
                    hint="Use DROP ... CASCADE to drop the dependent objects too.",
                )
            if not lock_tables(session, transaction, inside):
                return None
            changes.extend(Drop(table.id) for table in inside)
            changes.extend(Drop(item.id) for item in catalog.objects.values() if _is_sequence_in(item, name))
            changes.append(Drop(schema.id))
        return changes

    return define("DROP SCHEMA", action)


def _is_sequence_in(item: object, schema: str) -> bool:
    return isinstance(item, NumberSequence) and item.schema == schema


def _role(command: RoleCommand) -> ControlPlan:
    def action(session: StorageSession, transaction: Transaction, catalog: Catalog) -> list[CatalogChange] | None:
        own_password = (
            command.action == "alter" and command.names == (session.user,) and set(command.options) == {"password"}
        )
        if not own_password:
            need_superuser(session, catalog, f"{command.action} role")
        if command.action == "drop":
            return [Drop(role.id) for role in _roles_to_drop(session, catalog, command)]
        name = command.names[0]
        old = catalog.role(name)
        if command.action == "create":
            if old is not None:
                raise OrbitError(f'role "{name}" already exists', sqlstate="42710")
            old = Role(id=catalog.next_id, name=name, login=False)
        elif old is None:
            raise OrbitError(f'role "{name}" does not exist', sqlstate="42704")
        options = command.options
        return [
            Put(
                Role(
                    id=old.id,
                    name=name,
                    verifier=session.planner.verifier(options["password"]) if "password" in options else old.verifier,
                    login=options["login"] == "true" if "login" in options else old.login,
                    superuser=options["superuser"] == "true" if "superuser" in options else old.superuser,
                    member_of=(*old.member_of, str(options["in role"])) if "in role" in options else old.member_of,
                )
            )
        ]

    return define(f"{command.action.upper()} ROLE", action)


def _roles_to_drop(session: StorageSession, catalog: Catalog, command: RoleCommand) -> Iterator[Role]:
    for name in dict.fromkeys(command.names):
        role = catalog.role(name)
        if role is None:
            if not command.if_exists:
                raise OrbitError(f'role "{name}" does not exist', sqlstate="42704")
            session.notice(f'role "{name}" does not exist, skipping', "00000")
            continue
        if name == session.user:
            raise OrbitError("current user cannot be dropped", sqlstate="55006")
        if any(table.owner == name for table in catalog.tables()):
            raise OrbitError(f'role "{name}" cannot be dropped because some objects depend on it', sqlstate="2BP01")
        yield role


_PLANNERS: dict[tuple[type[exp.Expr], str], Callable[[exp.Expr], ControlPlan]] = {
    (exp.Create, "TABLE"): _create_table,
    (exp.Create, "INDEX"): _create_index,
    (exp.Create, "SCHEMA"): _create_schema,
    (exp.Create, "SEQUENCE"): create_sequence,
    (exp.Drop, "SEQUENCE"): drop_sequence,
    (exp.Alter, "TABLE"): _alter_table,
    (exp.Drop, "TABLE"): _drop_table,
    (exp.Drop, "SCHEMA"): _drop_schema,
}
