"""Defaults that follow from other settings, and the shapes in which the guide writes values.

Owns the filling in of what was left empty. Owns no names: it works on a validated `Config`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from orbit.chassis.config.values import split_host_port

if TYPE_CHECKING:
    from orbit.chassis.config.sections import Config

NODE_PORT = 7000
ETCD_PORT = 2379
NATS_PORT = 4222

ROLES_OF_STORE = {
    "embedded": ("gateway", "storage", "cdc", "migrator"),
    "etcd": ("gateway", "storage", "coordinator", "cdc", "migrator"),
}

_WILDCARDS = ("0.0.0.0", "::")

_ISOLATION_LEVELS = {
    "readuncommitted": "ReadUncommitted",
    "readcommitted": "ReadCommitted",
    "repeatableread": "RepeatableRead",
    "serializable": "Serializable",
}


def isolation_level(value: Any) -> Any:
    """Return the guide's spelling of an isolation level written in any of the usual ways (READ COMMITTED, ...)."""
    if not isinstance(value, str):
        return value
    return _ISOLATION_LEVELS.get("".join(filter(str.isalpha, value)).lower(), value)


def bytes_of_megabytes(text: str) -> int:
    """Return the bytes of a variable that the guide gives in MB (2^20 bytes). Raises ValueError."""
    return int(float(text) * (1 << 20))


def endpoint_url(endpoint: str) -> str:
    """Return the endpoint with a scheme; the guide writes plain host names, which mean HTTPS."""
    return endpoint if not endpoint or "://" in endpoint else f"https://{endpoint}"


def missing(config: Config) -> dict[str, Any]:
    """Return, as a nested mapping, a value for each setting that was left to follow from others."""
    node, storage, monitoring = config.node, config.storage, config.monitoring
    backend, store = _backend(config), _coordinator_store(config)
    bind = node.bind_address or _joined(config.gateway.bind_address, NODE_PORT)
    advertise = node.advertise_address or _advertise_address(config, bind)
    peer_hosts = [split_host_port(peer)[0] for peer in config.cluster.peers] if store == "etcd" else []
    return {
        "node": {"bind_address": bind, "advertise_address": advertise, "roles": node.roles or ROLES_OF_STORE[store]},
        "coordinator": {
            "store": store,
            "endpoints": config.coordinator.endpoints or tuple(_joined(host, ETCD_PORT) for host in peer_hosts),
        },
        "log": {
            "urls": config.log.urls or tuple(f"nats://{_joined(host, NATS_PORT)}" for host in peer_hosts),
            "replicas": config.log.replicas or config.cluster.replication_factor,
        },
        "storage": {
            "backend": backend,
            "rocksdb": {"path": node.data_dir / "rocksdb" if storage.rocksdb.path == Path() else storage.rocksdb.path},
        },
        "iceberg": {
            "uri": config.iceberg.uri or _catalog_uri(config),
            "warehouse": config.iceberg.warehouse or _warehouse(config, backend),
        },
        "query": {"executor_threads": config.query.executor_threads or os.cpu_count() or 1},
        "monitoring": {
            "bind_address": monitoring.bind_address or config.gateway.bind_address,
            "advertise_address": monitoring.advertise_address
            or _joined(split_host_port(advertise)[0], monitoring.metrics_port),
        },
    }


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested union of two mappings; `above` wins."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        if isinstance(under, BaseModel):
            under = under.model_dump(exclude_unset=True)
        result[key] = merged(under or {}, value) if isinstance(value, Mapping) else value
    return result


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _coordinator_store(config: Config) -> str:
    coordinator = config.coordinator
    if coordinator.store != "auto":
        return coordinator.store
    return "etcd" if coordinator.endpoints or len(config.cluster.peers) > 1 else "embedded"


def _backend(config: Config) -> str:
    storage = config.storage
    if storage.backend != "auto":
        return storage.backend
    if storage.s3.bucket:
        return "s3"
    if storage.azure.container:
        return "azure"
    return "minio" if storage.minio.bucket else "local"


def _catalog_uri(config: Config) -> str:
    return f"sqlite:///{config.node.data_dir / 'catalog.db'}" if config.iceberg.catalog == "sqlite" else ""


def _warehouse(config: Config, backend: str) -> str:
    storage = config.storage
    match backend:
        case "s3":
            return f"s3://{storage.s3.bucket}/warehouse"
        case "minio":
            return f"s3://{storage.minio.bucket or storage.s3.bucket}/warehouse"
        case "azure":
            return f"abfss://{storage.azure.container}@{storage.azure.account}.dfs.core.windows.net/warehouse"
        case _:
            return str(config.node.data_dir / "warehouse")


def _advertise_address(config: Config, bind_address: str) -> str:
    """Return this node's own entry among the peers, or the bind address with a host that others can resolve."""
    for peer in config.cluster.peers:
        if split_host_port(peer)[0] == config.node.id:
            return peer
    host, port = split_host_port(bind_address)
    return _joined(socket.gethostname() if host in _WILDCARDS else host, port)
