"""Column definitions and table constraints of CREATE TABLE and ALTER TABLE, from sqlglot's tree to catalog nouns.

Owns what a definition may say. A default or check is kept as SQL text; `check_expression` has bound it once before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
from sqlglot import exp

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.schema import Check, Column, Index
from orbit.kernel.types import Oid, SqlType
from services.storage.sql.bind.names import identifier

_TYPES: dict[exp.DType, Oid] = {
    exp.DType.BOOLEAN: Oid.BOOL,
    exp.DType.SMALLINT: Oid.INT2,
    exp.DType.INT: Oid.INT4,
    exp.DType.BIGINT: Oid.INT8,
    exp.DType.FLOAT: Oid.FLOAT4,
    exp.DType.DOUBLE: Oid.FLOAT8,
    exp.DType.DECIMAL: Oid.NUMERIC,
    exp.DType.TEXT: Oid.TEXT,
    exp.DType.VARCHAR: Oid.VARCHAR,
    exp.DType.CHAR: Oid.BPCHAR,
    exp.DType.BPCHAR: Oid.BPCHAR,
    exp.DType.NAME: Oid.NAME,
    exp.DType.VARBINARY: Oid.BYTEA,
    exp.DType.DATE: Oid.DATE,
    exp.DType.TIME: Oid.TIME,
    exp.DType.TIMESTAMP: Oid.TIMESTAMP,
    exp.DType.TIMESTAMPTZ: Oid.TIMESTAMPTZ,
    exp.DType.INTERVAL: Oid.INTERVAL,
    exp.DType.UUID: Oid.UUID,
    exp.DType.JSON: Oid.JSON,
    exp.DType.JSONB: Oid.JSONB,
}
_SERIAL = {exp.DType.SMALLSERIAL: Oid.INT2, exp.DType.SERIAL: Oid.INT4, exp.DType.BIGSERIAL: Oid.INT8}
MAX_NUMERIC_PRECISION = 1000
MAX_CHAR_LENGTH = 10_485_760


def column_type(kind: exp.Expr) -> SqlType:
    """Return a column's type. Raises 0A000 for a type that columns cannot have, 22023 for a bad modifier."""
    if not isinstance(kind, exp.DataType):
        raise NotSupported(f"type {kind.sql(dialect='postgres')} is not supported")
    oid = _TYPES.get(kind.this)
    if kind.this in _SERIAL:
        return SqlType(_SERIAL[kind.this])
    if kind.this is exp.DType.USERDEFINED:
        raise OrbitError(f'type "{kind.sql(dialect="postgres")}" does not exist', sqlstate="42704")
    if oid is None or kind.args.get("nested"):
        raise NotSupported(f"type {kind.sql(dialect='postgres').lower()} is not supported")
    numbers = [_integer(part) for part in kind.expressions if isinstance(part, exp.DataTypeParam)]
    if oid == Oid.NUMERIC and numbers:
        precision, scale = numbers[0], numbers[1] if len(numbers) > 1 else 0
        if not 1 <= precision <= MAX_NUMERIC_PRECISION:
            raise OrbitError(f"NUMERIC precision {precision} must be between 1 and 1000", sqlstate="22023")
        if not 0 <= scale <= precision:
            raise NotSupported(f"NUMERIC scale {scale} outside of its precision {precision} is not supported")
        return SqlType(oid, (precision << 16 | scale) + 4)
    if oid in (Oid.VARCHAR, Oid.BPCHAR):
        if not numbers:
            return SqlType(oid, 5 if kind.this is exp.DType.CHAR else -1)
        if not 1 <= numbers[0] <= MAX_CHAR_LENGTH:
            name = "varchar" if oid == Oid.VARCHAR else "char"
            raise OrbitError(f"length for type {name} must be between 1 and {MAX_CHAR_LENGTH}", sqlstate="22023")
        return SqlType(oid, numbers[0] + 4)
    if numbers and oid in (Oid.TIME, Oid.TIMESTAMP, Oid.TIMESTAMPTZ):
        return SqlType(oid, min(numbers[0], 6))
    if numbers:
        raise OrbitError(f'type modifier is not allowed for type "{kind.this.value.lower()}"', sqlstate="42601")
    return SqlType(oid)


