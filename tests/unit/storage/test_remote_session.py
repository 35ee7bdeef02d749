"""What a session of the gateway tells its client when the leader goes: never success for what was lost."""

from __future__ import annotations

from typing import Any

import pytest

from orbit.kernel.errors import OrbitError, OutcomeUnknown, SerializationFailure, TransactionAborted
from services.storage.client import FAILED, IDLE, IN_TRANSACTION
from services.storage.remote import RemoteSession
from services.storage.session_frames import Event, Op


class Link:
    """A stream to a leader: keeps what was sent."""

    def __init__(self) -> None:
        self.alive = True
        self.sessions: dict[int, RemoteSession] = {}
        self.sent: list[tuple[Any, ...]] = []

    def send(self, message: tuple[Any, ...]) -> None:
        self.sent.append(message)


class Backend:
    """One leader after the other."""

    def __init__(self) -> None:
        self.current: Link | None = Link()
        self.waiting: list[RemoteSession] = []

    def link(self) -> Link | None:
        return self.current

    def wait_for_leader(self, session: RemoteSession) -> None:
        self.waiting.append(session)

    def forget(self, session: RemoteSession) -> None:
        pass

    def lose(self, session: RemoteSession) -> None:
        """The leader dies."""
        link, self.current = self.current, None
        assert link is not None
        link.alive = False
        link.sessions.clear()
        session.link_lost(link)  # type: ignore[arg-type]

    def find(self) -> Link:
        """Another leads."""
        self.current = Link()
        waiting, self.waiting = self.waiting, []
        for session in waiting:
            session.leader_found(self.current)  # type: ignore[arg-type]
        return self.current


class Owner:
    def __init__(self) -> None:
        self.errors: list[OrbitError] = []
        self.statements: list[Any] = []

    def failed(self, error: OrbitError) -> None:
        self.errors.append(error)

    def prepared(self, statement: Any) -> None:
        self.statements.append(statement)

    def replied(self, answer: bytes) -> None:
        pass


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
async def session(backend: Backend, owner: Owner) -> RemoteSession:
    return RemoteSession(backend, 1, "user", "database", {}, owner)  # type: ignore[arg-type]


def open_block(session: RemoteSession) -> None:
    """BEGIN and one statement that the leader has answered."""
    session.simple("BEGIN")
    session.simple("INSERT INTO t VALUES (1)")
    session.arrived([1, Event.REPLIED, IN_TRANSACTION, b""])
    assert session.status == IN_TRANSACTION


async def test_a_commit_after_the_loss_of_the_block_is_an_error(session: RemoteSession, backend: Backend) -> None:
    open_block(session)
    backend.lose(session)
    backend.find()
    with pytest.raises(SerializationFailure):
        session.simple("COMMIT")
    assert session.status == IDLE
    assert session.simple("SELECT 1") is None, "the session goes on at the new leader"


async def test_the_first_statement_is_told_and_the_rest_are_refused(session: RemoteSession, backend: Backend) -> None:
    open_block(session)
    backend.lose(session)
    link = backend.find()
    with pytest.raises(SerializationFailure):
        session.simple("INSERT INTO t VALUES (2)")
    for statement in ("INSERT INTO t VALUES (3)", "ROLLBACK TO a", "rollback work to savepoint a"):
        with pytest.raises(TransactionAborted):
            session.simple(statement)
        assert session.status == FAILED
    assert session.simple("rollback") == b"C\x00\x00\x00\rROLLBACK\x00"
    assert session.status == IDLE
    assert link.sent == []


async def test_a_prepare_in_a_lost_block_leaves_the_block_lost(
    session: RemoteSession, backend: Backend, owner: Owner
) -> None:
    open_block(session)
    backend.lose(session)
    backend.find()
    session.prepare("INSERT INTO t VALUES ($1)", ())
    session.arrived([1, Event.PREPARED, IDLE, 7, [23], None])
    assert session.status == FAILED
    with pytest.raises(SerializationFailure):
        session.execute(owner.statements[0], [b"1"], (), (), True)


async def test_a_prepare_under_way_is_asked_again_but_the_block_is_lost(
    session: RemoteSession, backend: Backend, owner: Owner
) -> None:
    open_block(session)
    session.prepare("INSERT INTO t VALUES ($1)", ())
    backend.lose(session)
    link = backend.find()
    assert [message[1] for message in link.sent] == [Op.OPEN, Op.PREPARE]
    session.arrived([1, Event.PREPARED, IDLE, 7, [23], None])
    with pytest.raises(SerializationFailure):
        session.execute(owner.statements[0], [b"1"], (), (), True)
    assert owner.errors == []
    session.close()


async def test_a_statement_that_never_left_is_not_run_outside_its_block(
    session: RemoteSession, backend: Backend, owner: Owner
) -> None:
    open_block(session)
    link, backend.current = backend.current, None
    assert link is not None
    link.alive = False  # its loss has not been told to the session yet
    session.simple("INSERT INTO t VALUES (2)")
    session.link_lost(link)  # type: ignore[arg-type]
    assert [type(error) for error in owner.errors] == [SerializationFailure]
    assert session.status == FAILED
    assert backend.find().sent == []
    session.close()


async def test_a_commit_under_way_is_of_unknown_outcome(session: RemoteSession, backend: Backend, owner: Owner) -> None:
    open_block(session)
    session.simple("COMMIT")
    backend.lose(session)
    assert [type(error) for error in owner.errors] == [OutcomeUnknown]
    assert session.status == IDLE


async def test_a_read_under_way_is_asked_again(session: RemoteSession, backend: Backend, owner: Owner) -> None:
    session.simple("SELECT 1")
    backend.lose(session)
    link = backend.find()
    assert [message[1] for message in link.sent] == [Op.OPEN, Op.SIMPLE]
    assert owner.errors == []
    session.close()
