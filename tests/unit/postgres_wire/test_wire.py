"""The codec, the table of phases, SCRAM, cancel keys, portals: everything of the door that does no IO."""

from __future__ import annotations

import contextlib
import random
from struct import pack
from typing import Any

import pytest
from scramp import ScramClient

from orbit.kernel.errors import InvalidValue, OrbitError
from orbit.kernel.scram import Verifier, make_verifier, parse_verifier, verify_password
from orbit.kernel.types import Oid, SqlType
from services.gateway.protocols.postgres import wire
from services.gateway.protocols.postgres.cancel import CancelKeys
from services.gateway.protocols.postgres.greeting import Greeting
from services.gateway.protocols.postgres.limits import PostgresLimits
from services.gateway.protocols.postgres.scram import ScramExchange, mock_verifier
from services.gateway.protocols.postgres.state import TRANSITIONS, Event, IllegalTransition, Phase, after
from services.gateway.protocols.postgres.statements import Deallocate, Portal, Prepared, deallocation
from services.gateway.protocols.postgres.wire import ProtocolViolation
from services.storage.client import ColumnDescription, Credentials

# -- wire


def test_row_description() -> None:
    columns = [ColumnDescription("id", SqlType(Oid.INT4), 16384, 1), ColumnDescription("?", SqlType(Oid.VARCHAR, 14))]
    body = (
        pack(">h", 2)
        + b"id\0"
        + pack(">IhIhih", 16384, 1, 23, 4, -1, 1)
        + b"?\0"
        + pack(">IhIhih", 0, 0, 1043, -1, 14, 0)
    )
    assert wire.row_description(columns, (1, 0)) == b"T" + pack(">I", len(body) + 4) + body


def test_bind_in_the_middle_of_a_buffer() -> None:
    body = (
        b"p\0s\0"
        + pack(">hhhh", 2, 0, 1, 3)
        + pack(">i", 2)
        + b"ab"
        + pack(">i", -1)
        + pack(">i", 0)
        + pack(">hh", 1, 1)
    )
    assert wire.parse_bind(b"junk" + body + b"more", 4, 4 + len(body)) == (b"p", b"s", (0, 1), [b"ab", None, b""], (1,))


@pytest.mark.parametrize("seed", range(300))
def test_parsers_refuse_what_does_not_fit(seed: int) -> None:
    """Cut, stretched and changed bodies, with other messages behind them, give a ProtocolViolation or a value."""
    chance = random.Random(seed)
    bodies: list[tuple[Any, bytes]] = [
        (wire.parse_bind, b"p\0s\0" + pack(">hhh", 1, 1, 2) + pack(">i", 2) + b"ab" + pack(">ih", -1, 0)),
        (wire.parse_parse, b"s\0select 1\0" + pack(">hI", 1, 23)),
        (wire.parse_execute, b"p\0" + pack(">i", 5)),
        (wire.parse_target, b"Sname\0"),
        (wire.parse_query, b"select 1\0"),
        (wire.parse_sasl_initial, b"SCRAM-SHA-256\0" + pack(">i", 3) + b"n,,"),
    ]
    parser, body = chance.choice(bodies)
    changed = bytearray(body)
    for _ in range(chance.randrange(1, 3)):
        changed[chance.randrange(len(changed))] = chance.choice([0, 1, 0x7F, 0xFF])
    end = chance.choice([len(changed), len(changed) - 1, len(changed) // 2, 0, len(changed) + 1])
    with contextlib.suppress(ProtocolViolation, InvalidValue):
        parser(bytes(changed) + b"\0" * 40, 0, end)


def test_startup_message() -> None:
    startup = wire.parse_startup(wire.PROTOCOL_3_0, b"user\0a\0options\0\0\0")
    assert startup.parameters == {"user": "a", "options": ""}
    for broken in (b"", b"\0x", b"user\0", b"user\0a\0", b"user\0a\0user\0b\0\0", b"a\0b\0c\0\0"):
        with pytest.raises(ProtocolViolation):
            wire.parse_startup(wire.PROTOCOL_3_0, broken)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("", {}),
        ("-c a=1 --b-c=2 -cd=3", {"a": "1", "b_c": "2", "d": "3"}),
        (r"-c search_path=a\ b\\c", {"search_path": r"a b\c"}),
        ("-c a=b=c", {"a": "b=c"}),
    ],
)
def test_startup_options(options: str, settings: dict[str, str]) -> None:
    assert wire.startup_options(options) == settings


