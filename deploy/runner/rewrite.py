"""From names inside a container network to addresses on this machine.

Owns the rewriting of text: environment values, command lines and configuration files. Three kinds of thing change:
`service:port` and a service's own listening addresses become 127.0.0.1 and an assigned port, container paths become
local ones, and what a program would look up in the containers' DNS (several gateways behind one name) is spelled out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from deploy.runner.compose import ComposeError

LOOPBACK = "127.0.0.1"
OWN_HOSTS = ("0.0.0.0", "localhost", LOOPBACK, "*", "[::]")

_TEMPLATE = re.compile(
    r"^(?P<indent>\s*)server-template\s+(?P<prefix>\S+)\s+\S+\s+(?P<service>[\w.-]+):(?P<port>\d+)(?P<options>.*)$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class AddressBook:
    """Where every port of every instance is. `instances` lists each service's, in order."""

    instances: Mapping[str, Sequence[str]]
    ports: Mapping[tuple[str, str], int]

    def port(self, instance: str, port: int | str) -> int:
        """Return the loopback port. Raises ComposeError when the service names no such port."""
        try:
            return self.ports[instance, str(port)]
        except KeyError:
            raise ComposeError(f"{instance} has no port {port}: name it under expose or ports") from None

    def every(self, service: str, port: int) -> list[str]:
        """Return the address of the port on each instance of the service."""
        return [f"{LOOPBACK}:{self.port(instance, port)}" for instance in self.instances[service]]


def addresses(text: str, instance: str, book: AddressBook) -> str:
    """Replace `service:port` and, for `instance` itself, `0.0.0.0:port` and the like.

    A name that stands for several instances becomes the first: only HAProxy and Prometheus, below, know more.
    Raises ComposeError for a port that a service does not name.
    """
    hosts = sorted([*book.instances, *OWN_HOSTS], key=len, reverse=True)
    found = re.compile(rf"(?<![\w.\-])({'|'.join(map(re.escape, hosts))}):(\d{{1,5}})(?!\d)")

    def replaced(match: re.Match[str]) -> str:
        host, port = match[1], match[2]
        if host not in OWN_HOSTS:
            if not book.instances[host]:
                raise ComposeError(f"{instance} refers to {match[0]}, of which no instance runs")
            return f"{LOOPBACK}:{book.port(book.instances[host][0], port)}"
        if host in ("localhost", LOOPBACK) and (instance, port) not in book.ports:
            return match[0]
        return f"{LOOPBACK}:{book.port(instance, port)}"

    return found.sub(replaced, text)


def paths(text: str, local: Mapping[str, str]) -> str:
    """Replace each container path (and what lies below it) by its local one."""
    if not local:
        return text
    longest_first = sorted(local, key=len, reverse=True)
    found = re.compile(rf"(?<![\w.\-])({'|'.join(map(re.escape, longest_first))})(?![\w.\-])")
    return found.sub(lambda match: local[match[1]], text)


def haproxy(text: str, book: AddressBook) -> str:
    """Spell out each `server-template`: one `server` line for each instance."""

    def spelled_out(match: re.Match[str]) -> str:
        if match["service"] not in book.instances:
            raise ComposeError(f"haproxy names {match['service']}, which is no service")
        servers = book.every(match["service"], int(match["port"]))
        lines = (
            f"{match['indent']}server {match['prefix']}{number} {address}{match['options']}"
            for number, address in enumerate(servers, start=1)
        )
        return "\n".join(lines)

    return _TEMPLATE.sub(spelled_out, text)


def prometheus(text: str, book: AddressBook) -> str:
    """Replace DNS discovery by the addresses of the instances, and keep what discovery would have labelled."""
    document = yaml.safe_load(text)
    for job in document.get("scrape_configs", ()):
        static: list[dict[str, Any]] = job.setdefault("static_configs", [])
        for discovery in job.pop("dns_sd_configs", ()):
            for name in discovery["names"]:
                labels = {"__meta_dns_name": name}
                static.append({"targets": book.every(name, discovery["port"]), "labels": labels})
    return str(yaml.safe_dump(document, sort_keys=False))
