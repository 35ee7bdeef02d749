"""The small statements: transaction control, SET, RESET, SHOW, COPY, EXPLAIN, LOCK, VACUUM and their like.

sqlglot keeps most of these as opaque text, so this module parses them from the tokens, in full or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlglot.tokenizer_core import Token, TokenType

from orbit.kernel.errors import OrbitError
from services.storage.sql.parse.errors import unsupported
from services.storage.sql.parse.statement import (
    Command,
    CopyCommand,
    ExplainCommand,
    Kind,
    NameCommand,
    RoleCommand,
    SettingCommand,
    Statement,
    TransactionCommand,
    TransactionModes,
)
from services.storage.sql.parse.tokens import Cursor

ParseInner = Callable[[Sequence[Token]], Statement]


def parse_command(sql: str, tokens: Sequence[Token], inner: ParseInner) -> tuple[Kind, Command] | None:
    """Return the small statement that these tokens are, or None when they are another kind.

    `inner` parses the statement inside EXPLAIN and COPY (query). Raises SyntaxProblem, or NotSupported by name.
    """
    cursor = Cursor(sql, tokens)
    first = tokens[0]
    if first.token_type in (TokenType.IDENTIFIER, TokenType.STRING):
        return None
    parse = _PARSERS.get(first.text.lower())
    if parse is None:
        return None
    if parse is _role and not (len(tokens) > 1 and tokens[1].text.lower() in ("role", "user", "group")):
        return None
    cursor.at = 1
    parsed = parse(cursor, inner)
    cursor.finish()
    return parsed


def _modes(cursor: Cursor) -> TransactionModes:
    isolation: str | None = None
    read_only: bool | None = None
    deferrable: bool | None = None
    while not cursor.done:
        if cursor.accept("isolation", "level"):
            level = next((level for level in _LEVELS if cursor.accept(*level.split())), None)
            if level is None:
                raise cursor.error()
            isolation = level
        elif cursor.accept("read", "only"):
            read_only = True
        elif cursor.accept("read", "write"):
            read_only = False
        elif cursor.accept("deferrable"):
            deferrable = True
        elif cursor.accept("not", "deferrable"):
            deferrable = False
        else:
            break
        cursor.accept(",")
    return TransactionModes(isolation, read_only, deferrable)


_LEVELS = ("read uncommitted", "read committed", "repeatable read", "serializable")


def _begin(cursor: Cursor, inner: ParseInner) -> tuple[Kind, Command]:
    cursor.accept_one("work", "transaction")
    return Kind.BEGIN, TransactionCommand(_modes(cursor))


def _start(cursor: Cursor, inner: ParseInner) -> tuple[Kind, Command]:
    cursor.expect("transaction")
    return Kind.BEGIN, TransactionCommand(_modes(cursor))


def _chain(cursor: Cursor) -> bool:
    if cursor.accept("and", "chain"):
        return True
    cursor.accept("and", "no", "chain")
    return False


def _commit(cursor: Cursor, inner: ParseInner) -> tuple[Kind, Command]:
    if cursor.is_word("prepared"):
        raise unsupported("two-phase commit")
    cursor.accept_one("work", "transaction")
    return Kind.COMMIT, TransactionCommand(chain=_chain(cursor))


def _rollback(cursor: Cursor, inner: ParseInner) -> tuple[Kind, Command]:
    if cursor.is_word("prepared"):
        raise unsupported("two-phase commit")
    cursor.accept_one("work", "transaction")
    if cursor.accept("to"):
        cursor.accept("savepoint")
        return Kind.ROLLBACK_TO, TransactionCommand(name=cursor.name())
    return Kind.ROLLBACK, TransactionCommand(chain=_chain(cursor))


def _savepoint(cursor: Cursor, inner: ParseInner) -> tuple[Kind, Command]:
    return Kind.SAVEPOINT, TransactionCommand(name=cursor.name())


def _release(cursor: Cursor, inner: ParseInner) -> tuple[Kind, Command]:
    cursor.accept("savepoint")
    return Kind.RELEASE, TransactionCommand(name=cursor.name())


def _setting_name(cursor: Cursor) -> str:
    name = cursor.name()
    while cursor.accept("."):
        name += "." + cursor.name()
    return name


def _setting_value(cursor: Cursor) -> str:
    token = cursor.peek()
    if token is None:
        raise cursor.error()
    if cursor.is_string():
        return cursor.string()
    sign = "-" if cursor.accept("-") else ""
    if not sign:
        cursor.accept("+")
    token = cursor.next()
    if token.token_type == TokenType.NUMBER:
        return sign + token.text
    if sign or not (token.text[:1].isalpha() or token.text[:1] == "_"):
        cursor.at -= 1
        raise cursor.error()
    return token.text if token.token_type == TokenType.IDENTIFIER else token.text.lower()


def _set(cursor: Cursor, inner: ParseInner) -> tuple[Kind, Command]:
    if cursor.accept("session", "characteristics", "as", "transaction"):
        return Kind.SET_TRANSACTION, TransactionCommand(_modes(cursor), session=True)
    local = cursor.accept("local")
    if not local:
        cursor.accept("session")
    if cursor.accept("transaction"):
        if cursor.is_word("snapshot"):
            raise unsupported("SET TRANSACTION SNAPSHOT")
        return Kind.SET_TRANSACTION, TransactionCommand(_modes(cursor))
    if cursor.is_word("constraints"):
        raise unsupported("SET CONSTRAINTS")
    if cursor.accept("time", "zone"):
        name = "timezone"
    elif cursor.accept("names"):
        name = "client_encoding"
    elif cursor.accept("schema"):
        name = "search_path"
    else:
        name = _setting_name(cursor)
        if cursor.accept_one("to", "=") is None and cursor.accept_one("authorization") is None:
            raise cursor.error()
    if cursor.accept("default") or (name == "timezone" and cursor.accept("local")):
        return Kind.SET, SettingCommand(name, None, local)
    values = [_setting_value(cursor)]
    while cursor.accept(","):
        values.append(_setting_value(cursor))
    return Kind.SET, SettingCommand(name, tuple(values), local)


def _shown_name(cursor: Cursor) -> str:
    if cursor.accept("time", "zone"):
        return "timezone"
    if cursor.accept("transaction", "isolation", "level"):
        return "transaction_isolation"
    if cursor.accept("session", "authorization"):
        return "session_authorization"
    return _setting_name(cursor)


def _reset(cursor: Cursor, inner: ParseInner) -> tuple[Kind, Command]:
    return Kind.RESET, SettingCommand(_shown_name(cursor))


def _show(cursor: Cursor, inner: ParseInner) -> tuple[Kind, Command]:
    return Kind.SHOW, SettingCommand(_shown_name(cursor))


def _parenthesized(cursor: Cursor) -> Sequence[Token]:
    """Take the tokens up to the parenthesis that closes the one just taken."""
    start = cursor.at
    depth = 1
    while depth:
        token = cursor.next()
        depth += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1}.get(token.token_type, 0)
    return cursor.tokens[start : cursor.at - 1]


def _copy(cursor: Cursor, inner: ParseInner) -> tuple[Kind, Command]:
    table: tuple[str | None, str] | None = None
    columns: list[str] = []
    query: Statement | None = None
    if cursor.accept("("):
        query = inner(_parenthesized(cursor))
    else:
        table = cursor.qualified_name()
        if cursor.accept("("):
            columns.append(cursor.name())
            while cursor.accept(","):
                columns.append(cursor.name())
            cursor.expect(")")
    direction = cursor.accept_one("from", "to")
    if direction is None or (query is not None and direction == "from"):
        raise cursor.error()
    if not cursor.accept("stdin" if direction == "from" else "stdout"):
        if cursor.is_string() or cursor.is_word("program"):
            raise OrbitError(
                "COPY with a file or program of the server is not supported",
                sqlstate="0A000",
                hint="Use COPY .. FROM STDIN or TO STDOUT, as psql's \\copy does.",
            )
        raise cursor.error()
    options = _copy_options(cursor)
    if cursor.is_word("where"):
        raise unsupported("COPY .. WHERE")
    return Kind.COPY, CopyCommand(table, tuple(columns), query, direction == "from", options)


def _copy_options(cursor: Cursor) -> dict[str, str]:
    options: dict[str, str] = {}
    bracketed = (cursor.accept("with") and cursor.accept("(")) or cursor.accept("(")
    if bracketed:
        while True:
            name = cursor.name()
            if cursor.accept("("):
                options[name] = " ".join(token.text for token in _parenthesized(cursor))
            elif cursor.is_word(",") or cursor.is_word(")"):
                options[name] = "true"
            elif cursor.accept("*"):
                options[name] = "*"
            else:
                options[name] = _setting_value(cursor)
            if not cursor.accept(","):
                break
        cursor.expect(")")
        return options
    # The form before PostgreSQL 9.0, which drivers still send.
    while not cursor.done and not cursor.is_word("where"):
        if cursor.accept("csv"):
            options["format"] = "csv"
        elif cursor.accept("binary"):
            options["format"] = "binary"
        elif cursor.accept("header"):
            options["header"] = "true"
        elif (word := cursor.accept_one("delimiter", "delimiters", "null", "quote", "escape", "encoding")) is not None:
            cursor.accept("as")
            options["delimiter" if word == "delimiters" else word] = cursor.string()
        else:
            raise cursor.error()
    return options


def _explain(cursor: Cursor, inner: ParseInner) -> tuple[Kind, Command]:
    options: dict[str, str] = {}
    if cursor.accept("("):
        while True:
            name = "analyze" if (word := cursor.name()) == "analyse" else word
            options[name] = "true" if cursor.is_word(",") or cursor.is_word(")") else _setting_value(cursor)
            if not cursor.accept(","):
                break
        cursor.expect(")")
    else:
        while (flag := cursor.accept_one("analyze", "analyse", "verbose")) is not None:
            options["verbose" if flag == "verbose" else "analyze"] = "true"
    rest = cursor.tokens[cursor.at :]
    if not rest:
        raise cursor.error()
    cursor.at = len(cursor.tokens)
    return Kind.EXPLAIN, ExplainCommand(inner(rest), options)


def _names(cursor: Cursor) -> tuple[tuple[str | None, str], ...]:
    names = [cursor.qualified_name()]
    while cursor.accept(","):
        names.append(cursor.qualified_name())
    return tuple(names)


def _deallocate(cursor: Cursor, inner: ParseInner) -> tuple[Kind, Command]:
    cursor.accept("prepare")
    if cursor.accept("all"):
        return Kind.DEALLOCATE, NameCommand()
    return Kind.DEALLOCATE, NameCommand(((None, cursor.name()),))


def _discard(cursor: Cursor, inner: ParseInner) -> tuple[Kind, Command]:
    what = cursor.accept_one("all", "plans", "sequences", "temp", "temporary")
    if what is None:
        raise cursor.error()
    return Kind.DISCARD, NameCommand(option=what)


def _lock(cursor: Cursor, inner: ParseInner) -> tuple[Kind, Command]:
    cursor.accept("table")
    names = _names(cursor)
    mode = "access exclusive"
    if cursor.accept("in"):
        words = []
        while not cursor.is_word("mode"):
            words.append(cursor.name())
        cursor.expect("mode")
        mode = " ".join(words)
    if cursor.accept("nowait"):
        mode += " nowait"
    return Kind.LOCK, NameCommand(names, mode)


def _maintenance(kind: Kind) -> Callable[[Cursor, ParseInner], tuple[Kind, Command]]:
    def parse(cursor: Cursor, inner: ParseInner) -> tuple[Kind, Command]:
        if cursor.accept("("):
            _parenthesized(cursor)
        while cursor.accept_one("full", "freeze", "verbose", "analyze") is not None:
            pass
        names: list[tuple[str | None, str]] = []
        while not cursor.done:
            names.append(cursor.qualified_name())
            if cursor.accept("("):
                _parenthesized(cursor)
            if not cursor.accept(","):
                break
        return kind, NameCommand(tuple(names))

    return parse


def _role(cursor: Cursor, inner: ParseInner) -> tuple[Kind, Command]:
    action = cursor.tokens[0].text.lower()
    noun = cursor.next().text.lower()
    if action == "drop":
        optional = cursor.accept("if", "exists")
        names = [cursor.name()]
        while cursor.accept(","):
            names.append(cursor.name())
        return Kind.ROLE, RoleCommand("drop", tuple(names), {}, optional)
    names = [cursor.name()]
    options: dict[str, str | None] = {"login": "true"} if action == "create" and noun == "user" else {}
    cursor.accept("with")
    while not cursor.done:
        cursor.accept("encrypted")
        if cursor.accept("password"):
            options["password"] = None if cursor.accept("null") else cursor.string()
        elif cursor.accept("in"):
            cursor.expect("role")
            options["in role"] = cursor.name()
        elif (flag := cursor.accept_one("login", "nologin", "superuser", "nosuperuser")) is not None:
            options[flag.removeprefix("no")] = "false" if flag.startswith("no") else "true"
        elif cursor.accept_one("inherit", "nocreatedb", "nocreaterole", "noreplication", "nobypassrls") is None:
            raise unsupported(f"role option {cursor.name().upper()}")
    return Kind.ROLE, RoleCommand(action, tuple(names), options, False)


def _checkpoint(cursor: Cursor, inner: ParseInner) -> tuple[Kind, Command]:
    return Kind.CHECKPOINT, NameCommand()


_PARSERS: dict[str, Callable[[Cursor, ParseInner], tuple[Kind, Command]]] = {
    "begin": _begin,
    "start": _start,
    "commit": _commit,
    "end": _commit,
    "rollback": _rollback,
    "abort": _rollback,
    "savepoint": _savepoint,
    "release": _release,
    "set": _set,
    "reset": _reset,
    "show": _show,
    "copy": _copy,
    "explain": _explain,
    "deallocate": _deallocate,
    "discard": _discard,
    "lock": _lock,
    "vacuum": _maintenance(Kind.VACUUM),
    "analyze": _maintenance(Kind.ANALYZE),
    "analyse": _maintenance(Kind.ANALYZE),
    "checkpoint": _checkpoint,
    "create": _role,
    "alter": _role,
    "drop": _role,
}
