"""Statement splitting, the small statements, guards, and syntax errors with their positions."""

from __future__ import annotations

import pytest
from sqlglot import exp

from orbit.kernel.errors import OrbitError
from services.storage.sql.parse import Kind, parse
from services.storage.sql.parse.parser import MAX_STATEMENT_CHARS
from services.storage.sql.parse.statement import (
    CopyCommand,
    ExplainCommand,
    NameCommand,
    RoleCommand,
    SettingCommand,
    TransactionCommand,
    TransactionModes,
)


def test_splits_statements_and_keeps_positions() -> None:
    text = "select 1;; begin ;\n select ';' -- a ; b\n, $$x;y$$"
    found = parse(text)
    assert [item.kind for item in found] == [Kind.SELECT, Kind.BEGIN, Kind.SELECT]
    assert found[2].text.startswith("select ';'")
    assert text[found[2].start :].startswith("select ';'")


def test_empty_text_has_no_statements() -> None:
    assert parse("") == []
    assert parse(" ; -- nothing\n ;") == []


@pytest.mark.parametrize(
    ("sql", "kind", "command"),
    [
        ("begin", Kind.BEGIN, TransactionCommand()),
        (
            "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
            Kind.BEGIN,
            TransactionCommand(TransactionModes("repeatable read", True)),
        ),
        ("end", Kind.COMMIT, TransactionCommand()),
        ("commit and chain", Kind.COMMIT, TransactionCommand(chain=True)),
        ("rollback to savepoint a", Kind.ROLLBACK_TO, TransactionCommand(name="a")),
        ("abort", Kind.ROLLBACK, TransactionCommand()),
        ("release b", Kind.RELEASE, TransactionCommand(name="b")),
        ("set search_path to a, 'B'", Kind.SET, SettingCommand("search_path", ("a", "B"))),
        ("set local statement_timeout = 5", Kind.SET, SettingCommand("statement_timeout", ("5",), True)),
        ("set time zone 'UTC'", Kind.SET, SettingCommand("timezone", ("UTC",))),
        ("set x to default", Kind.SET, SettingCommand("x")),
        ("show transaction isolation level", Kind.SHOW, SettingCommand("transaction_isolation")),
        ("reset all", Kind.RESET, SettingCommand("all")),
        ("discard all", Kind.DISCARD, NameCommand(option="all")),
        ("deallocate \"A\"", Kind.DEALLOCATE, NameCommand(((None, "A"),))),
        ("vacuum analyze s.t", Kind.VACUUM, NameCommand((("s", "t"),))),
        (
            "create user u password 'p'", Kind.ROLE,
            RoleCommand("create", ("u",), {"login": "true", "password": "p"}, False),
        ),
    ],
)  # fmt: skip
def test_small_statements(sql: str, kind: Kind, command: object) -> None:
    (statement,) = parse(sql)
    assert (statement.kind, statement.command) == (kind, command)


def test_copy_and_explain_hold_their_parts() -> None:
    (copy,) = parse("COPY t (a, b) FROM STDIN WITH (FORMAT csv, HEADER, DELIMITER ';')")
    assert copy.command == CopyCommand(
        (None, "t"), ("a", "b"), None, True, {"format": "csv", "header": "true", "delimiter": ";"}
    )
    (out,) = parse("copy (select 1) to stdout")
    assert isinstance(out.command, CopyCommand)
    assert out.command.query is not None
    assert out.command.query.kind == Kind.SELECT
    (explain,) = parse("explain (analyze, costs off) select 1")
    assert isinstance(explain.command, ExplainCommand)
    assert explain.command.options == {"analyze": "true", "costs": "off"}
    assert explain.command.statement.text == "select 1"


@pytest.mark.parametrize(
    ("sql", "message", "position"),
    [
        ("select 1 +", "syntax error at end of input", 11),
        ("select (1", "syntax error at end of input", 10),
        ("select 1 as select", 'syntax error at or near "select"', 13),
        ("select 'abc", 'unterminated quoted string at or near "\'abc"', 8),
        ("select 1; selec 2", 'syntax error at or near "2"', 17),
        ("begin nonsense", 'syntax error at or near "nonsense"', 7),
        ("set x", "syntax error at end of input", 6),
    ],
)
def test_syntax_errors_have_a_position(sql: str, message: str, position: int) -> None:
    with pytest.raises(OrbitError) as caught:
        parse(sql)
    assert (caught.value.sqlstate, caught.value.message, caught.value.position) == ("42601", message, position)


@pytest.mark.parametrize(
    "sql",
    ["listen x", "declare c cursor for select 1", "create function f() returns int as $$1$$ language sql",
     "create extension hstore", "prepare p as select 1", "do $$begin end$$", "refresh materialized view v",
     "copy t from '/etc/passwd'", "interval", "prepare transaction 'x'", "commit prepared 'x'"],
)  # fmt: skip
def test_what_is_not_supported_says_so(sql: str) -> None:
    with pytest.raises(OrbitError) as caught:
        parse(sql)
    assert caught.value.sqlstate in ("0A000", "42601")
    if sql != "interval":
        assert caught.value.sqlstate == "0A000", caught.value.message


@pytest.mark.parametrize(
    "sql",
    ["select " + "(" * 400 + "1" + ")" * 400, "select " + "- " * 500 + "1",
     "select " + "case when true then " * 200 + "1" + " end" * 200],
)  # fmt: skip
def test_deep_nesting_is_refused(sql: str) -> None:
    with pytest.raises(OrbitError) as caught:
        parse(sql)
    assert caught.value.sqlstate == "54001"


def test_long_chains_are_taken() -> None:
    assert parse("select 1 where " + " or ".join(f"a = {n}" for n in range(3000)))[0].kind == Kind.SELECT


def test_too_long_a_text_is_refused() -> None:
    with pytest.raises(OrbitError) as caught:
        parse("select '" + "x" * MAX_STATEMENT_CHARS + "'")
    assert caught.value.sqlstate == "54000"


def test_parameters_next_to_each_other_are_parameters() -> None:
    tree = parse("insert into t values ($1,$2,$3) -- $4,$5\n")[0].tree
    assert tree is not None
    assert [node.name for node in tree.find_all(exp.Parameter)] == ["1", "2", "3"]


def test_interval_literals_keep_all_their_parts() -> None:
    tree = parse("select interval '1 day 03:04:05', interval '2' hour")[0].tree
    assert tree is not None
    assert [call.expressions[0].name for call in tree.expressions] == ["1 day 03:04:05", "2 hour"]
