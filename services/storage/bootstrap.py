"""The first leader's first transaction: schemas, the administrator, the Redis tables.

Owns what an empty database starts with. A replica region starts empty and gets all of this from its source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from orbit.kernel.errors import OrbitError
from orbit.kernel.schema import (
    BOOTSTRAP_ROLE_OID,
    FIRST_USER_OID,
    PUBLIC_SCHEMA,
    PUBLIC_SCHEMA_OID,
    REDIS_SCHEMA,
    Put,
    Role,
    Schema,
)
from services.storage.client import CopyFormat, SessionOwner, Statement
from services.storage.session import StorageSession

OpenSession = Callable[[str, SessionOwner], StorageSession]


async def bootstrap(open_session: OpenSession, user: str, verifier: str | None, statements: Sequence[str]) -> None:
    """Create the first objects, in one transaction. Raises OrbitError when the log does not take it."""
    owner = _Waiter()
    session = open_session(user, owner)
    try:
        await owner.run(session, "BEGIN")
        transaction = session.transaction
        assert transaction is not None, "BEGIN opened a transaction"
        transaction.change_catalog(
            session.engine.state.catalog,
            [
                Put(Role(id=BOOTSTRAP_ROLE_OID, name=user, verifier=verifier, superuser=True)),
                Put(Schema(id=PUBLIC_SCHEMA_OID, name=PUBLIC_SCHEMA, owner=user)),
                Put(Schema(id=FIRST_USER_OID, name=REDIS_SCHEMA, owner=user)),
            ],
        )
        for sql in statements:
            await owner.run(session, sql)
        await owner.run(session, "COMMIT")
    finally:
        session.close()


class _Waiter:
    """A session owner that waits for one answer at a time."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[bytes] | None = None

    async def run(self, session: StorageSession, sql: str) -> bytes:
        self._answer = asyncio.get_running_loop().create_future()
        answer = session.simple(sql)
        return await self._answer if answer is None else answer

    def replied(self, answer: bytes) -> None:
        assert self._answer is not None
        self._answer.set_result(answer)

    def failed(self, error: OrbitError) -> None:
        assert self._answer is not None
        self._answer.set_exception(error)

    def terminated(self, error: OrbitError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def prepared(self, statement: Statement) -> None: ...

    def rows(self, messages: bytes) -> None: ...

    def copy_in(self, copy: CopyFormat) -> None: ...

    def parameter_changed(self, name: str, value: str) -> None: ...

    def notice(self, error: OrbitError) -> None: ...
