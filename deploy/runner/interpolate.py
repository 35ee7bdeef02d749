"""Variables as Compose reads them: `${NAME:-default}` in the file, NAME=value in env files.

Owns the two small languages. Owns no environment: the caller hands the variables in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LINE = re.compile(r"\s*(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?P<value>.*)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "$": "$$"}


class InterpolationError(ValueError):
    """A malformed reference, or a required variable (`${NAME:?message}`) without a value."""


class _Reference(NamedTuple):
    name: str
    operator: str
    """One of :- - :? ? :+ + or empty."""
    argument: str


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Return the text with its references replaced; an unset plain reference becomes empty, `$$` becomes `$`.

    Raises InterpolationError.
    """
    parts: list[str] = []
    position = 0
    while (dollar := text.find("$", position)) >= 0:
        parts.append(text[position:dollar])
        following = text[dollar + 1 : dollar + 2]
        if following == "$":
            parts.append("$")
            position = dollar + 2
        elif following == "{":
            end = _closing_brace(text, dollar + 2)
            parts.append(_value(_parsed(text[dollar + 2 : end]), variables))
            position = end + 1
        elif name := _NAME.match(text, dollar + 1):
            parts.append(variables.get(name.group(), ""))
            position = name.end()
        else:
            raise InterpolationError(f"a single $ in {text!r}: write $$ for the character itself")
    parts.append(text[position:])
    return "".join(parts)


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for index in range(start, len(text)):
        if text[index] == "}":
            depth -= 1
            if depth == 0:
                return index
        elif text.startswith("${", index):
            depth += 1
    raise InterpolationError(f"no closing brace in {text!r}")


def _parsed(body: str) -> _Reference:
    name = _NAME.match(body)
    if name is None:
        raise InterpolationError(f"${{{body}}} does not start with a variable's name")
    rest = body[name.end() :]
    for operator in (":-", ":?", ":+", "-", "?", "+"):
        if rest.startswith(operator):
            return _Reference(name.group(), operator, rest[len(operator) :])
    if rest:
        raise InterpolationError(f"${{{body}}} has an unknown operator")
    return _Reference(name.group(), "", "")


def _value(reference: _Reference, variables: Mapping[str, str]) -> str:
    value = variables.get(reference.name)
    given = bool(value) if reference.operator.startswith(":") else value is not None
    match reference.operator[-1:]:
        case "-":
            return value or "" if given else interpolate(reference.argument, variables)
        case "+":
            return interpolate(reference.argument, variables) if given else ""
        case "?" if not given:
            message = interpolate(reference.argument, variables) or "it is required"
            raise InterpolationError(f"{reference.name} is not set: {message}")
    return value or ""


def read_env_file(text: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the assignments of an env file; a value may refer to `variables` and to earlier lines.

    Raises InterpolationError with the line's number.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        assignment = _LINE.fullmatch(line)
        if assignment is None:
            raise InterpolationError(f"line {number} is not NAME=value")
        try:
            found[assignment["name"]] = _env_value(assignment["value"], {**found, **variables})
        except InterpolationError as error:
            raise InterpolationError(f"line {number}: {error}") from error
    return found


def _env_value(raw: str, variables: Mapping[str, str]) -> str:
    if raw[:1] in ("'", '"'):
        quote = raw[0]
        closing = re.compile(r"'([^']*)'" if quote == "'" else r'"((?:[^"\\]|\\.)*)"').match(raw)
        if closing is None or raw[closing.end() :].strip(" \t").split("#", 1)[0]:
            raise InterpolationError("the quotes do not enclose the whole value")
        if quote == "'":
            return closing[1]
        plain = re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[0]), closing[1])
        return interpolate(plain, variables)
    return interpolate(re.split(r"(?:^|\s)#", raw, maxsplit=1)[0].strip(), variables)
