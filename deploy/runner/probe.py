"""Health checks of containers, asked from outside.

Owns the translation of a container's test into one that works without the container's tools, and the asking.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from deploy.runner.compose import HealthCheck

MOST_BODY_BYTES = 1 << 16
SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """Healthy when the URL answers with 2xx or 3xx (or any status, with `any_status`) and the body holds `contains`."""

    url: str
    any_status: bool = False
    contains: str = ""
    timeout_s: float = 4.0

    def ask(self) -> str | None:
        """Return None when healthy, else what is wrong."""
        parts = urlsplit(self.url)
        if parts.hostname is None:
            return f"{self.url} names no host"
        connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=self.timeout_s)
        try:
            connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
            response = connection.getresponse()
            body = response.read(MOST_BODY_BYTES).decode(errors="replace").strip()
        except (OSError, http.client.HTTPException) as error:
            return f"{self.url}: {error or type(error).__name__}"
        finally:
            connection.close()
        if not self.any_status and not 200 <= response.status < 400:
            return f"{self.url} answered {response.status}: {body[:SHOWN_CHARACTERS]}"
        return None if self.contains in body else f"{self.url} answered without {self.contains}"


@dataclass(frozen=True, slots=True)
class EveryProbe:
    """Healthy when every one of several is."""

    probes: tuple[HttpProbe, ...]

    def ask(self) -> str | None:
        """Return None when healthy, else what is wrong with the first that is not."""
        return next((complaint for one in self.probes if (complaint := one.ask()) is not None), None)


@dataclass(frozen=True, slots=True)
class CommandProbe:
    """Healthy when the command ends with 0."""

    argv: tuple[str, ...]
    timeout_s: float = 30.0
    environment: Mapping[str, str] = field(default_factory=dict)

    def ask(self) -> str | None:
        """Return None when healthy, else the last line that the command said."""
        try:
            done = subprocess.run(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=self.timeout_s,
                check=False,
                text=True,
                env=dict(self.environment),
            )
        except FileNotFoundError:
            return f"its health check needs {self.argv[0]}, which is not installed"
        except subprocess.TimeoutExpired:
            return f"its health check took more than {self.timeout_s:g} s"
        if done.returncode == 0:
            return None
        said = done.stdout.strip().splitlines()
        return said[-1] if said else f"its health check ended with {done.returncode}"


Probe = HttpProbe | EveryProbe | CommandProbe


def translated(check: HealthCheck, test: tuple[str, ...], environment: Mapping[str, str]) -> Probe:
    """Return the probe for a check whose test has been rewritten to local addresses.

    wget, curl and etcdctl are what images happen to have for asking a URL: they are asked from here instead.
    """
    if check.shell:
        return CommandProbe(("/bin/sh", "-c", test[0]), check.timeout_s, environment)
    url = next((word for word in test[1:] if word.startswith("http://")), None)
    if test[0] in ("wget", "curl") and url is not None:
        return HttpProbe(url, timeout_s=check.timeout_s)
    endpoint = next((word.partition("=")[2] for word in test if word.startswith("--endpoints=http://")), None)
    if test[0] == "etcdctl" and test[-2:] == ("endpoint", "health") and endpoint is not None:
        return HttpProbe(f"{endpoint}/health", timeout_s=check.timeout_s)
    if test[0] in ("python", "python3"):
        test = (sys.executable, *test[1:])
    return CommandProbe(test, check.timeout_s, environment)
