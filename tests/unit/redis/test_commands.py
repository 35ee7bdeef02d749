"""Patterns, the command table, and storage work driven by hand: conflicts, retries, rollbacks."""

from __future__ import annotations

from fnmatch import translate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit.kernel.errors import OrbitError, SerializationFailure
from services.gateway.conversation import BEGIN, COMMIT, ROLLBACK, Result, Steps
from services.gateway.protocols.redis import keyspace
from services.gateway.protocols.redis.commands.keys import glob
from services.gateway.protocols.redis.commands.table import COMMANDS, find
from services.gateway.protocols.redis.keyspace import MAX_ATTEMPTS, RedisError, transaction

NOTHING = Result((), [], b"")


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        (b"*", [b"", b"a", b"a\nb"], []),
        (b"h?llo", [b"hello", b"h\nllo"], [b"hllo", b"heello"]),
        (b"h[ae]llo", [b"hallo"], [b"hillo"]),
        (b"h[^e]llo", [b"hallo"], [b"hello"]),
        (b"h[a-c]llo", [b"hbllo"], [b"hdllo"]),
        (b"h[c-a]llo", [b"hbllo"], [b"hdllo"]),
        (b"a\\*", [b"a*"], [b"ab"]),
        (b"[\\]]", [b"]"], [b"\\"]),
        (b"a.c", [b"a.c"], [b"abc"]),
        (b"[]", [], [b"", b"a"]),
        (b"[abc", [b"a"], [b"d"]),
        (b"\xff*", [b"\xff\x00"], [b"\xfe"]),
    ],
)
def test_patterns(pattern: bytes, matching: list[bytes], other: list[bytes]) -> None:
    expression = glob(pattern)
    assert all(expression.fullmatch(text) for text in matching)
    assert not any(expression.fullmatch(text) for text in other)


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_plain_patterns_are_those_of_the_shell(pattern: str, text: str) -> None:
    import re

    assert bool(glob(pattern.encode()).fullmatch(text.encode())) == bool(re.match(translate(pattern), text))


@given(st.binary(max_size=12))
def test_any_pattern_compiles(pattern: bytes) -> None:
    glob(pattern)


def test_every_command_is_described_and_can_run() -> None:
    for name, command in COMMANDS.items():
        assert name == command.name.encode() == name.lower()
        assert command.summary and command.arity
        assert (command.run is None) == (command.access.name == "SESSION")
    assert find([b"GeT", b"k"]).name == "get"
    with pytest.raises(RedisError, match="wrong number of arguments for 'get' command"):
        find([b"get"])
    with pytest.raises(RedisError, match=r"^ERR unknown command 'nope', with args beginning with: 'a' $"):
        find([b"nope", b"a"])


def run(steps: Steps[str], outcomes: list[OrbitError | None]) -> tuple[str | OrbitError, list[str]]:
    """Drive steps: each query fails or answers nothing, as told. Returns the end and the statements."""
    asked: list[str] = []
    failure: OrbitError | None = None
    started = False
    try:
        while True:
            if failure is not None:
                query, _ = steps.throw(failure)
            elif started:
                query, _ = steps.send(NOTHING)
            else:
                query, _ = next(steps)
            started = True
            asked.append(query.sql)
            failure = outcomes.pop(0) if outcomes else None
    except StopIteration as stop:
        value: str = stop.value
        return value, asked
    except OrbitError as error:
        return error, asked


def body() -> Steps[str]:
    yield keyspace.CLEAR, ()
    return "done"


def test_a_conflict_is_run_again_and_not_told() -> None:
    conflict = SerializationFailure("could not serialize access")
    end, asked = run(transaction(BEGIN, body), [None, conflict])
    once = [BEGIN.sql, keyspace.CLEAR.sql]
    assert end == "done" and asked == [*once, ROLLBACK.sql, *once, COMMIT.sql]


def test_a_conflict_at_commit_is_run_again() -> None:
    end, asked = run(transaction(BEGIN, body), [None, None, SerializationFailure("no")])
    assert end == "done" and asked.count(COMMIT.sql) == 2


def test_conflicts_without_end_are_told() -> None:
    outcomes: list[OrbitError | None] = [None, SerializationFailure("no"), None] * 100
    end, asked = run(transaction(BEGIN, body), outcomes)
    assert isinstance(end, SerializationFailure) and asked.count(BEGIN.sql) == MAX_ATTEMPTS


def test_an_unknown_outcome_is_told_at_once() -> None:
    end, asked = run(transaction(BEGIN, body), [None, None, OrbitError("lost", sqlstate="08007")])
    assert isinstance(end, OrbitError) and end.sqlstate == "08007" and asked.count(BEGIN.sql) == 1


def test_an_error_reply_undoes_the_transaction() -> None:
    def refusing() -> Steps[str]:
        yield keyspace.CLEAR, ()
        raise RedisError("ERR no")

    steps = transaction(BEGIN, refusing)
    assert next(steps)[0] is BEGIN
    steps.send(NOTHING)
    assert steps.send(NOTHING)[0] is ROLLBACK
    with pytest.raises(RedisError):
        steps.send(NOTHING)


@given(st.integers(0, keyspace.MAX_EXPIRY_US))
def test_binary_timestamps(time_us: int) -> None:
    assert keyspace.microseconds(keyspace.timestamp(time_us)) == time_us
