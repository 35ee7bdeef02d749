"""Transaction control, settings and maintenance statements as plans.

Owns their command tags, warnings and errors; the session does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.types import Oid, SqlType
from services.storage.client import IDLE, ColumnDescription
from services.storage.sql.answer import command_complete
from services.storage.sql.ddl.names import need_table
from services.storage.sql.parse.statement import (
    Kind,
    NameCommand,
    SettingCommand,
    Statement,
    TransactionCommand,
    TransactionModes,
)
from services.storage.sql.plan import ControlPlan, Plan
from services.storage.txn.locks import Mode
from services.storage.txn.transaction import Isolation

if TYPE_CHECKING:
    from services.storage.session import StorageSession

_TEXT = SqlType(Oid.TEXT)


def isolation_named(name: str) -> Isolation:
    """Return the isolation level by its SQL name. SERIALIZABLE is refused until its read sets are validated."""
    level = name.replace("_", " ").lower()
    if level in ("read uncommitted", "read committed"):
        return Isolation.READ_COMMITTED
    if level == "serializable":
        raise NotSupported("isolation level SERIALIZABLE is not supported")
    return Isolation(level)


def _isolation(modes: TransactionModes) -> Isolation | None:
    return None if modes.isolation is None else isolation_named(modes.isolation)


def _begin(command: TransactionCommand) -> Plan:
    answer = command_complete("BEGIN")

    def run(session: StorageSession) -> bytes:
        if not session.begin_block(_isolation(command.modes), command.modes.read_only):
            session.notice("there is already a transaction in progress", "25001", "WARNING")
        return answer

    return ControlPlan(run)


def _commit(command: TransactionCommand) -> Plan:
    _refuse_chain(command)
    committed, rolled_back = command_complete("COMMIT"), command_complete("ROLLBACK")

    def run(session: StorageSession) -> bytes | None:
        if session.status == IDLE:
            session.notice("there is no transaction in progress", "25P01", "WARNING")
        return session.commit_block(committed, rolled_back)

    return ControlPlan(run, in_failed_block=True)


def _rollback(command: TransactionCommand) -> Plan:
    _refuse_chain(command)
    answer = command_complete("ROLLBACK")

    def run(session: StorageSession) -> bytes:
        if session.status == IDLE:
            session.notice("there is no transaction in progress", "25P01", "WARNING")
        session.roll_back()
        return answer

    return ControlPlan(run, in_failed_block=True)


def _refuse_chain(command: TransactionCommand) -> None:
    if command.chain:
        raise NotSupported("AND CHAIN is not supported")


def _savepoint(command: TransactionCommand) -> Plan:
    name = command.name or ""
    return _call("SAVEPOINT", lambda session: session.savepoint(name))


def _release(command: TransactionCommand) -> Plan:
    name = command.name or ""
    return _call("RELEASE", lambda session: session.release(name))


def _rollback_to(command: TransactionCommand) -> Plan:
    name = command.name or ""
    return _call("ROLLBACK", lambda session: session.rollback_to(name), in_failed_block=True)


def _set_transaction(command: TransactionCommand) -> Plan:
    if command.session:
        if command.modes.isolation is None:
            raise NotSupported("SET SESSION CHARACTERISTICS without an isolation level is not supported")
        level = command.modes.isolation
        return _call("SET", lambda session: session.settings.set("default_transaction_isolation", level))

    def act(session: StorageSession) -> None:
        if session.status == IDLE:
            session.notice("SET TRANSACTION can only be used in transaction blocks", "25P01", "WARNING")
        else:
            session.set_modes(_isolation(command.modes), command.modes.read_only)

    return _call("SET", act)


def _call(tag: str, act: Callable[[StorageSession], None], in_failed_block: bool = False) -> Plan:
    answer = command_complete(tag)

    def run(session: StorageSession) -> bytes:
        act(session)
        return answer

    return ControlPlan(run, in_failed_block=in_failed_block)


def _set(command: SettingCommand) -> Plan:
    name = command.name

    def act(session: StorageSession) -> None:
        if command.local:
            # Undone at the end of the transaction, which a session keeps only for rollbacks.
            raise NotSupported("SET LOCAL is not supported")
        if name.lower() == "transaction_isolation" and command.values:
            session.set_modes(isolation_named(command.values[0]), None)
        elif command.values is None:
            session.settings.reset(name)
        elif name.lower() == "default_transaction_isolation":
            isolation_named(command.values[0])
            session.settings.set(name, command.values[0])
        else:
            session.settings.set(name, ", ".join(command.values))

    return _call("SET", act)


def _reset(command: SettingCommand) -> Plan:
    if command.name.lower() == "all":
        return _call("RESET", lambda session: session.settings.reset_all())
    return _call("RESET", lambda session: session.settings.reset(command.name))


@dataclass(frozen=True, slots=True)
class ShowPlan:
    """SHOW name, or SHOW ALL."""

    name: str
    columns: tuple[ColumnDescription, ...]
    parameter_types: tuple[SqlType, ...] = ()
    in_failed_block: bool = False

    def run(self, session: StorageSession, parameters: Sequence[Any], formats: Sequence[int]) -> bytes:
        if self.name.lower() == "all":
            rows = [(name, value, "") for name, value in session.settings.everything()]
        elif self.name.lower() == "transaction_isolation":
            rows = [(session.isolation.value,)]  # type: ignore[list-item]
        else:
            rows = [(session.settings.get(self.name),)]  # type: ignore[list-item]
        encode = session.encoder(self.columns, formats)
        return b"".join([encode(row) for row in rows]) + command_complete("SHOW")


def _show(command: SettingCommand) -> Plan:
    names = ("name", "setting", "description") if command.name.lower() == "all" else (command.name.lower(),)
    shown = {"timezone": "TimeZone", "datestyle": "DateStyle", "intervalstyle": "IntervalStyle"}
    return ShowPlan(command.name, tuple(ColumnDescription(shown.get(name, name), _TEXT) for name in names))


def _discard(command: NameCommand) -> Plan:
    if command.option not in ("all", "plans"):
        raise NotSupported(f"DISCARD {command.option.upper()} is not supported")

    def act(session: StorageSession) -> None:
        if session.status != IDLE:
            raise OrbitError("DISCARD ALL cannot run inside a transaction block", sqlstate="25001")
        if command.option == "all":
            session.settings.reset_all()

    return _call(f"DISCARD {command.option.upper()}", act)


def _deallocate(command: NameCommand) -> Plan:
    """Statements prepared through the protocol belong to the gateway; there are none made by PREPARE."""
    if command.names:
        name = command.names[0][1]

        def fail(session: StorageSession) -> None:
            raise OrbitError(f'prepared statement "{name}" does not exist', sqlstate="26000")

        return _call("DEALLOCATE", fail)
    raise NotSupported("DEALLOCATE ALL is not supported")


def _lock(command: NameCommand) -> Plan:
    exclusive = command.option.startswith(("exclusive", "access exclusive", "share row exclusive"))
    if not exclusive:
        raise NotSupported(f"LOCK TABLE in {command.option.upper()} mode is not supported")
    answer = command_complete("LOCK TABLE")

    def run(session: StorageSession) -> bytes | None:
        if session.status == IDLE:
            raise OrbitError("LOCK TABLE can only be used in transaction blocks", sqlstate="25P01")
        transaction = session.transaction_for_write()
        for named, name in command.names:
            table = need_table(session, session.engine.catalog(transaction), named, name)
            session.planner.need_privilege(session, table, "UPDATE")
            store = session.engine.store(transaction, table)
            if not session.engine.enter(transaction, store, Mode.TABLE_DEFINE):
                return None
        return answer

    return ControlPlan(run)


def _maintain(tag: str) -> Callable[[NameCommand], Plan]:
    def plan(command: NameCommand) -> Plan:
        def act(session: StorageSession) -> None:
            if tag == "VACUUM" and session.status != IDLE:
                raise OrbitError("VACUUM cannot run inside a transaction block", sqlstate="25001")
            catalog = session.engine.catalog(session.transaction)
            tables = [need_table(session, catalog, named, name) for named, name in command.names] or catalog.tables()
            if tag == "VACUUM":
                # Statistics are exact at every seal, so ANALYZE finds nothing to do; VACUUM drops dead versions now.
                for table in tables:
                    session.engine.store(session.transaction, table).collect(session.engine.state.oldest_snapshot())

        return _call(tag, act)

    return plan


_PLANNERS: dict[Kind, Callable[[Any], Plan]] = {
    Kind.BEGIN: _begin,
    Kind.COMMIT: _commit,
    Kind.ROLLBACK: _rollback,
    Kind.SAVEPOINT: _savepoint,
    Kind.RELEASE: _release,
    Kind.ROLLBACK_TO: _rollback_to,
    Kind.SET_TRANSACTION: _set_transaction,
    Kind.SET: _set,
    Kind.RESET: _reset,
    Kind.SHOW: _show,
    Kind.DISCARD: _discard,
    Kind.DEALLOCATE: _deallocate,
    Kind.LOCK: _lock,
    Kind.VACUUM: _maintain("VACUUM"),
    Kind.ANALYZE: _maintain("ANALYZE"),
}


def plan_control(statement: Statement) -> Plan | None:
    """Return the plan of a control statement, None for another kind."""
    planner = _PLANNERS.get(statement.kind)
    return None if planner is None else planner(statement.command)