def _integer(part: exp.DataTypeParam) -> int:
    try:
        return int(part.this.this)
    except (ValueError, AttributeError, TypeError) as error:
        raise OrbitError("type modifiers must be simple constants or identifiers", sqlstate="42601") from error


@dataclass(slots=True)
class Definition:
    """A table definition while it is read. `keys` are (constraint name or None, columns, primary, nulls distinct)."""

    columns: list[Column] = field(default_factory=list)
    keys: list[tuple[str | None, tuple[str, ...], bool, bool]] = field(default_factory=list)
    checks: list[tuple[str | None, exp.Expr]] = field(default_factory=list)
    counted: set[str] = field(default_factory=set)
    """Columns that a sequence of their own feeds: serial and identity."""


def read_definition(items: Sequence[exp.Expr]) -> Definition:
    """Read the parenthesized part of CREATE TABLE."""
    definition = Definition()
    for item in items:
        if isinstance(item, exp.ColumnDef):
            definition.columns.append(_read_column(definition, item, len(definition.columns) + 1))
        else:
            read_constraint(definition, item)
    names = [column.name for column in definition.columns]
    for name in names:
        if names.count(name) > 1:
            raise OrbitError(f'column "{name}" specified more than once', sqlstate="42701")
    return definition


def _read_column(definition: Definition, item: exp.ColumnDef, number: int) -> Column:
    name = identifier(item.this)
    if item.args.get("kind") is None:
        raise OrbitError(f'column "{name}" has no type', sqlstate="42601")
    column_kind = column_type(item.args["kind"])
    nullable = True
    default: str | None = None
    identity = ""
    if item.args["kind"].this in _SERIAL:
        definition.counted.add(name)
        nullable = False
    for constraint in item.args.get("constraints") or ():
        label = constraint.args.get("this")
        label_name = identifier(label) if isinstance(label, exp.Identifier) else None
        kind = constraint.args.get("kind")
        if isinstance(kind, exp.NotNullColumnConstraint):
            nullable = bool(kind.args.get("allow_null"))
        elif isinstance(kind, exp.DefaultColumnConstraint):
            default = kind.this.sql(dialect="postgres")
        elif isinstance(kind, exp.PrimaryKeyColumnConstraint):
            definition.keys.append((label_name, (name,), True, True))
        elif isinstance(kind, exp.UniqueColumnConstraint):
            definition.keys.append((label_name, (name,), False, not kind.args.get("nulls")))
        elif isinstance(kind, exp.CheckColumnConstraint):
            definition.checks.append((label_name, kind.this))
        elif isinstance(kind, exp.Reference):
            raise NotSupported("FOREIGN KEY constraints are not supported")
        elif isinstance(kind, exp.GeneratedAsIdentityColumnConstraint):
            identity, nullable = _identity(kind, name, column_kind), False
            definition.counted.add(name)
        elif isinstance(kind, exp.CollateColumnConstraint):
            raise NotSupported("COLLATE is not supported: text is ordered by its bytes")
        else:
            raise NotSupported(f"column constraint {constraint.sql(dialect='postgres')} is not supported")
    return Column(number=number, name=name, type=column_kind, nullable=nullable, default=default, identity=identity)


def _identity(kind: exp.Expr, name: str, column_kind: SqlType) -> str:
    """Return `a` for GENERATED ALWAYS AS IDENTITY, `d` for BY DEFAULT. Its options are refused."""
    if kind.args.get("expression") is not None:
        raise NotSupported("generated columns are not supported")
    if any(kind.args.get(option) is not None for option in ("start", "increment", "minvalue", "maxvalue", "cycle")):
        raise NotSupported("options of identity columns are not supported")
    if column_kind.oid not in (Oid.INT2, Oid.INT4, Oid.INT8):
        raise OrbitError("identity column type must be smallint, integer, or bigint", sqlstate="22023", column=name)
    return "a" if kind.this else "d"


