"""What is said to etcd and what it answers, without etcd: settings, errors, transactions, watch events.

Owns the words that `orbit.chassis.etcd` and its users share. Does no IO and imports no client library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias


class EtcdError(OSError):
    """etcd did not do what was asked. The message names the endpoint."""


class EtcdUnavailable(EtcdError):
    """No endpoint answered in time; a write may have happened."""


class EtcdDenied(EtcdError):
    """The user, its password or its permissions are wrong."""


class EtcdRejected(EtcdError):
    """etcd understood the request and refused it, for example because its disk quota is used up."""


class LeaseGone(EtcdError):
    """The lease has expired or was revoked."""


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """Where etcd is (host:port each) and how to talk to it. Certificates are PEM."""

    endpoints: tuple[str, ...]
    tls: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_certificate: bytes | None = field(default=None, repr=False)
    """None with TLS: the authorities that gRPC brings along."""
    certificate: bytes | None = field(default=None, repr=False)
    private_key: bytes | None = field(default=None, repr=False)
    timeout_s: float = 2.0
    """Limit of one attempt at one endpoint."""

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ValueError("etcd needs at least one endpoint")
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("an etcd client certificate and its private key go together")
        if self.ca_certificate is not None and not self.tls:
            raise ValueError("an etcd CA certificate is given, but TLS is off")
        if self.certificate is not None and not self.tls:
            raise ValueError("an etcd client certificate is given, but TLS is off")
        if (self.user is None) != (self.password is None):
            raise ValueError("an etcd user and its password go together")


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as stored. Revisions are etcd's store-wide counter."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """One key that is gone since `revision`."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Every key of a prefix at one revision."""

    revision: int
    items: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened to a prefix up to `revision`, in order."""

    revision: int
    events: tuple[KeyValue | Deleted, ...]


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The watch has lost its endpoint and is looking for another; what it told so far may be old."""

    reason: str


WatchEvent: TypeAlias = Listing | Changes | Interrupted


@dataclass(frozen=True, slots=True)
class Created:
    """Requires that the key was created at this revision; 0: that it does not exist."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Modified:
    """Requires that the key was last written at this revision; 0: that it does not exist."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Holds:
    """Requires that the key has exactly this value."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    key: str


@dataclass(frozen=True, slots=True)
class Get:
    key: str


Requirement: TypeAlias = Created | Modified | Holds
Operation: TypeAlias = Put | Delete | Get


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a transaction did. `reads` are the answers to its Get operations, in order."""

    succeeded: bool
    revision: int
    raft_term: int
    reads: tuple[KeyValue | None, ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """A new lease. etcd may give a longer lifetime than was asked for: never less than 1.5 of its election timeouts."""

    lease_id: int
    ttl_s: int


@dataclass(frozen=True, slots=True)
class Renewal:
    """An answered keep-alive; `raft_term` is that of the server as it took the request."""

    ttl_s: int
    raft_term: int
