"""LIKE and regular expressions.

PostgreSQL's regular expressions are translated to Python's where both mean the same; what has no equal is refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from orbit.kernel.errors import NotSupported, OrbitError
from services.storage.sql.evaluate.registry import function, keys


@lru_cache(maxsize=1024)
def like_pattern(pattern: str, fold: bool) -> re.Pattern[str]:
    """Return a LIKE pattern (escape character: backslash) as a compiled expression over the whole string."""
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "%":
            parts.append(".*")
        elif char == "_":
            parts.append(".")
        elif char == "\\":
            at += 1
            parts.append(re.escape(pattern[at]) if at < len(pattern) else "(?P<dangling>.+)")
        else:
            parts.append(re.escape(char))
        at += 1
    return re.compile("".join(parts), re.DOTALL | (re.IGNORECASE if fold else 0))


def _matches(value: str, pattern: re.Pattern[str]) -> bool:
    found = pattern.fullmatch(value)
    if found is not None and "dangling" in pattern.groupindex:
        # The escape at the end matters only when there is text left for it.
        raise OrbitError("LIKE pattern must not end with escape character", sqlstate="22025")
    return found is not None


def like(value: str, pattern: str) -> bool:
    return _matches(value, like_pattern(pattern, False))


def ilike(value: str, pattern: str) -> bool:
    return _matches(value, like_pattern(pattern, True))


for _type in ("text,text", "name,text", "bpchar,text"):
    function(f"~~({_type})")(like)
    function(f"!~~({_type})")(lambda v, p: not like(v, p))
    function(f"~~*({_type})")(ilike)
    function(f"!~~*({_type})")(lambda v, p: not ilike(v, p))


_CLASSES: Final = {
    "alpha": "a-zA-Z", "digit": "0-9", "alnum": "a-zA-Z0-9", "space": r"\s", "upper": "A-Z", "lower": "a-z",
    "punct": re.escape("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"), "xdigit": "0-9A-Fa-f", "word": r"\w",
}  # fmt: skip
_SAME_ESCAPES: Final = frozenset("dDwWsSbBAnrtfv.\\^$*+?()[]{}|/-'\"#~&@%!,:;<>=` _")


def _translate(pattern: str) -> str:
    """Return the pattern in Python's syntax. Raises 0A000 for what means something else there."""
    if pattern.startswith("***"):
        if pattern.startswith("***="):
            return re.escape(pattern[4:])
        raise NotSupported("regular expression with a *** director is not supported")
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\" and at + 1 < len(pattern):
            at += 1
            following = pattern[at]
            if following == "m":
                parts.append(r"\b(?=\w)")
            elif following == "M":
                parts.append(r"\b(?<=\w)")
            elif following == "y":
                parts.append(r"\b")
            elif following == "Y":
                parts.append(r"\B")
            elif following == "Z":
                parts.append(r"\Z")
            elif following in "123456789" or (following in _SAME_ESCAPES and following not in "bB"):
                parts.append("\\" + following)
            else:
                raise NotSupported(f"regular expression escape \\{following} is not supported")
        elif char == "[":
            end, translated = _bracket(pattern, at)
            parts.append(translated)
            at = end
        elif char == "$":
            # Python's $ also matches before a final line feed.
            parts.append(r"\Z")
        elif char == "(" and pattern.startswith("(?", at) and pattern[at + 2 : at + 3] not in (":", "=", "!", "<"):
            raise NotSupported("regular expression with embedded options is not supported")
        else:
            parts.append(char)
        at += 1
    return "".join(parts)


def _bracket(pattern: str, at: int) -> tuple[int, str]:
    parts = ["["]
    at += 1
    if pattern[at : at + 1] == "^":
        parts.append("^")
        at += 1
    first = True
    while at < len(pattern):
        char = pattern[at]
        if char == "]" and not first:
            parts.append("]")
            return at, "".join(parts)
        first = False
        if pattern.startswith("[:", at) and ":]" in pattern[at:]:
            end = pattern.index(":]", at)
            name = pattern[at + 2 : end]
            if name not in _CLASSES:
                raise OrbitError("invalid regular expression: invalid character class", sqlstate="2201B")
            parts.append(_CLASSES[name])
            at = end + 2
            continue
        if char == "[":
            if pattern[at + 1 : at + 2] in (".", "="):
                raise NotSupported("regular expression collating element is not supported")
            parts.append(r"\[")
        elif char == "\\" and at + 1 < len(pattern):
            parts.append(pattern[at : at + 2])
            at += 1
        elif char in "&~|":
            parts.append("\\" + char)
        else:
            parts.append(char)
        at += 1
    raise OrbitError("invalid regular expression: brackets [] not balanced", sqlstate="2201B")