@pytest.mark.parametrize("options", ["x", "-c", "-c a", "--a", "-c =1", "-d 5"])
def test_startup_options_that_are_none(options: str) -> None:
    with pytest.raises(OrbitError, match="invalid command-line argument"):
        wire.startup_options(options)


def test_an_error_never_breaks_its_frame() -> None:
    message = wire.error_response(OrbitError("zero \0 and half a pair \ud800"))
    assert message.endswith(b"\0\0") and int.from_bytes(message[1:5], "big") == len(message) - 1
    assert message.count(b"\0M") == 1 and b"zero  and half a pair ?\0" in message


# -- phases


def test_nothing_leads_from_a_refusal_to_a_session() -> None:
    reachable, seen = [Phase.CLOSED], set()
    while reachable:
        phase = reachable.pop()
        seen.add(phase)
        reachable += [to for (at, _), to in TRANSITIONS.items() if at is phase and to not in seen]
    assert seen == {Phase.CLOSED}


def test_the_only_way_to_ready_is_a_proof() -> None:
    ways = {(at, event) for (at, event), to in TRANSITIONS.items() if to is Phase.READY}
    assert {way for way in ways if way[0] not in (Phase.READY, Phase.SKIPPING, Phase.COPY_IN)} == {
        (Phase.PROVING, Event.PROVEN)
    }


def test_unknown_steps_raise() -> None:
    with pytest.raises(IllegalTransition, match="no PROVEN in STARTUP"):
        after(Phase.STARTUP, Event.PROVEN)


# -- SCRAM


@pytest.mark.parametrize("password", ["pencil", "p\u00e4ss", "\u2168", "with space", "I\u00adX", "\u0007bell"])
def test_verifiers(password: str) -> None:
    verifier = make_verifier(password)
    assert verify_password(password, verifier)
    assert not verify_password(password + "x", verifier)
    assert str(parse_verifier(verifier)) == verifier
    assert make_verifier(password) != verifier  # another salt


def test_a_verifier_is_postgresqls() -> None:
    """Made by PostgreSQL 15: create role .. password 'correct horse'."""
    stored = (
        "SCRAM-SHA-256$4096:QPHdz4kPcUwvjyTUjMAxLw==$F7vUyuorjpUQ0Z2PxU4NNUEMORSBjQXpMuQSD0aMazk=:"
        "pPCaaKxhIgky6uIJ9nDdWaW5jGr7iwC7AGs1/D22soE="
    )
    assert verify_password("correct horse", stored) and not verify_password("correct", stored)
    decoded = parse_verifier(stored)
    assert decoded is not None
    assert make_verifier("correct horse", salt=decoded.salt) == stored


def test_saslprep_makes_equal_what_looks_equal() -> None:
    assert verify_password("IX", make_verifier("\u2168"))
    assert verify_password("IX", make_verifier("I\u00adX"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "md5abc",
        "SCRAM-SHA-256$x:AAAA$AAAA:AAAA",
        "SCRAM-SHA-256$4096:!$A:A",
        "SCRAM-SHA-256$99999999:AA==$" + "A" * 43 + "=:" + "A" * 43 + "=",
    ],
)
def test_what_is_no_verifier(text: str) -> None:
    assert parse_verifier(text) is None
    assert not verify_password("", text)


def exchange(password: str, verifier: Verifier, user: str = "someone") -> bool:
    """Run a whole exchange with an independent client; returns whether both sides believe each other."""
    server = ScramExchange(verifier, b"n" * 18)
    client = ScramClient(["SCRAM-SHA-256"], user, password)
    client.set_server_first(server.first(client.get_client_first().encode()).decode())
    final = server.final(client.get_client_final().encode())
    if final is None:
        return False
    client.set_server_final(final.decode())
    return True


def test_exchange() -> None:
    verifier = parse_verifier(make_verifier("pencil"))
    assert verifier is not None
    assert exchange("pencil", verifier)
    assert not exchange("pen", verifier)
    assert not exchange("pencil", mock_verifier("someone", b"secret"))
    assert mock_verifier("a", b"s").salt == mock_verifier("a", b"s").salt != mock_verifier("b", b"s").salt


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"n,,",
        b"p=tls-unique,,n=,r=abcdefghij",
        b"n,a=x,n=,r=abcdefghij",
        b"n,,n=,r=a",
        b"n,,m=x,n=,r=abcdefghij",
        b"n,,n=\xff",
    ],
)
def test_malformed_first_messages(first: bytes) -> None:
    with pytest.raises(OrbitError):
        ScramExchange(mock_verifier("a", b"s"), b"n" * 18).first(first)


