"""The part of the Compose file format that the runner understands, as frozen values.

Owns reading, merging and checking. What would change how a service runs and is not understood is refused by name;
what has no meaning without containers (networks, resource limits, restart policies) is left out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from deploy.runner.interpolate import interpolate

Condition = Literal["service_started", "service_healthy", "service_completed_successfully"]

UNDERSTOOD = frozenset({
    "build", "command", "depends_on", "entrypoint", "environment", "expose", "healthcheck", "image", "ports", "restart",
    "scale", "stop_grace_period", "stop_signal", "volumes",
})  # fmt: skip
WITHOUT_MEANING = frozenset({
    "cap_add", "cap_drop", "container_name", "cpus", "deploy", "hostname", "init", "labels", "logging", "mem_limit",
    "networks", "platform", "pull_policy", "read_only", "security_opt", "tmpfs", "ulimits", "user",
})  # fmt: skip

_DURATION = re.compile(r"(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m(?!s))?(?:(?P<s>\d+(?:\.\d+)?)s)?(?:(?P<ms>\d+)ms)?")


class ComposeError(ValueError):
    """A file that is no Compose file, or asks for something that the runner does not do."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """`test` is a command line; with `shell` it is one line for /bin/sh."""

    test: tuple[str, ...]
    shell: bool = False
    interval_s: float = 30.0
    timeout_s: float = 30.0
    retries: int = 3
    start_period_s: float = 0.0

    @property
    def patience_s(self) -> float:
        """How long a start may take before the service counts as unhealthy."""
        return self.start_period_s + self.retries * self.interval_s


@dataclass(frozen=True, slots=True)
class Mount:
    """`source` is a volume's name or, when `bind`, a path of the host."""

    source: str
    target: str
    bind: bool
    read_only: bool


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    image: str = ""
    built: str | None = None
    """The SERVICE that this project's own Dockerfile is asked for; None for an image of others."""
    context: Path = Path()
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    """Every port that the container listens on: exposed or published."""
    published: Mapping[int, int] = field(default_factory=dict)
    """Host port of each published container port."""
    mounts: tuple[Mount, ...] = ()
    depends_on: Mapping[str, Condition] = field(default_factory=dict)
    healthcheck: HealthCheck | None = None
    stop_signal: str = "SIGTERM"
    stop_grace_s: float = 10.0
    scale: int = 1
    one_shot: bool = False
    """It is meant to end: its restart policy does not bring it back after success."""


def load(files: Sequence[Path], variables: Mapping[str, str]) -> dict[str, Service]:
    """Return the services of the merged files, in file order. Raises ComposeError, InterpolationError, OSError."""
    merged: dict[str, Any] = {}
    for path in files:
        document = yaml.safe_load(path.read_text())
        if not isinstance(document, dict) or not isinstance(document.get("services"), dict):
            raise ComposeError(f"{path} has no services")
        if "include" in document:
            raise ComposeError(f"{path}: the runner does not understand include")
        # What starts with x- only carries YAML anchors, which have been resolved by now.
        for name, body in _interpolated(document["services"], variables).items():
            merged[name] = _merged(merged.get(name, {}), _normalized(name, body))
    directory = files[0].resolve().parent
    services = {name: _service(name, body, directory, variables) for name, body in merged.items()}
    for service in services.values():
        if missing := sorted(set(service.depends_on) - set(services)):
            raise ComposeError(f"{service.name} depends on {missing[0]}, which is no service")
    return services


