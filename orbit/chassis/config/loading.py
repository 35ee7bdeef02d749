"""Reads the configuration file and the environment into one `Config`.

Owns precedence (environment over file over default), the origin of each value, and the refusal of unknown names.
Owns no setting: `sections` does.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError

from orbit.chassis.config import derived
from orbit.chassis.config.sections import Config
from orbit.chassis.config.uses import USED_BY
from orbit.chassis.config.values import Env, masked

PREFIX = "ORBIT_"
FILE_VARIABLE = "ORBIT_CONFIG"

COMMAND_VARIABLES = {
    FILE_VARIABLE: "the configuration file",
    "ORBIT_STATE_DIR": "where `orbit up` keeps run.json, the password and logs",
    "ORBIT_PORT_OFFSET": "moves every port of `make cluster`",
}
"""Variables with our prefix that are not settings of the engine: they steer the commands around it."""

# Kubernetes puts the addresses of services into every container of their namespace; a service named orbit-cluster
# yields ORBIT_CLUSTER_SERVICE_HOST and ORBIT_CLUSTER_PORT=tcp://10.0.0.7:7000. Nobody set these.
_SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$")
_SERVICE_LINK_VALUE = re.compile(r"^(tcp|udp|sctp)://[^/]+:\d+$")


class ConfigError(Exception):
    """The configuration cannot be used; `problems` has one sentence each, with the key's name and no secret."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as the tree of sections declares it."""

    path: str
    env: Env
    secret: bool
    default: Any
    used_by: str | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """The configuration and where each value came from: default, derived, file or environment."""

    config: Config
    sources: Mapping[str, str]
    file: Path | None


def environment() -> dict[str, str]:
    """Return a copy of this process's environment, for a child that is to be started with a changed one."""
    return dict(os.environ)


def load(
    environ: Mapping[str, str] | None = None, file: Path | None = None, defaults: Mapping[str, Any] | None = None
) -> Loaded:
    """Return the configuration of `environ` (default: the process's own) over the file over the defaults.

    The file is `file`, or the one that ORBIT_CONFIG names, or none. `defaults` replaces declared defaults by path.
    Raises ConfigError with every problem found.
    """
    variables: Mapping[str, str] = os.environ if environ is None else environ
    if file is None and variables.get(FILE_VARIABLE):
        file = Path(variables[FILE_VARIABLE])
    declared = settings()
    from_file = {} if file is None else _flat(_read_file(file), declared.keys())
    from_environment, problems = _read_environment(variables, declared)
    problems = [*_unknown_variables(variables, declared), *_unknown_keys(from_file, declared, file), *problems]
    sources = dict.fromkeys(declared, "default")
    sources.update(dict.fromkeys(from_file, "file"))
    sources.update(dict.fromkeys(from_environment, "environment"))
    if not problems:
        try:
            config = Config.model_validate(_nested({**(defaults or {}), **from_file, **from_environment}))
        except ValidationError as error:
            problems = list(_described(error, declared, sources))
    if problems:
        raise ConfigError(problems)
    for path in _flat(derived.missing(config), declared.keys()):
        if sources[path] == "default":
            sources[path] = "derived"
    return Loaded(config, sources, file)


def settings() -> dict[str, Setting]:
    """Return every setting by its TOML path, in the order of the sections."""
    return {setting.path: setting for setting in _declared(Config, "")}


def value_at(config: BaseModel, path: str) -> Any:
    """Return the value at a dotted path."""
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _declared(section: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for name, field in section.model_fields.items():
        path = f"{prefix}{name}"
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _declared(kind, f"{path}.")
            continue
        env = next((item for item in field.metadata if isinstance(item, Env)), None)
        assert env is not None, f"{path} names no environment variable"
        yield Setting(path, env, kind is SecretStr, field.get_default(), USED_BY.get(path))


def _read_file(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise ConfigError([f"configuration file {file} cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"configuration file {file} is not TOML: {error}"]) from error


def _flat(table: Mapping[str, Any], known: AbstractSet[str], prefix: str = "") -> dict[str, Any]:
    """Return values by dotted path. An empty table that is no section of ours stays, so that it can be refused."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and path not in known:
            result.update(_flat(value, known, f"{path}."))
            if not value and not any(name.startswith(f"{path}.") for name in known):
                result[path] = value
        else:
            result[path] = value
    return result


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for path, value in flat.items():
        *sections, name = path.split(".")
        table = result
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = value
    return result


def _read_environment(
    variables: Mapping[str, str], declared: Mapping[str, Setting]
) -> tuple[dict[str, Any], list[str]]:
    """Return the values by path, and what could not be converted. An empty variable counts as not set."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for path, setting in declared.items():
        text = variables.get(setting.env.name, "")
        if not text:
            continue
        try:
            values[path] = text if setting.env.convert is None else setting.env.convert(text)
        except (ValueError, OverflowError):
            problems.append(f"{setting.env.name} ({path}) = {text!r} is not a number")
    return values, problems


def _unknown_variables(variables: Mapping[str, str], declared: Mapping[str, Setting]) -> Iterator[str]:
    known = {setting.env.name for setting in declared.values()} | set(COMMAND_VARIABLES)
    in_kubernetes = "KUBERNETES_SERVICE_HOST" in variables
    for name in sorted(variables):
        if not name.startswith(PREFIX) or name in known:
            continue
        if in_kubernetes and (_SERVICE_LINK.search(name) or _SERVICE_LINK_VALUE.match(variables[name])):
            continue
        yield f"{name}: unknown environment variable{_closest(name, known)}"


def _unknown_keys(from_file: Mapping[str, Any], declared: Mapping[str, Setting], file: Path | None) -> Iterator[str]:
    for path in from_file:
        if any(name.startswith(f"{path}.") for name in declared):
            yield f"{path}: is a section in {file}, not a value"
        elif path not in declared:
            yield f"{path}: unknown key in {file}{_closest(path, declared)}"
        elif declared[path].secret:
            yield f"{path}: secrets are not read from a file; set {declared[path].env.name} in the environment"


def _closest(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"; did you mean {matches[0]}?" if matches else ""


def _described(error: ValidationError, declared: Mapping[str, Setting], sources: Mapping[str, str]) -> Iterator[str]:
    """Return one sentence for each problem that validation found: the key, its value (no secret) and why."""
    for problem in error.errors(include_url=False):
        path = ".".join(str(part) for part in problem["loc"])
        while path and path not in declared:
            path = path.rpartition(".")[0]
        reason = problem["msg"].removeprefix("Value error, ")
        if not path:
            yield from reason.splitlines()
            continue
        setting = declared[path]
        name = setting.env.name if sources[path] == "environment" else path
        other = path if name == setting.env.name else setting.env.name
        shown = "" if setting.secret else f" = {masked(problem['input'])!r}"
        hint = ""
        if _SERVICE_LINK_VALUE.match(str(problem["input"])):
            hint = (
                "; Kubernetes sets this variable for a service of that name: set enableServiceLinks: false on the pod"
            )
        yield f"{name} ({other}){shown}: {reason[0].lower()}{reason[1:]}{hint}"
