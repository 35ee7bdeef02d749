"""Text to statements: sqlglot's PostgreSQL grammar behind our own splitting, guards and errors.

Owns what may pass: `parse` gives one `Statement` for each non-empty statement of a text, or raises 42601 with a
position, 54001 for nesting, 54000 for length, 0A000 for what sqlglot would keep as opaque text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Final

from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import ErrorLevel, ParseError, TokenError
from sqlglot.tokenizer_core import Token, TokenType

from orbit.kernel.errors import OrbitError, SyntaxProblem
from services.storage.sql.parse.commands import parse_command
from services.storage.sql.parse.errors import syntax_error, too_complex, unsupported
from services.storage.sql.parse.statement import Kind, Statement

MAX_STATEMENT_CHARS: Final = 16 * 1024 * 1024
MAX_NESTING: Final = 150
"""Parentheses, CASE and prefix operators inside each other: sqlglot takes about ten C frames for each level."""
MAX_TREE_DEPTH: Final = 400
"""Levels of the parsed tree, so that no later recursion over it can overflow."""

# sqlglot turns the names of functions into nodes shared by thirty dialects, which loses the name, the argument
# order and sometimes the meaning. Here a call stays a call: our binder knows PostgreSQL's functions better. The
# parser class is compiled and takes no subclass, so its tables (those of the PostgreSQL dialect only) are emptied.
_SPECIAL_SYNTAX: Final = ("CAST", "EXTRACT", "SUBSTRING", "TRIM", "POSITION", "OVERLAY")
_DIALECT: Final = Postgres()
_PARSER: Final = Postgres.parser_class
_PARSER.FUNCTIONS.clear()
for _name in set(_PARSER.FUNCTION_PARSERS) - set(_SPECIAL_SYNTAX):
    del _PARSER.FUNCTION_PARSERS[_name]
# What sqlglot logs a warning for (text that it keeps as an opaque command) is refused here with an error.
logging.getLogger("sqlglot").setLevel(logging.CRITICAL)

_KINDS: Final[tuple[tuple[type[exp.Expr], Kind], ...]] = (
    (exp.Insert, Kind.INSERT),
    (exp.Update, Kind.UPDATE),
    (exp.Delete, Kind.DELETE),
    (exp.Merge, Kind.MERGE),
    (exp.Create, Kind.CREATE),
    (exp.Alter, Kind.ALTER),
    (exp.Drop, Kind.DROP),
    (exp.TruncateTable, Kind.TRUNCATE),
    (exp.Comment, Kind.COMMENT),
    (exp.Grant, Kind.GRANT),
    (exp.Revoke, Kind.GRANT),
    (exp.Query, Kind.SELECT),
    (exp.Values, Kind.SELECT),
)


def parse(sql: str) -> list[Statement]:
    """Return the statements of a text, in order; empty ones are left out."""
    if len(sql) > MAX_STATEMENT_CHARS:
        raise OrbitError(
            f"statement of {len(sql)} characters is longer than {MAX_STATEMENT_CHARS} characters", sqlstate="54000"
        )
    return [_parse_one(sql, part) for part in _split(sql)]


_LEXEMES: Final = re.compile(
    r"""(?P<skip>
        [eE]'(?:[^'\\]|\'\'|\\.)*' | '(?:[^']|\'\')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/
        | \$(?P<tag>[A-Za-z_]\w*)?\$.*?\$(?P=tag)\$ | \$\$.*?\$\$ | [A-Za-z_][\w$]*
    ) | \$(?=[0-9])""",
    re.DOTALL | re.VERBOSE,
)


def _tokenize(sql: str) -> list[Token]:
    """Return sqlglot's tokens, with `$1` always a parameter: sqlglot takes `$1,$` for the start of a quotation."""
    places = {match.start() for match in _LEXEMES.finditer(sql) if match["skip"] is None} if "$" in sql else set()
    text = sql
    if places:
        characters = list(sql)
        for at in places:
            characters[at] = "?"
        text = "".join(characters)
    try:
        tokens = _DIALECT.tokenize(text)
    except TokenError as error:
        raise _token_error(sql, error) from None
    if places:
        tokens = [_renamed(token, TokenType.PARAMETER, "$") if token.start in places else token for token in tokens]
    if any(token.token_type == TokenType.INTERVAL for token in tokens):
        tokens = _interval_literals(tokens)
    return _typed_literals(tokens)


def _renamed(token: Token, kind: TokenType, text: str) -> Token:
    return Token(kind, text, token.line, token.col, token.start, token.end)


_UNITS: Final = frozenset(
    [
        "year",
        "years",
        "month",
        "months",
        "day",
        "days",
        "hour",
        "hours",
        "minute",
        "minutes",
        "second",
        "seconds",
        "week",
        "weeks",
    ]
)