def read_constraint(definition: Definition, item: exp.Expr, label: str | None = None) -> None:
    """Read a table constraint, also one of ALTER TABLE .. ADD."""
    if isinstance(item, exp.Constraint):
        for part in item.expressions:
            read_constraint(definition, part, identifier(item.this))
    elif isinstance(item, exp.PrimaryKey):
        definition.keys.append((label, _names(item.expressions), True, True))
    elif isinstance(item, exp.UniqueColumnConstraint):
        columns = item.this.expressions if isinstance(item.this, exp.Schema) else []
        definition.keys.append((label, _names(columns), False, not item.args.get("nulls")))
    elif isinstance(item, exp.CheckColumnConstraint):
        definition.checks.append((label, item.this))
    elif isinstance(item, exp.ForeignKey):
        raise NotSupported("FOREIGN KEY constraints are not supported")
    elif isinstance(item, exp.LikeProperty):
        raise NotSupported("CREATE TABLE .. LIKE is not supported")
    else:
        raise NotSupported(f"constraint {item.sql(dialect='postgres')} is not supported")


def _names(parts: Sequence[exp.Expr]) -> tuple[str, ...]:
    names: list[str] = []
    for part in parts:
        inner = part.this if isinstance(part, exp.Ordered) else part
        if not isinstance(inner, (exp.Identifier, exp.Column)):
            raise NotSupported("expressions in constraints are not supported")
        names.append(identifier(inner.this if isinstance(inner, exp.Column) else inner))
    return tuple(names)


def build_keys(
    table: str,
    columns: Sequence[Column],
    keys: Sequence[tuple[str | None, tuple[str, ...], bool, bool]],
    new_id: Callable[[], int],
    taken: set[str],
) -> tuple[list[Column], list[Index]]:
    """Return the columns (primary key columns made NOT NULL) and the indexes of key constraints."""
    by_name = {column.name: column for column in columns}
    indexes: list[Index] = []
    for label, names, primary, nulls_distinct in keys:
        if primary and any(index.primary for index in indexes):
            raise OrbitError(f'multiple primary keys for table "{table}" are not allowed', sqlstate="42P16")
        for at, name in enumerate(names):
            if name not in by_name:
                raise OrbitError(f'column "{name}" named in key does not exist', sqlstate="42703")
            if name in names[:at]:
                raise OrbitError(f'column "{name}" appears twice in key constraint', sqlstate="42701")
            if primary:
                column = by_name[name]
                by_name[name] = msgspec.structs.replace(column, nullable=False)
        stem = f"{table}_pkey" if primary else f"{table}_{'_'.join(names)}_key"
        indexes.append(
            Index(
                id=new_id(),
                name=_free_name(label, stem, taken),
                columns=tuple(by_name[name].number for name in names),
                unique=True,
                primary=primary,
                nulls_distinct=nulls_distinct,
            )
        )
    return [by_name[column.name] for column in columns], indexes


def build_checks(
    table: str,
    columns: Sequence[Column],
    checks: Sequence[tuple[str | None, exp.Expr]],
    new_id: Callable[[], int],
    taken: set[str],
) -> list[Check]:
    built: list[Check] = []
    names = {column.name for column in columns}
    for label, expression in checks:
        mentioned = [identifier(column.this) for column in expression.find_all(exp.Column)]
        used = [name for name in mentioned if name in names]
        stem = f"{table}_{used[0]}_check" if len(set(used)) == 1 else f"{table}_check"
        built.append(
            Check(id=new_id(), name=_free_name(label, stem, taken), expression=expression.sql(dialect="postgres"))
        )
    return built


def _free_name(label: str | None, stem: str, taken: set[str]) -> str:
    """Return the given name, or PostgreSQL's generated one, numbered when it is taken."""
    if label is not None:
        if label in taken:
            raise OrbitError(f'relation "{label}" already exists', sqlstate="42P07")
        taken.add(label)
        return label
    name, number = stem[:63], 0
    while name in taken:
        number += 1
        name = f"{stem[:60]}{number}"
    taken.add(name)
    return name
