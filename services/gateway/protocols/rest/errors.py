"""Engine errors as HTTP: the status of an SQLSTATE and the body that every error has.

{"error": {"code": "42P01", "message": "relation \"x\" does not exist", "detail": null, "hint": null}}
"""

from __future__ import annotations

from typing import Final

import msgspec

from orbit.kernel.errors import OrbitError

_BY_SQLSTATE: Final[dict[str, int]] = {
    "02000": 404,
    "08P01": 400,
    "23505": 409,
    "25006": 403,
    "3D000": 404,
    "3F000": 404,
    "40001": 409,
    "40P01": 409,
    "42501": 403,
    "42704": 404,
    "42P01": 404,
    "42P07": 409,
    "55P03": 409,
    "57014": 504,
}
_BY_CLASS: Final[dict[str, int]] = {
    "08": 503,
    "0A": 501,
    "21": 400,
    "22": 400,
    "23": 400,
    "25": 400,
    "28": 401,
    "2B": 409,
    "2F": 400,
    "40": 409,
    "42": 400,
    "44": 400,
    "53": 503,
    "54": 413,
    "55": 409,
    "57": 503,
    "58": 503,
}


class NotFound(OrbitError):
    """There is no row with this key."""

    default_sqlstate = "02000"


class BadRequest(OrbitError):
    """A request whose form is wrong."""

    default_sqlstate = "22023"


def status_of(sqlstate: str) -> int:
    """Return the HTTP status of an error; 500 for what is the engine's own fault."""
    return _BY_SQLSTATE.get(sqlstate) or _BY_CLASS.get(sqlstate[:2], 500)


def body_of(error: OrbitError) -> bytes:
    """Return the JSON body of an error."""
    return plain_body(error.sqlstate, error.message, error.detail, error.hint)


def plain_body(code: str, message: str, detail: str | None = None, hint: str | None = None) -> bytes:
    """Return the JSON body of an error that HTTP itself raised."""
    return msgspec.json.encode({"error": {"code": code, "message": message, "detail": detail, "hint": hint}})
