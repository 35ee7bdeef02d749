"""The kinds of value that settings have, and how a secret is shown.

Owns parsing and the refusal of single impossible values. Owns no names and no relations between settings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

MASK = "********"

_PASSWORD_IN_URL = re.compile(r"(?<=://)([^/@:\s]*):[^/@\s]*@")


@dataclass(frozen=True, slots=True)
class Env:
    """The environment variable of a setting. `convert` turns its text into the setting's own unit."""

    name: str
    convert: Callable[[str], Any] | None = None


class Section(BaseModel):
    """One table of the configuration file. Its repr masks secrets, so a log line can never leak one."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def __repr_args__(self) -> Any:
        return [(name, masked(getattr(self, name))) for name in type(self).model_fields]


def masked(value: Any) -> Any:
    """Return the value as it may be shown: secrets and passwords inside URLs replaced by a mask."""
    if isinstance(value, SecretStr):
        return MASK if value.get_secret_value() else ""
    if isinstance(value, str):
        return _PASSWORD_IN_URL.sub(rf"\1:{MASK}@", value)
    if isinstance(value, tuple):
        return tuple(masked(item) for item in value)
    return str(value) if isinstance(value, Path) else value


def split_host_port(address: str) -> tuple[str, int]:
    """Return (host, port) of `host:port` or `[v6]:port`. Raises ValueError when it is neither."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError("must be host:port with a port from 1 to 65535")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("must be host:port; an IPv6 host stands in brackets")
    return host.strip("[]"), int(port)


def _host_port(address: str) -> str:
    if address:
        split_host_port(address)
    return address


def _url(*schemes: str) -> Callable[[str], str]:
    def check(url: str) -> str:
        if url:
            parts = urlsplit(url)
            if parts.scheme not in schemes or not parts.netloc:
                raise ValueError(f"must be a URL that starts with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return url

    return check


def _comma_separated(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return tuple(value) if isinstance(value, list) else value


def _no_truth_value(value: Any) -> Any:
    """Refuse `true` where a number is meant: Python would read it as 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _absolute(path: Path) -> Path:
    return path if path == Path() else path.expanduser().absolute()


Folder = Annotated[Path, AfterValidator(_absolute)]
"""An absolute path; Path() stands for "not given"."""
Port = Annotated[int, BeforeValidator(_no_truth_value), Field(ge=1, le=65535)]
FreePort = Annotated[int, BeforeValidator(_no_truth_value), Field(ge=0, le=65535)]
Count = Annotated[int, BeforeValidator(_no_truth_value), Field(ge=1)]
Milliseconds = Annotated[int, BeforeValidator(_no_truth_value), Field(ge=1)]
Bytes = Annotated[int, BeforeValidator(_no_truth_value), Field(ge=1)]
Amount = Annotated[float, BeforeValidator(_no_truth_value), Field(gt=0, allow_inf_nan=False)]
Ratio = Annotated[float, BeforeValidator(_no_truth_value), Field(ge=0, le=1, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
HostPort = Annotated[str, AfterValidator(_host_port)]
HttpUrl = Annotated[str, AfterValidator(_url("http", "https"))]
Names = BeforeValidator(_comma_separated)
HostPorts = Annotated[tuple[HostPort, ...], Names]
TargetUrls = Annotated[
    tuple[
        Annotated[
            str,
            AfterValidator(
                lambda text: _url("http", "https", "grpc", "grpcs")(text) if "://" in text else _host_port(text)
            ),
        ],
        ...,
    ],
    Names,
]
NatsUrls = Annotated[tuple[Annotated[str, AfterValidator(_url("nats", "tls", "ws", "wss"))], ...], Names]
EtcdEndpoints = Annotated[
    tuple[Annotated[str, AfterValidator(lambda text: text if "://" in text else _host_port(text))], ...], Names
]