def _interval_literals(tokens: Sequence[Token]) -> list[Token]:
    """Turn INTERVAL 'text' [unit] into a call of interval('text').

    sqlglot reads such a literal as one number and one unit, and drops the rest of `'1 day 03:45:12'` in silence.
    """
    result: list[Token] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        text = tokens[at + 1] if at + 1 < len(tokens) else None
        if token.token_type != TokenType.INTERVAL or text is None or text.token_type != TokenType.STRING:
            result.append(token)
            at += 1
            continue
        at += 2
        body = text.text
        unit = tokens[at] if at < len(tokens) else None
        if unit is not None and unit.token_type != TokenType.IDENTIFIER and unit.text.lower() in _UNITS:
            following = tokens[at + 1].text.lower() if at + 1 < len(tokens) else ""
            if following == "to" or not re.fullmatch(r"\s*[+-]?[0-9]+(\.[0-9]*)?\s*", body):
                raise unsupported("interval literal with fields", token.start + 1)
            body = f"{body} {unit.text.lower()}"
            at += 1
        result.append(_renamed(token, TokenType.VAR, "interval"))
        result.append(_renamed(token, TokenType.L_PAREN, "("))
        result.append(_renamed(text, TokenType.STRING, body))
        result.append(_renamed(text, TokenType.R_PAREN, ")"))
    return result


_TYPE_WORDS: Final = frozenset(
    [
        "smallint",
        "integer",
        "int",
        "bigint",
        "int2",
        "int4",
        "int8",
        "numeric",
        "decimal",
        "real",
        "float4",
        "float8",
        "double",
        "float",
        "text",
        "varchar",
        "char",
        "bpchar",
        "date",
        "time",
        "timetz",
        "timestamp",
        "timestamptz",
        "bytea",
        "uuid",
        "json",
        "jsonb",
        "bool",
        "boolean",
    ]
)


def _typed_literals(tokens: list[Token]) -> list[Token]:
    """Put `type 'text'` into parentheses before `::`: sqlglot would apply the second cast to the text first."""
    result: list[Token] = []
    for at, token in enumerate(tokens):
        result.append(token)
        following = tokens[at + 1] if at + 1 < len(tokens) else None
        if token.token_type != TokenType.STRING or following is None or following.token_type != TokenType.DCOLON:
            continue
        start = _type_before(tokens, at)
        if start is not None:
            result.insert(len(result) - 1 - (at - start), _renamed(tokens[start], TokenType.L_PAREN, "("))
            result.append(_renamed(token, TokenType.R_PAREN, ")"))
    return result


def _type_before(tokens: Sequence[Token], end: int) -> int | None:
    """Return where the type's name starts that ends before a token, if one does."""
    at = end - 1
    if at >= 2 and tokens[at].text.lower() == "zone" and tokens[at - 2].text.lower() in ("with", "without"):
        at -= 3
    if at >= 0 and tokens[at].token_type == TokenType.R_PAREN:
        while at >= 0 and tokens[at].token_type != TokenType.L_PAREN:
            at -= 1
        at -= 1
    if at < 0 or tokens[at].token_type in (TokenType.IDENTIFIER, TokenType.STRING):
        return None
    words = tokens[at].text.lower().split()
    return at if words and words[0] in _TYPE_WORDS else None


_SWALLOWING: Final = frozenset((TokenType.COMMAND, TokenType.EXECUTE, TokenType.FETCH, TokenType.SHOW))


def _split(sql: str) -> list[list[Token]]:
    """Return the tokens of each statement. Positions count in the whole text."""
    parts: list[list[Token]] = [[]]
    tokens = _tokenize(sql)
    at = 0
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if token.token_type == TokenType.SEMICOLON:
            parts.append([])
            continue
        parts[-1].append(token)
        if token.token_type in _SWALLOWING and len(parts[-1]) == 1:
            # After such a word (SHOW, EXPLAIN ..) the tokenizer takes the rest up to the next ';' for one string.
            # A parenthesis in its place keeps positions and lets the rest be read properly.
            tokens = _tokenize(" " * token.start + "(" + " " * (token.end - token.start) + sql[token.end + 1 :])
            at = 1
    return [part for part in parts if part]


def _parse_one(sql: str, tokens: Sequence[Token]) -> Statement:
    start, end = tokens[0].start, tokens[-1].end + 1
    command = parse_command(sql, tokens, lambda inner: _parse_one(sql, inner) if inner else _empty(sql, start))
    if command is not None:
        return Statement(command[0], sql, start, end, command=command[1])
    _refuse_by_name(sql, tokens)
    _guard_nesting(tokens)
    tree = _parse_tree(sql, list(tokens))
    _guard_depth(tree)
    for kind_class, kind in _KINDS:
        if isinstance(tree, kind_class):
            return Statement(kind, sql, start, end, tree=tree)
    if isinstance(tree, exp.Command):
        raise unsupported(" ".join(token.text.upper() for token in tokens[:2]), start + 1)
    raise syntax_error(sql, tokens[0].start, tokens[0].end)


