"""From statement text to plans: parsing, binding, choosing, caching.

Owns the plan caches and what every session's plans share. A cache space belongs to one catalog and search path, so
a plan can never outlive what it was bound to; a transaction that changes the catalog has a space of its own.

Literals of a simple query are lifted to parameters when the statement then is a point plan, so that `WHERE id = 7` and
`WHERE id = 8` share one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from orbit.kernel.errors import InvalidValue, NotSupported, OrbitError
from orbit.kernel.limits import PLAN_CACHE_ENTRIES
from orbit.kernel.schema import Catalog, Check, Column, Table
from orbit.kernel.types import Oid, SqlType
from services.storage.engine import Engine
from services.storage.sql.bind import BindContext, Binder, bind_query, bind_select_statement, finish
from services.storage.sql.control import plan_control
from services.storage.sql.copy import plan_copy_in
from services.storage.sql.copy_out import plan_copy_out
from services.storage.sql.ddl.names import need_table
from services.storage.sql.ddl.statements import plan_ddl
from services.storage.sql.dml.binding import bind_change, bind_insert
from services.storage.sql.dml.rules import RowCheck, TableRules
from services.storage.sql.dml.write import compile_change, compile_insert
from services.storage.sql.parse import Kind, Statement, parse
from services.storage.sql.parse.statement import CopyCommand
from services.storage.sql.plan import ControlPlan, Plan
from services.storage.sql.queries import QueryPlanner
from services.storage.sql.settings import Settings
from services.storage.txn.transaction import Isolation, Transaction

if TYPE_CHECKING:
    from services.storage.session import StorageSession
    from services.storage.sql.prepared import PreparedStatement

_LITERAL = re.compile(r"('(?:[^']|'')*'|(?<=[\s=(,+*/<>])-?\d+(?:\.\d+)?\b)")
_QUERIES = (Kind.SELECT, Kind.INSERT, Kind.UPDATE, Kind.DELETE)
_DEFINITIONS = (Kind.CREATE, Kind.ALTER, Kind.DROP, Kind.TRUNCATE, Kind.ROLE)
_INTEGERS = {Oid.INT2: (-(1 << 15), 1 << 15), Oid.INT4: (-(1 << 31), 1 << 31), Oid.INT8: (-(1 << 63), 1 << 63)}
_QUOTABLE = frozenset((Oid.TEXT, Oid.VARCHAR, Oid.DATE, Oid.TIMESTAMP, Oid.UUID, Oid.JSON, Oid.JSONB))

Lifted = tuple[Plan, tuple[Callable[[str], Any], ...]]


class PlanSpace:
    """The plans bound to one catalog and search path."""

    __slots__ = ("catalog", "lifted", "path", "plans", "rules")

    def __init__(self, catalog: Catalog, path: tuple[str, ...]) -> None:
        self.catalog = catalog
        self.path = path
        self.plans: dict[tuple[str, tuple[int, ...]], Plan] = {}
        self.lifted: dict[str, Lifted | None] = {}
        self.rules: dict[int, TableRules] = {}


class Planner:
    """Makes plans for the sessions of one node."""

    def __init__(
        self,
        engine: Engine,
        queries: QueryPlanner,
        *,
        default_isolation: Isolation,
        make_verifier: Callable[[str], str],
        session_closed: Callable[[StorageSession], None],
    ) -> None:
        self.engine = engine
        self.default_isolation = default_isolation
        self.forget = session_closed
        self._queries = queries
        self._make_verifier = make_verifier
        self._spaces: dict[tuple[str, ...], PlanSpace] = {}
        self.cache_hits = 0

    # For sessions.

    def key_of(self, session: StorageSession) -> PlanSpace:
        """Return the space that the session's next statement is planned in."""
        catalog = self.engine.catalog(session.transaction)
        path = session.settings.search_path
        space = session.space
        if space is not None and space.catalog is catalog and space.path == path:
            return space
        if catalog is self.engine.state.catalog:
            space = self._spaces.get(path)
            if space is None or space.catalog is not catalog:
                space = self._spaces[path] = PlanSpace(catalog, path)
        else:
            space = PlanSpace(catalog, path)
        session.space = space
        return space

    def plan_text(self, session: StorageSession, sql: str, oids: tuple[int, ...]) -> tuple[Plan, PlanSpace]:
        """Return the plan of one statement's text. An empty text has a plan that answers nothing."""
        space = self.key_of(session)
        plan = space.plans.get((sql, oids))
        if plan is None:
            statements = parse(sql)
            if len(statements) > 1:
                raise OrbitError("cannot insert multiple commands into a prepared statement", sqlstate="42601")
            plan = self.plan_statement(session, statements[0], oids) if statements else _EMPTY
            _remember(space.plans, (sql, oids), plan)
        else:
            self.cache_hits += 1
        return plan, space

    def replan(self, session: StorageSession, statement: PreparedStatement) -> tuple[Plan, PlanSpace]:
        """Plan a prepared statement again. Raises 0A000 when its result has changed, as PostgreSQL does."""
        plan, space = self.plan_text(session, statement.sql, tuple(statement.parameter_oids))
        old, new = statement.plan.columns, plan.columns
        if (old is None) != (new is None) or [item.type for item in old or ()] != [item.type for item in new or ()]:
            raise NotSupported("cached plan must not change result type")
        return plan, space

    def script(self, session: StorageSession, sql: str) -> list[Any]:
        """Return what a simple query consists of: one lifted point plan, or parsed statements."""
        space = self.key_of(session)
        parts = _LITERAL.split(sql)
        template = "$".join(parts[::2])
        literals = parts[1::2]
        if template in space.lifted:
            lifted = space.lifted[template]
        else:
            lifted = self._lift(session, parts)
            _remember(space.lifted, template, lifted)
        if lifted is not None:
            try:
                values = [convert(text) for convert, text in zip(lifted[1], literals, strict=True)]
            except (ValueError, OverflowError, InvalidValue):
                return list(parse(sql))
            self.cache_hits += 1
            return [(lifted[0], values)]
        known = space.plans.get((sql, ()))
        if known is not None and not known.parameter_types:
            self.cache_hits += 1
            return [(known, ())]
        statements = parse(sql)
        if len(statements) == 1 and statements[0].kind in _QUERIES:
            plan = self.plan_statement(session, statements[0], ())
            if plan.parameter_types:
                raise OrbitError("there is no parameter $1", sqlstate="42P02")
            _remember(space.plans, (sql, ()), plan)
            return [(plan, ())]
        return list(statements)

    def script_plan(self, session: StorageSession, item: Any) -> tuple[Plan, Sequence[Any]]:
        """Return the plan and parameters of one item of a script. Statements are planned when their turn comes."""
        if isinstance(item, Statement):
            plan = self.plan_statement(session, item, ())
            if plan.parameter_types:
                raise OrbitError("there is no parameter $1", sqlstate="42P02")
            return plan, ()
        plan, values = item
        return plan, values

    def plan_statement(self, session: StorageSession, statement: Statement, oids: tuple[int, ...]) -> Plan:
        """Return a new plan. Raises what parsing and binding raise, and 0A000 by the feature's name."""
        control = plan_control(statement)
        if control is not None:
            return control
        if statement.kind in _DEFINITIONS:
            return plan_ddl(statement)
        context = self.bind_context(session)
        if statement.kind is Kind.SELECT:
            plan: Plan = self._queries.plan(bind_select_statement(statement, context, oids))
            return plan
        if statement.kind is Kind.COPY:
            assert isinstance(statement.command, CopyCommand)
            if statement.command.from_client:
                return plan_copy_in(statement.command)
            return plan_copy_out(self._queries, session, context, statement.command)
        if statement.kind in (Kind.INSERT, Kind.UPDATE, Kind.DELETE):
            return self._plan_write(session, statement, context, oids)
        raise NotSupported(f"{statement.kind.value.upper()} is not supported")

    def isolation_of(self, settings: Settings) -> Isolation:
        level = settings.get("default_transaction_isolation")
        if level == "read committed":
            return self.default_isolation
        return Isolation.READ_COMMITTED if level == "read uncommitted" else Isolation(level)

    def roll_back(self, transaction: Transaction) -> None:
        self.engine.rollback(transaction)

    # For plans.

    def bind_context(self, session: StorageSession) -> BindContext:
        return BindContext(
            self.engine.catalog(session.transaction), session.settings.search_path, self._queries.system_tables
        )

    def rules(self, session: StorageSession, table: Table) -> TableRules:
        """Return a table's compiled rules."""
        space = self.key_of(session)
        rules = space.rules.get(table.id)
        if rules is None or rules.table is not table:
            rules = space.rules[table.id] = TableRules(self.bind_context(session), table)
        return rules

    def check_table(self, session: StorageSession, table: Table) -> None:
        """Bind a new definition's defaults and checks once, so that what is wrong fails now."""
        TableRules(self.bind_context(session), table)

    def compile_checks(self, session: StorageSession, table: Table, checks: Sequence[Check]) -> list[RowCheck]:
        if not checks:
            return []
        rules = TableRules(self.bind_context(session), table)
        return rules.checks_of(checks, session.evaluation_context())

    def default_value(self, session: StorageSession, table: Table, column: Column) -> Any:
        rules = self.rules(session, table)
        return rules.default(table.columns.index(column), session.evaluation_context())

    def need_privilege(self, session: StorageSession, table: Table, privilege: str) -> None:
        """Raise 42501 unless the session's user has a privilege on a table."""
        role = self.engine.state.catalog.role(session.user)
        if role is not None and (role.superuser or table.owner in (role.name, *role.member_of)):
            return
        names = ("public",) if role is None else ("public", role.name, *role.member_of)
        if not any(privilege in table.grants.get(name, ()) for name in names):
            raise OrbitError(f"permission denied for table {table.name}", sqlstate="42501", table=table.name)

    def verifier(self, password: str | None) -> str | None:
        """Return what is stored of a password: its verifier, or itself when it already is one."""
        if password is None or password.startswith("SCRAM-SHA-256$"):
            return password
        return self._make_verifier(password)

    def _plan_write(
        self, session: StorageSession, statement: Statement, context: BindContext, oids: tuple[int, ...]
    ) -> Plan:
        binder = Binder(context, oids)
        catalog = context.catalog

        def find(schema: str | None, name: str) -> Table:
            return need_table(session, catalog, schema, name)

        tree: Any = statement.tree
        if statement.kind is Kind.INSERT:
            bound = bind_insert(binder, find, lambda query: finish(binder, bind_query(binder, None, query)), tree)
            source = None if bound.query is None else self._queries.plan(bound.query)
            rules = self.rules(session, bound.relation.table)
            return compile_insert(bound, rules, binder.parameters.final(), source)
        change = bind_change(binder, find, tree)
        return compile_change(change, self.rules(session, change.relation.table), binder.parameters.final())

    def _lift(self, session: StorageSession, parts: list[str]) -> Lifted | None:
        """Try a text with its literals as parameters. None when that is not surely the same statement."""
        literals = parts[1::2]
        if not literals or any("--" in part or "/*" in part or "$" in part for part in parts[::2]):
            return None
        text = parts[0] + "".join(f"${n} {part}" for n, part in enumerate(parts[2::2], 1))
        try:
            statements = parse(text)
            if len(statements) != 1 or statements[0].kind not in _QUERIES:
                return None
            plan = self.plan_statement(session, statements[0], ())
        except OrbitError:
            return None
        if len(plan.parameter_types) != len(literals) or not getattr(plan, "is_point", False):
            return None
        converters = [_converter(kind, text) for kind, text in zip(plan.parameter_types, literals, strict=True)]
        if any(convert is None for convert in converters):
            return None
        return plan, tuple(convert for convert in converters if convert is not None)


def _converter(kind: SqlType, text: str) -> Callable[[str], Any] | None:
    """Return how a literal becomes the parameter's value, or None when the types would not meet as they do in SQL."""
    quoted = text.startswith("'")
    if kind.oid in _INTEGERS and not quoted and "." not in text:
        low, high = _INTEGERS[kind.oid]  # type: ignore[index]

        def integer(literal: str) -> int:
            value = int(literal)
            if not low <= value < high:
                raise OverflowError
            return value

        return integer
    if kind.oid in (Oid.TEXT, Oid.VARCHAR) and quoted:
        return _unquoted
    return None


def _unquoted(literal: str) -> str:
    if not literal.startswith("'"):
        raise ValueError(literal)
    return literal[1:-1].replace("''", "'")


def _remember(cache: dict[Any, Any], key: Any, value: Any) -> None:
    if len(cache) >= PLAN_CACHE_ENTRIES:
        cache.clear()
    cache[key] = value


_EMPTY = ControlPlan(lambda session: b"I\x00\x00\x00\x04", in_failed_block=True)
"""An empty statement: EmptyQueryResponse."""