@lru_cache(maxsize=1024)
def regex(pattern: str, flags: str = "") -> re.Pattern[str]:
    """Return a PostgreSQL regular expression, compiled. Raises 2201B."""
    options = re.DOTALL
    for flag in flags:
        if flag == "i":
            options |= re.IGNORECASE
        elif flag == "c":
            options &= ~re.IGNORECASE
        elif flag in "nm":
            raise NotSupported(f'regular expression option "{flag}" is not supported')
        elif flag not in "sg":
            raise OrbitError(f'invalid regular expression option: "{flag}"', sqlstate="22023")
    try:
        return re.compile(_translate(pattern), options)
    except re.error as error:
        raise OrbitError(f"invalid regular expression: {_complaint(error.msg)}", sqlstate="2201B") from None


def _complaint(message: str) -> str:
    """Return PostgreSQL's words for what is wrong with a regular expression."""
    for part, words in (
        ("paren", "parentheses () not balanced"), ("subpattern", "parentheses () not balanced"),
        ("character set", "brackets [] not balanced"), ("repeat", "quantifier operand invalid"),
        ("escape", "invalid escape \\ sequence"), ("range", "invalid character range"),
        ("group reference", "invalid backreference number"),
    ):  # fmt: skip
        if part in message:
            return words
    return message


for _type in ("text,text", "name,text", "bpchar,text"):
    function(f"~({_type})")(lambda v, p: regex(p).search(v) is not None)
    function(f"!~({_type})")(lambda v, p: regex(p).search(v) is None)
    function(f"~*({_type})")(lambda v, p: regex(p, "i").search(v) is not None)
    function(f"!~*({_type})")(lambda v, p: regex(p, "i").search(v) is None)


@function("regexp_like(text,text)", "regexp_like(text,text,text)")
def _regexp_like(value: str, pattern: str, flags: str = "") -> bool:
    return regex(pattern, flags).search(value) is not None


@function("regexp_count(text,text)")
def _regexp_count(value: str, pattern: str) -> int:
    return sum(1 for _ in regex(pattern).finditer(value))


@function("regexp_substr(text,text)")
def _regexp_substr(value: str, pattern: str) -> str | None:
    found = regex(pattern).search(value)
    return None if found is None else found[0]


@function("substring(text,text)")
def _substring_regex(value: str, pattern: str) -> str | None:
    found = regex(pattern).search(value)
    if found is None:
        return None
    return str(found[1]) if found.re.groups and found[1] is not None else None if found.re.groups else found[0]


@function("substring(text,text,text)")
def _substring_similar(value: str, pattern: str, escape: str) -> str:
    raise NotSupported("substring(.. similar ..) is not supported")


@function("regexp_replace(text,text,text)", "regexp_replace(text,text,text,text)")
def _regexp_replace(value: str, pattern: str, replacement: str, flags: str = "") -> str:
    def expand(match: re.Match[str]) -> str:
        parts: list[str] = []
        at = 0
        while at < len(replacement):
            char = replacement[at]
            following = replacement[at + 1 : at + 2]
            if char == "\\" and following:
                if following.isdigit():
                    group = int(following)
                    parts.append(match[group] or "" if group <= match.re.groups else "")
                elif following == "&":
                    parts.append(match[0])
                else:
                    parts.append(following if following == "\\" else char + following)
                at += 2
                continue
            parts.append(char)
            at += 1
        return "".join(parts)

    return regex(pattern, flags).sub(expand, value, count=0 if "g" in flags else 1)


def _groups(match: re.Match[str]) -> tuple[str | None, ...]:
    return match.groups() if match.re.groups else (match[0],)


@function("regexp_match(text,text)", "regexp_match(text,text,text)")
def _regexp_match(value: str, pattern: str, flags: str = "") -> tuple[str | None, ...] | None:
    if "g" in flags:
        raise OrbitError('regexp_match() does not support the "global" option', sqlstate="22023")
    found = regex(pattern, flags).search(value)
    return None if found is None else _groups(found)


def matches(value: str, pattern: str, flags: str = "") -> list[tuple[str | None, ...]]:
    """Return the rows of regexp_matches."""
    found = list(regex(pattern, flags).finditer(value))
    return [_groups(match) for match in (found if "g" in flags else found[:1])]


@function("regexp_split_to_array(text,text)")
def split(value: str, pattern: str) -> tuple[str, ...]:
    """Split at matches; an empty match at an end splits nothing."""
    parts: list[str] = []
    start = 0
    for match in regex(pattern).finditer(value):
        if match.end() == match.start() and (match.start() in (start, len(value))):
            if match.start() == start and start < len(value) and match.start() > 0:
                pass
            continue
        parts.append(value[start : match.start()])
        start = match.end()
    parts.append(value[start:])
    return tuple(parts)


def _split(value: str | None, separator: str | None, null: str | None = None) -> tuple[str | None, ...] | None:
    if value is None:
        return None
    if value == "":
        return ()
    parts: list[str] = list(value) if separator is None else [value] if separator == "" else value.split(separator)
    return tuple(None if null is not None and part == null else part for part in parts)


function(*keys("string_to_array", "text,text", "text,text,text"))(_split)


def to_table(value: Any, separator: Any) -> tuple[str | None, ...]:
    return _split(value, separator) or ()
