"""What the expressions of a session's statement may know: times, settings, names, sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from services.storage.sql.evaluate import EvaluationContext
from services.storage.sql.session_sequences import SessionSequences

if TYPE_CHECKING:
    from services.storage.session import StorageSession


def context_of(
    session: StorageSession, started_us: int, sequences: SessionSequences, set_setting: Callable[[str, str, bool], str]
) -> EvaluationContext:
    """Return the context of the statement that runs now. A transaction's time is that of its beginning."""
    engine, transaction, settings = session.engine, session.transaction, session.settings
    statement_us = engine.clock.now_us()
    return EvaluationContext(
        now_us=statement_us if transaction is None else transaction.started_us,
        statement_us=statement_us,
        zone=settings.zone,
        user=session.user,
        session_user=session.user,
        database=session.database,
        search_path=settings.search_path,
        catalog=engine.catalog(transaction),
        setting=settings.find,
        set_setting=set_setting,
        started_us=started_us,
        sequences=sequences,
    )
