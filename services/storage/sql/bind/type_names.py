"""sqlglot's type nodes to PostgreSQL types with their modifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlglot import exp

from orbit.kernel.errors import OrbitError
from orbit.kernel.types import Oid, SqlType
from services.storage.sql.bind import errors
from services.storage.sql.bind.type_catalog import ALIASES, BY_NAME, array_of

_D = exp.DType
_PLAIN: Final[dict[exp.DType, int]] = {
    _D.BOOLEAN: Oid.BOOL,
    _D.SMALLINT: Oid.INT2,
    _D.INT: Oid.INT4,
    _D.BIGINT: Oid.INT8,
    _D.FLOAT: Oid.FLOAT4,
    _D.DOUBLE: Oid.FLOAT8,
    _D.DECIMAL: Oid.NUMERIC,
    _D.CHAR: Oid.BPCHAR,
    _D.BPCHAR: Oid.BPCHAR,
    _D.VARCHAR: Oid.VARCHAR,
    _D.TEXT: Oid.TEXT,
    _D.NAME: Oid.NAME,
    _D.VARBINARY: Oid.BYTEA,
    _D.DATE: Oid.DATE,
    _D.TIME: Oid.TIME,
    _D.TIMESTAMP: Oid.TIMESTAMP,
    _D.TIMESTAMPTZ: Oid.TIMESTAMPTZ,
    _D.INTERVAL: Oid.INTERVAL,
    _D.UUID: Oid.UUID,
    _D.JSON: Oid.JSON,
    _D.JSONB: Oid.JSONB,
}
MAX_NUMERIC_PRECISION: Final = 1000
MAX_CHARACTERS: Final = 10485760


def type_of(node: exp.Expr) -> SqlType:
    """Return the type that a type node names. Raises 42704 for one that does not exist, 22023 for bad modifiers."""
    if isinstance(node, exp.ObjectIdentifier):
        return _named(node.name.lower(), node)
    if not isinstance(node, exp.DataType):
        raise errors.unsupported(f"type {node.sql('postgres')}", node)
    kind = node.this
    if isinstance(kind, exp.Interval):
        raise errors.unsupported("interval with fields", node)
    if kind == _D.ARRAY:
        element = type_of(node.expressions[0]) if node.expressions else SqlType(Oid.TEXT)
        array = array_of(element.oid)
        if array is None:
            raise errors.unsupported("array of arrays", node)
        return SqlType(array, element.modifier)
    if kind == _D.USERDEFINED:
        return _user_defined(node)
    oid = _PLAIN.get(kind)
    if oid is None:
        raise undefined_type(str(kind.value).lower(), node)
    modifiers = [_modifier(item) for item in node.expressions]
    return SqlType(oid, _pack(oid, modifiers, node))


def undefined_type(name: str, node: exp.Expr) -> OrbitError:
    return OrbitError(f'type "{name}" does not exist', sqlstate="42704", position=errors.position_of(node))


def _user_defined(node: exp.DataType) -> SqlType:
    kind = node.args.get("kind")
    if isinstance(kind, exp.Dot) and isinstance(kind.this, exp.Identifier):
        if kind.this.name.lower() == "pg_catalog":
            return _named(
                kind.expression.name if kind.expression.args.get("quoted") else kind.expression.name.lower(), node
            )
        raise undefined_type(f"{kind.this.name}.{kind.expression.name}", node)
    if isinstance(kind, exp.Identifier):
        return _named(kind.name if kind.args.get("quoted") else kind.name.lower(), node)
    raise undefined_type(node.sql("postgres"), node)


def _named(name: str, node: exp.Expr) -> SqlType:
    if name in BY_NAME:
        return SqlType(BY_NAME[name].oid)
    if name in ALIASES:
        return SqlType(ALIASES[name])
    if name.startswith("_") and name[1:] in BY_NAME and BY_NAME[name[1:]].array:
        return SqlType(BY_NAME[name[1:]].array)
    raise undefined_type(name, node)


def _modifier(node: exp.Expr) -> int:
    inner = node.this if isinstance(node, exp.DataTypeParam) else node
    if isinstance(inner, exp.Literal) and not inner.is_string and inner.name.isdigit():
        return int(inner.name)
    raise OrbitError("type modifiers must be simple constants", sqlstate="42601", position=errors.position_of(node))


def _pack(oid: int, modifiers: Sequence[int], node: exp.Expr) -> int:
    def fail(message: str, sqlstate: str = "22023") -> OrbitError:
        return OrbitError(message, sqlstate=sqlstate, position=errors.position_of(node))

    if not modifiers:
        # char without a length is char(1); bpchar without one has no limit.
        return 5 if oid == Oid.BPCHAR and node.this == _D.CHAR else -1
    if oid == Oid.NUMERIC:
        precision, scale = modifiers[0], modifiers[1] if len(modifiers) > 1 else 0
        if not 1 <= precision <= MAX_NUMERIC_PRECISION:
            raise fail(f"NUMERIC precision {precision} must be between 1 and {MAX_NUMERIC_PRECISION}")
        if not 0 <= scale <= MAX_NUMERIC_PRECISION:
            raise fail(f"NUMERIC scale {scale} must be between -1000 and 1000")
        return (precision << 16 | scale) + 4
    if oid in (Oid.VARCHAR, Oid.BPCHAR):
        name = "varchar" if oid == Oid.VARCHAR else "char"
        if modifiers[0] < 1:
            raise fail(f"length for type {name} must be at least 1")
        if modifiers[0] > MAX_CHARACTERS:
            raise fail(f"length for type {name} cannot exceed {MAX_CHARACTERS}")
        return modifiers[0] + 4
    if oid in (Oid.TIME, Oid.TIMESTAMP, Oid.TIMESTAMPTZ):
        return min(modifiers[0], 6)
    if oid == Oid.INTERVAL:
        return 0x7FFF << 16 | min(modifiers[0], 6)
    raise fail(f'type modifier is not allowed for type "{BY_NAME_OF[oid]}"', "42601")


BY_NAME_OF: Final = {item.oid: item.name for item in BY_NAME.values()}
