"""Who runs, in which order, on which ports: decided before anything is started.

Owns instances (a scaled service has several), start levels and the assignment of loopback ports. Pure, except for
`free_port`, which asks the machine.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from deploy.runner.compose import ComposeError, Service

FIRST_INTERNAL_PORT = 17000
"""With a port offset, ports that only the services themselves use start here (plus the offset)."""
FIRST_REPLICA_PORT = FIRST_INTERNAL_PORT + 500
"""Second and further instances of a scaled service: apart, so that scaling moves nobody else's port."""
FREE_PORTS = range(10000, 32000)
"""Free ports are drawn below the range that the kernel takes outgoing connections' ports from."""

PortKey = tuple[str, str]
"""(instance, port): the container's port number as text, or the name of an extra port that a local program needs."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One process to be. `index` counts from 0 within its service."""

    name: str
    service: Service
    index: int
    level: int
    """0 depends on nobody; every other level only on lower ones. What starts last stops first."""


def instances(services: Mapping[str, Service], scale: Mapping[str, int], only: Collection[str]) -> list[Instance]:
    """Return the instances to run, in start order. `only` names services; empty means all. Raises ComposeError."""
    for name in (*scale, *only):
        if name not in services:
            raise ComposeError(f"{name} is no service; there are {', '.join(services)}")
    depths = levels(services)
    found: list[Instance] = []
    for service in services.values():
        count = scale.get(service.name, service.scale)
        if count < 0:
            raise ComposeError(f"{service.name} cannot run {count} times")
        if not only or service.name in only:
            found += [Instance(_name(service.name, i, count), service, i, depths[service.name]) for i in range(count)]
    names = [instance.name for instance in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ComposeError(f"two instances would be called {twice}")
    return sorted(found, key=lambda instance: instance.level)


def _name(service: str, index: int, count: int) -> str:
    return service if count == 1 else f"{service}-{index + 1}"


def levels(services: Mapping[str, Service]) -> dict[str, int]:
    """Return each service's depth in the graph of dependencies. Raises ComposeError for a circle."""
    depths: dict[str, int] = {}

    def depth(name: str, path: tuple[str, ...]) -> int:
        if name in path:
            raise ComposeError(f"services depend on each other: {' -> '.join([*path, name])}")
        if name not in depths:
            depths[name] = max((depth(other, (*path, name)) + 1 for other in services[name].depends_on), default=0)
        return depths[name]

    for name in services:
        depth(name, ())
    return depths


def port_keys(instance: Instance, extra: Collection[str]) -> list[PortKey]:
    """Return every port that the instance needs."""
    return [(instance.name, str(port)) for port in instance.service.ports] + [(instance.name, name) for name in extra]


def published_ports(everyone: Collection[Instance], offset: int) -> dict[PortKey, int]:
    """Return the host ports that the Compose file publishes, moved by the offset. Raises ComposeError."""
    found: dict[PortKey, int] = {}
    for instance in everyone:
        for container_port, host_port in instance.service.published.items():
            if host_port + offset > 65535:
                raise ComposeError(f"port {host_port} of {instance.name} moved by {offset} is past 65535")
            if host_port + offset in found.values():
                raise ComposeError(f"{instance.name} is scaled or shares host port {host_port}")
            found[instance.name, str(container_port)] = host_port + offset
    return found


def offset_ports(
    everyone: Collection[Instance], extra: Callable[[Instance], Collection[str]], offset: int
) -> dict[PortKey, int]:
    """Return a port for each key, the same ones each time for the same file. Raises ComposeError."""
    found: dict[PortKey, int] = {}
    first, replica = FIRST_INTERNAL_PORT + offset, FIRST_REPLICA_PORT + offset
    for instance in everyone:
        for key in port_keys(instance, extra(instance)):
            if instance.index == 0:
                found[key], first = first, first + 1
            else:
                found[key], replica = replica, replica + 1
    if first > FIRST_REPLICA_PORT + offset:
        raise ComposeError(f"the services need more than {FIRST_REPLICA_PORT - FIRST_INTERNAL_PORT} ports")
    if max(found.values(), default=0) > 65535:
        raise ComposeError(f"ORBIT_PORT_OFFSET={offset} moves ports past 65535")
    return found


def free_port(taken: Collection[int], rng: random.Random) -> int:
    """Return a loopback port that nobody listens on and that is not in `taken`. Raises OSError when there is none."""
    for _ in range(1000):
        port = rng.choice(FREE_PORTS)
        if port not in taken and is_free(port):
            return port
    raise OSError("no free loopback port found in 1000 tries")


def is_free(port: int) -> bool:
    """Return whether nobody listens on the port of 127.0.0.1 (or of every address)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
