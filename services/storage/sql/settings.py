"""Session settings: what SET, SHOW and RESET know, and what they mean here.

Owns the names, defaults and checks. A setting is either acted upon, or harmless to accept because every value means
the same here; everything else is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from orbit.kernel.errors import NotSupported, OrbitError

SERVER_VERSION = "15.18"
SERVER_VERSION_NUM = "150018"


def _invalid(name: str, value: str) -> OrbitError:
    return OrbitError(f'invalid value for parameter "{name}": "{value}"', sqlstate="22023")


def _boolean(name: str, value: str) -> str:
    word = value.lower()
    if word in ("on", "true", "yes", "1", "t", "y"):
        return "on"
    if word in ("off", "false", "no", "0", "f", "n"):
        return "off"
    raise OrbitError(f'parameter "{name}" requires a Boolean value', sqlstate="22023")


def _anything(_name: str, value: str) -> str:
    return value


def _one_of(*accepted: str) -> Callable[[str, str], str]:
    def check(name: str, value: str) -> str:
        for word in accepted:
            if word.lower() == value.lower():
                return word
        raise _invalid(name, value)

    return check


def _only(meaning: str, *accepted: str) -> Callable[[str, str], str]:
    """Accept the spellings of the one value that the engine implements; name the feature for any other."""

    def check(name: str, value: str) -> str:
        if value.replace(" ", "").lower() in {word.replace(" ", "").lower() for word in accepted}:
            return meaning
        raise NotSupported(f'setting "{name}" to "{value}" is not supported, it is always "{meaning}"')

    return check


def _fixed(name: str, _value: str) -> str:
    raise OrbitError(f'parameter "{name}" cannot be changed', sqlstate="55P02")


_DURATION = re.compile(r"^\s*(-?\d+)\s*(us|ms|s|min|h|d)?\s*$")
_MILLISECONDS = {"us": 0.001, "ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, None: 1}


def _duration(name: str, value: str) -> str:
    milliseconds(value, name)
    return value.strip()


def milliseconds(value: str, name: str = "statement_timeout") -> int:
    """Return a duration setting in milliseconds; a bare number is milliseconds."""
    match = _DURATION.match(value)
    if match is None or int(match[1]) < 0:
        raise _invalid(name, value)
    return round(int(match[1]) * _MILLISECONDS[match[2]])


def time_zone(value: str) -> tzinfo:
    """Return the zone that a TimeZone setting names. Raises 22023."""
    if value.upper() in ("UTC", "GMT", "Z", "ETC/UTC"):
        return UTC
    try:
        return ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise _invalid("TimeZone", value) from error


def _zone(_name: str, value: str) -> str:
    time_zone(value)
    return value


_levels = _one_of("read committed", "read uncommitted", "repeatable read", "serializable")


def _isolation(name: str, value: str) -> str:
    level = _levels(name, value)
    if level == "serializable":
        raise NotSupported("isolation level SERIALIZABLE is not supported")
    return level


@dataclass(frozen=True, slots=True)
class _Setting:
    name: str
    default: str
    check: Callable[[str, str], str]
    reported: bool = False
    """Clients are told of each new value (ParameterStatus)."""


_KNOWN = {
    setting.name.lower(): setting
    for setting in (
        _Setting("application_name", "", _anything, reported=True),
        _Setting("bytea_output", "hex", _only("hex", "hex")),
        _Setting("check_function_bodies", "on", _boolean),
        _Setting("client_encoding", "UTF8", _only("UTF8", "UTF8", "UTF-8", "unicode"), reported=True),
        _Setting("client_min_messages", "notice", _one_of("debug", "log", "notice", "warning", "error")),
        _Setting("DateStyle", "ISO, MDY", _only("ISO, MDY", "ISO", "ISO, MDY", "ISO,MDY"), reported=True),
        _Setting("default_transaction_isolation", "read committed", _isolation),
        _Setting("default_transaction_read_only", "off", _boolean, reported=True),
        _Setting("extra_float_digits", "1", _one_of("1", "2", "3")),
        _Setting("idle_in_transaction_session_timeout", "0", _duration),
        _Setting("in_hot_standby", "off", _fixed, reported=True),
        _Setting("integer_datetimes", "on", _fixed, reported=True),
        _Setting("IntervalStyle", "postgres", _only("postgres", "postgres"), reported=True),
        _Setting("is_superuser", "off", _fixed, reported=True),
        _Setting("lock_timeout", "0", _duration),
        _Setting("max_identifier_length", "63", _fixed),
        _Setting("row_security", "on", _boolean),
        _Setting("search_path", '"$user", public', _anything),
        _Setting("server_encoding", "UTF8", _fixed, reported=True),
        _Setting("server_version", SERVER_VERSION, _fixed, reported=True),
        _Setting("server_version_num", SERVER_VERSION_NUM, _fixed),
        _Setting("session_authorization", "", _fixed, reported=True),
        _Setting("standard_conforming_strings", "on", _only("on", "on", "true", "yes", "1"), reported=True),
        _Setting("statement_timeout", "0", _duration),
        _Setting("synchronous_commit", "on", _one_of("on", "local", "remote_write", "remote_apply")),
        _Setting("TimeZone", "UTC", _zone, reported=True),
        _Setting("transaction_isolation", "read committed", _isolation),
        _Setting("transaction_read_only", "off", _boolean),
    )
}


def search_path_of(value: str, user: str) -> tuple[str, ...]:
    """Return the schemas that a search_path names, `$user` replaced, in order."""
    names: list[str] = []
    for part in value.split(","):
        name = part.strip()
        name = name[1:-1].replace('""', '"') if name.startswith('"') and name.endswith('"') else name.lower()
        name = name.strip("'")
        if name:
            names.append(user if name == "$user" else name)
    return tuple(names)


def setting_names() -> list[str]:
    return sorted(setting.name for setting in _KNOWN.values())


class Settings:
    """One session's settings. SET LOCAL and SET in a block that rolls back are undone through `mark` and `restore`."""

    __slots__ = ("_defaults", "_initial", "_taken", "_values", "changed", "search_path", "user", "zone")

    def __init__(self, user: str, initial: dict[str, str]) -> None:
        self.user = user
        self._defaults = {key: setting.default for key, setting in _KNOWN.items()}
        self._defaults["session_authorization"] = user
        self._values: dict[str, str] = {}
        self.changed: list[tuple[str, str]] = []
        """(name, value) of reported settings that have changed since the owner was last told."""
        for name, value in initial.items():
            if (setting := _KNOWN.get(name.lower())) is not None and setting.check is not _fixed:
                self._defaults[name.lower()] = setting.check(setting.name, value)
        self._initial = dict(initial)
        self._taken: dict[str, str] = {}
        self._derive()

    def get(self, name: str) -> str:
        """Return a setting's value. Raises 42704 for an unknown name."""
        key = self._key(name)
        return self._values.get(key, self._defaults[key])

    def find(self, name: str) -> str | None:
        """Return a setting's value, None for an unknown name."""
        return self.get(name) if name.lower() in _KNOWN else None

    def set(self, name: str, value: str) -> None:
        """Give a setting a value. Raises 42704, 22023, 55P02 or 0A000."""
        key = self._key(name)
        setting = _KNOWN[key]
        self._put(key, setting.check(setting.name, value))

    def reset(self, name: str) -> None:
        key = self._key(name)
        if key in self._values:
            self._put(key, self._defaults[key])
            del self._values[key]

    def reset_all(self) -> None:
        for key in list(self._values):
            self.reset(key)

    def mark(self) -> dict[str, str]:
        """Return what `restore` takes to undo later changes."""
        return dict(self._values)

    def restore(self, mark: dict[str, str]) -> None:
        for key in self._values.keys() | mark.keys():
            old = mark.get(key, self._defaults[key])
            if self._values.get(key, self._defaults[key]) != old:
                self._put(key, old)
        self._values = dict(mark)

    def take_changes(self) -> dict[str, str] | None:
        """Return all settings that differ from the defaults, if they have changed since the last call."""
        if self._values == self._taken:
            return None
        self._taken = dict(self._values)
        return self._initial | self._taken

    def everything(self) -> list[tuple[str, str]]:
        """Return (name, value) of every setting, by name."""
        return sorted((setting.name, self.get(key)) for key, setting in _KNOWN.items())

    def reported(self) -> list[tuple[str, str]]:
        """Return (name, value) of the settings that clients are told at start."""
        return [(setting.name, self.get(key)) for key, setting in _KNOWN.items() if setting.reported]

    def milliseconds(self, name: str) -> int:
        return milliseconds(self.get(name), name)

    def _key(self, name: str) -> str:
        key = name.lower()
        if key not in _KNOWN:
            raise OrbitError(f'unrecognized configuration parameter "{name}"', sqlstate="42704")
        return key

    def _put(self, key: str, value: str) -> None:
        setting = _KNOWN[key]
        if setting.reported and self._values.get(key, self._defaults[key]) != value:
            self.changed.append((setting.name, value))
        self._values[key] = value
        self._derive()

    def _derive(self) -> None:
        self.zone = time_zone(self.get("TimeZone"))
        self.search_path = search_path_of(self.get("search_path"), self.user)