def _interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return interpolate(value, variables)
    if isinstance(value, dict):
        return {key: _interpolated(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolated(item, variables) for item in value]
    return value


def _normalized(name: str, body: Any) -> dict[str, Any]:
    """Bring the forms that two files may differ in to the ones that merge by key."""
    if not isinstance(body, dict):
        raise ComposeError(f"{name} is no mapping")
    if unknown := sorted(set(body) - UNDERSTOOD - WITHOUT_MEANING):
        raise ComposeError(f"{name}: the runner does not understand {unknown[0]}")
    known: dict[str, Any] = {key: value for key, value in body.items() if key in UNDERSTOOD}
    if isinstance(environment := known.get("environment"), list):
        known["environment"] = {key: value if given else None for key, given, value in map(_assignment, environment)}
    if isinstance(depends_on := known.get("depends_on"), list):
        known["depends_on"] = {other: {"condition": "service_started"} for other in depends_on}
    if volumes := known.get("volumes"):
        known["volumes"] = {mount["target"]: mount for mount in (_long_mount(name, volume) for volume in volumes)}
    if ports := known.get("ports"):
        known["ports"] = dict(_published(name, port) for port in ports)
    if expose := known.get("expose"):
        known["expose"] = dict.fromkeys(_port(name, port) for port in expose)
    return known


def _assignment(text: str) -> tuple[str, bool, str]:
    key, equals, value = text.partition("=")
    return key, bool(equals), value


def _merged(base: Any, override: Any) -> Any:
    """Merge as Compose does: mappings by key, everything else (commands, tests, scalars) replaced."""
    if isinstance(base, dict) and isinstance(override, dict):
        return {**base, **{key: _merged(base.get(key), value) for key, value in override.items()}}
    return override


def _long_mount(name: str, volume: Any) -> dict[str, Any]:
    if isinstance(volume, dict):
        if volume.get("type") not in ("bind", "volume"):
            raise ComposeError(f"{name}: the runner does not understand a mount of type {volume.get('type')}")
        return dict(volume)
    parts = str(volume).split(":")
    if len(parts) not in (2, 3) or (len(parts) == 3 and parts[2] not in ("ro", "rw")):
        raise ComposeError(f"{name}: {volume} is not source:target[:ro]")
    kind = "bind" if parts[0].startswith((".", "/", "~")) else "volume"
    return {"type": kind, "source": parts[0], "target": parts[1], "read_only": parts[2:] == ["ro"]}


def _published(name: str, port: Any) -> tuple[int, int | None]:
    if isinstance(port, dict):
        published = port.get("published")
        return _port(name, port["target"]), None if published is None else _port(name, published)
    *_address, host, container = ["", *str(port).removesuffix("/tcp").split(":")]
    return _port(name, container), _port(name, host) if host else None


def _port(name: str, text: Any) -> int:
    number = str(text).removesuffix("/tcp")
    if not number.isdigit() or not 1 <= int(number) <= 65535:
        raise ComposeError(f"{name}: {text!r} is no TCP port")
    return int(number)


def _service(name: str, body: dict[str, Any], directory: Path, variables: Mapping[str, str]) -> Service:
    build = body.get("build")
    built, context = None, directory
    if build is not None:
        if not isinstance(build, dict) or "SERVICE" not in build.get("args", {}):
            raise ComposeError(f"{name}: the runner only builds this project's own services (build.args.SERVICE)")
        built, context = str(build["args"]["SERVICE"]), (directory / build.get("context", ".")).resolve()
    elif "image" not in body:
        raise ComposeError(f"{name} has neither image nor build")
    published: dict[int, int | None] = body.get("ports") or {}
    return Service(
        name=name,
        image=str(body.get("image", "")),
        built=built,
        context=context,
        command=_words(body.get("command")),
        entrypoint=_words(body.get("entrypoint")),
        environment=_environment(name, body.get("environment") or {}, variables),
        ports=tuple(dict.fromkeys([*published, *(body.get("expose") or {})])),
        published={port: host for port, host in published.items() if host is not None},
        mounts=tuple(_mount(mount, directory) for mount in (body.get("volumes") or {}).values()),
        depends_on={other: _condition(name, how) for other, how in (body.get("depends_on") or {}).items()},
        healthcheck=_healthcheck(name, body.get("healthcheck")),
        stop_signal=str(body.get("stop_signal", "SIGTERM")),
        stop_grace_s=duration_s(body.get("stop_grace_period", "10s")),
        scale=int(body.get("scale", 1)),
        one_shot=str(body.get("restart", "no")) not in ("always", "unless-stopped"),
    )


def _words(value: Any) -> tuple[str, ...]:
    return tuple(shlex.split(value)) if isinstance(value, str) else tuple(str(word) for word in value or ())


def _environment(name: str, given: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, str]:
    environment: dict[str, str] = {}
    for key, value in given.items():
        if isinstance(value, bool):
            raise ComposeError(f"{name}: {key} is a YAML truth value; quote it")
        if value is not None:
            environment[key] = str(value)
        elif key in variables:  # a name alone is passed on
            environment[key] = variables[key]
    return environment


def _mount(mount: Mapping[str, Any], directory: Path) -> Mount:
    bind = mount["type"] == "bind"
    source = str((directory / Path(mount["source"]).expanduser()).resolve()) if bind else mount["source"]
    return Mount(source, mount["target"].rstrip("/"), bind, bool(mount.get("read_only", False)))


def _condition(name: str, how: Any) -> Condition:
    condition: Condition = (how or {}).get("condition", "service_started")
    if condition not in ("service_started", "service_healthy", "service_completed_successfully"):
        raise ComposeError(f"{name}: {condition} is no condition of depends_on")
    return condition


def _healthcheck(name: str, body: Mapping[str, Any] | None) -> HealthCheck | None:
    if body is None or body.get("disable") or body.get("test") in ("NONE", ["NONE"]):
        return None
    test = body["test"]
    if isinstance(test, str):
        test = ["CMD-SHELL", test]
    if len(test) < 2 or test[0] not in ("CMD", "CMD-SHELL"):
        raise ComposeError(f"{name}: a health check's test starts with CMD or CMD-SHELL")
    return HealthCheck(
        test=tuple(str(word) for word in test[1:]),
        shell=test[0] == "CMD-SHELL",
        interval_s=duration_s(body.get("interval", "30s")),
        timeout_s=duration_s(body.get("timeout", "30s")),
        retries=int(body.get("retries", 3)),
        start_period_s=duration_s(body.get("start_period", "0s")),
    )


def duration_s(text: Any) -> float:
    """Return the seconds of a duration such as 1m30s or 500ms. Raises ComposeError."""
    found = _DURATION.fullmatch(str(text))
    if found is None or not any(found.groups()):
        raise ComposeError(f"{text!r} is no duration")
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(found[unit]) * seconds for unit, seconds in units.items() if found[unit])