def _empty(sql: str, at: int) -> Statement:
    raise syntax_error(sql, at, at)


_REFUSED: Final = frozenset(
    [
        "call",
        "close",
        "cluster",
        "declare",
        "do",
        "execute",
        "fetch",
        "import",
        "listen",
        "load",
        "move",
        "notify",
        "prepare",
        "reassign",
        "refresh",
        "reindex",
        "security",
        "unlisten",
    ]
)
_OBJECTS: Final = {
    "create": frozenset(
        [
            "table",
            "temp",
            "temporary",
            "unlogged",
            "global",
            "local",
            "index",
            "unique",
            "view",
            "schema",
            "sequence",
            "or",
        ]
    ),
    "alter": frozenset(["table", "index", "view", "schema", "sequence"]),
    "drop": frozenset(["table", "index", "view", "schema", "sequence"]),
}


def _refuse_by_name(sql: str, tokens: Sequence[Token]) -> None:
    """Raise NotSupported for statements that PostgreSQL has and this engine does not."""
    if tokens[0].token_type in (TokenType.IDENTIFIER, TokenType.STRING):
        return
    word = tokens[0].text.lower()
    if word in _REFUSED:
        raise unsupported(word.upper(), tokens[0].start + 1)
    objects = _OBJECTS.get(word)
    if objects is None or len(tokens) < 2:
        return
    second = tokens[1].text.lower()
    if second == "or" and len(tokens) > 3:
        second = tokens[3].text.lower()
    if second not in objects and second.isalpha():
        raise unsupported(f"{word} {second}".upper(), tokens[0].start + 1)


def _parse_tree(sql: str, tokens: list[Token]) -> exp.Expr:
    parser = _DIALECT.parser(error_level=ErrorLevel.IMMEDIATE)
    try:
        trees = parser.parse(tokens, sql)
    except ParseError as error:
        raise _parse_error(sql, tokens, error) from None
    except RecursionError:
        raise too_complex("stack depth limit exceeded") from None
    tree = trees[0] if len(trees) == 1 else None
    if not isinstance(tree, exp.Expr):
        raise syntax_error(sql, tokens[0].start, tokens[0].end)
    return tree


def _token_error(sql: str, error: TokenError) -> SyntaxProblem:
    """The tokenizer stops only at a string, identifier or comment that does not end."""
    for mark, what in (
        ("'", "quoted string"),
        ('"', "quoted identifier"),
        ("/*", "/* comment"),
        ("$", "dollar-quoted string"),
    ):
        at = sql.rfind(mark)
        if at >= 0:
            near = sql[at:]
            return SyntaxProblem(f'unterminated {what} at or near "{near}"', position=at + 1)
    return SyntaxProblem(f"syntax error: {error}")


def _parse_error(sql: str, tokens: Sequence[Token], error: ParseError) -> SyntaxProblem:
    details = error.errors[0] if error.errors else {}
    line, column = details.get("line"), details.get("col")
    for at, token in enumerate(tokens):
        if token.line == line and token.col == column:
            # "Required keyword missing" and "Expecting )" name the last good token; PostgreSQL names the next one.
            description = str(details.get("description", ""))
            after = description.startswith(("Required keyword", "Expecting", "Expected"))
            if after and at + 1 >= len(tokens):
                return SyntaxProblem("syntax error at end of input", position=tokens[-1].end + 2)
            bad = tokens[at + 1] if after else token
            return syntax_error(sql, bad.start, bad.end)
    last = tokens[-1]
    return syntax_error(sql, last.start, last.end)


_OPENING: Final = frozenset((TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.CASE))
_CLOSING: Final = frozenset((TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.END))
_PREFIX: Final = frozenset((TokenType.NOT, TokenType.DASH, TokenType.PLUS, TokenType.TILDE))


def _guard_nesting(tokens: Sequence[Token]) -> None:
    depth = prefixes = 0
    for token in tokens:
        kind = token.token_type
        if kind in _PREFIX:
            prefixes += 1
        else:
            prefixes = 0
            if kind in _OPENING:
                depth += 1
            elif kind in _CLOSING:
                depth -= 1
        if depth + prefixes > MAX_NESTING:
            raise too_complex("stack depth limit exceeded")


_CHAINS: Final = (exp.And, exp.Or, exp.Union, exp.Intersect, exp.Except)


def _guard_depth(tree: exp.Expr) -> None:
    """Refuse a tree that is too deep. AND, OR and set operations chain to the left and are walked in loops."""
    pending: list[tuple[exp.Expr, int]] = [(tree, 0)]
    while pending:
        node, depth = pending.pop()
        if depth > MAX_TREE_DEPTH:
            raise too_complex("stack depth limit exceeded")
        chained = isinstance(node, _CHAINS)
        pending.extend(
            (child, depth if chained and isinstance(child, type(node)) else depth + 1)
            for child in node.iter_expressions()
        )
