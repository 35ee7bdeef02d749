"""A cursor over sqlglot's tokens, for the small statements that we parse ourselves."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot.tokenizer_core import Token, TokenType

from orbit.kernel.errors import SyntaxProblem
from services.storage.sql.parse.errors import syntax_error

_STRINGS = frozenset((TokenType.STRING, TokenType.BYTE_STRING, TokenType.HEREDOC_STRING, TokenType.RAW_STRING))


class Cursor:
    """Reads one statement's tokens from left to right; words compare without regard to case."""

    __slots__ = ("at", "sql", "tokens")

    def __init__(self, sql: str, tokens: Sequence[Token], at: int = 0) -> None:
        self.sql = sql
        self.tokens = tokens
        self.at = at

    @property
    def done(self) -> bool:
        return self.at >= len(self.tokens)

    def peek(self, ahead: int = 0) -> Token | None:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else None

    def next(self) -> Token:
        token = self.peek()
        if token is None:
            raise self.error()
        self.at += 1
        return token

    def error(self) -> SyntaxProblem:
        """Return the syntax error at the current token."""
        token = self.peek()
        if token is None:
            end = self.tokens[-1].end + 1 if self.tokens else 0
            return SyntaxProblem("syntax error at end of input", position=end + 1)
        return syntax_error(self.sql, token.start, token.end)

    def is_word(self, *words: str) -> bool:
        """Return whether the next tokens are these bare words."""
        for ahead, word in enumerate(words):
            token = self.peek(ahead)
            if token is None or token.token_type in _STRINGS or token.token_type == TokenType.IDENTIFIER:
                return False
            if token.text.lower() != word:
                return False
        return True

    def accept(self, *words: str) -> bool:
        """Take these words if they come next."""
        if self.is_word(*words):
            self.at += len(words)
            return True
        return False

    def accept_one(self, *words: str) -> str | None:
        """Take one of these words if it comes next, and return it."""
        return next((word for word in words if self.accept(word)), None)

    def expect(self, *words: str) -> None:
        for word in words:
            if not self.accept(word):
                raise self.error()

    def finish(self) -> None:
        if not self.done:
            raise self.error()

    def is_string(self) -> bool:
        token = self.peek()
        return token is not None and token.token_type in _STRINGS

    def string(self) -> str:
        if not self.is_string():
            raise self.error()
        return self.next().text

    def name(self) -> str:
        """Take an identifier, folded to lower case unless it was quoted."""
        token = self.peek()
        if token is None or token.token_type in _STRINGS or token.token_type == TokenType.NUMBER:
            raise self.error()
        if token.token_type == TokenType.IDENTIFIER:
            self.at += 1
            return token.text
        if not (token.text[:1].isalpha() or token.text[:1] == "_"):
            raise self.error()
        self.at += 1
        return token.text.lower()

    def qualified_name(self) -> tuple[str | None, str]:
        """Take `name` or `schema.name`."""
        first = self.name()
        if self.accept("."):
            return first, self.name()
        return None, first