@pytest.mark.parametrize(
    "final",
    [b"", b"c=biws", b"c=biws,r=other,p=AAAA", b"c=eSws,r={r},p=AAAA", b"c=biws,r={r},p=!", b"c=biws,r={r},p=AAAA"],
)
def test_malformed_final_messages(final: bytes) -> None:
    server = ScramExchange(mock_verifier("a", b"s"), b"n" * 18)
    nonce = server.first(b"n,,n=,r=abcdefghij").split(b",")[0][2:]
    with pytest.raises(ProtocolViolation):
        server.final(final.replace(b"{r}", nonce))


def test_the_right_password_of_a_role_that_does_not_exist_is_not_enough() -> None:
    """Even a proof that matches the mock verifier lets nobody in."""
    greeting = Greeting(b"secret")
    greeting.start(wire.Startup(wire.PROTOCOL_3_0, {"user": "ghost"}))
    greeting.identify(None)
    known = parse_verifier(make_verifier("pencil"))
    assert known is not None
    greeting._exchange = ScramExchange(known, b"n" * 18)
    client = ScramClient(["SCRAM-SHA-256"], "ghost", "pencil")
    client.set_server_first(greeting.begin_proof("SCRAM-SHA-256", client.get_client_first().encode())[9:].decode())
    with pytest.raises(OrbitError, match="password authentication failed"):
        greeting.end_proof(client.get_client_final().encode())


def test_a_verifier_that_cannot_be_read_matches_nothing() -> None:
    greeting = Greeting(b"secret")
    greeting.start(wire.Startup(wire.PROTOCOL_3_0, {"user": "old"}))
    greeting.identify(Credentials("old", "md5c0ffee", True))
    assert greeting.begin_proof("SCRAM-SHA-256", b"n,,n=,r=abcdefghij").endswith(b"i=4096")


# -- cancel keys


class Cancelable:
    cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


def _count(connection: Cancelable) -> int:
    return connection.cancelled


def test_cancel_keys() -> None:
    keys, connection = CancelKeys(), Cancelable()
    process, secret = keys.register(connection, long=True)
    assert len(secret) == 32
    for wrong in (b"", secret[:4], secret[:-1] + b"\0", b"\0" * 32):
        assert wrong == secret or not keys.cancel(process, wrong)
    assert not keys.cancel(process + 1, secret)
    assert _count(connection) == 0
    assert keys.cancel(process, secret)
    assert _count(connection) == 1
    keys.forget(process)
    assert len(keys) == 0
    assert not keys.cancel(process, secret)


# -- statements and portals


@pytest.mark.parametrize(
    ("sql", "name", "tag"),
    [
        ("deallocate x", "x", "DEALLOCATE"),
        ("DEALLOCATE PREPARE X ;", "x", "DEALLOCATE"),
        ('deallocate "A""b"', 'A"b', "DEALLOCATE"),
        ("deallocate all", None, "DEALLOCATE ALL"),
        ("\n discard  all", None, "DISCARD ALL"),
    ],
)
def test_deallocation(sql: str, name: str | None, tag: str) -> None:
    command = deallocation(sql)
    assert isinstance(command, Deallocate) and (command.name, command.tag) == (name, tag)


@pytest.mark.parametrize(
    "sql", ["", "delete from t", "deallocate", "deallocate a; select 1", "discard plans", "select 1"]
)
def test_no_deallocation(sql: str) -> None:
    assert deallocation(sql) is None


class Rows:
    parameter_oids = ()
    columns = (ColumnDescription("n", SqlType(Oid.INT8)),)


def test_a_portal_gives_its_rows_in_parts() -> None:
    rows = [wire.message(b"D", b"\0\1" + pack(">iq", 8, n)) for n in range(5)]
    portal = Portal(Prepared(b"", Rows()), (), (), ())
    portal.hold(b"".join(rows[:3]))
    portal.hold(b"".join(rows[3:]) + wire.command_complete("SELECT 5"))
    assert portal.fetch(2) == b"".join(rows[:2]) + wire.PORTAL_SUSPENDED
    assert portal.suspended
    assert portal.fetch(3) == b"".join(rows[2:]) + wire.PORTAL_SUSPENDED
    assert portal.fetch(3) == wire.command_complete("SELECT 0")
    assert portal.again() == wire.command_complete("SELECT 0")


def test_a_portal_of_a_statement_without_rows() -> None:
    portal = Portal(Prepared(b"", Deallocate(None, False)), (), (), ())
    assert not portal.runs
    with pytest.raises(OrbitError, match="cannot be run"):
        portal.again()


def test_limits_agree_with_each_other() -> None:
    with pytest.raises(AssertionError):
        PostgresLimits(copy_block_bytes=1 << 30)
