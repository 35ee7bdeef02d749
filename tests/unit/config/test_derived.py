"""Defaults that follow from other settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from orbit.chassis.config import load


def test_a_single_node_needs_no_setting(tmp_path: Path) -> None:
    config = load({"ORBIT_DATA_DIR": str(tmp_path)}).config
    assert config.node.roles == ("gateway", "storage", "cdc", "migrator")
    assert config.coordinator.store == "embedded"
    assert config.log.urls == ()
    assert config.storage.backend == "local"
    assert config.storage.rocksdb.path == tmp_path / "rocksdb"
    assert config.iceberg.uri == f"sqlite:///{tmp_path}/catalog.db"
    assert config.iceberg.warehouse == f"{tmp_path}/warehouse"
    assert config.query.executor_threads >= 1
    assert config.monitoring.advertise_address == "127.0.0.1:9090"


def test_a_relative_data_directory_becomes_absolute() -> None:
    assert load({"ORBIT_DATA_DIR": "somewhere"}).config.node.data_dir == Path.cwd() / "somewhere"


def test_a_node_advertises_its_own_entry_among_the_peers() -> None:
    config = load(
        {"NODE_ID": "node-2", "CLUSTER_PEERS": "node-1:7001,node-2:7002", "ORBIT_BIND_ADDRESS": "0.0.0.0"}
    ).config
    assert config.node.bind_address == "0.0.0.0:7000"
    assert config.node.advertise_address == "node-2:7002"
    assert config.monitoring.bind_address == "0.0.0.0"
    assert config.monitoring.advertise_address == "node-2:9090"
    assert "coordinator" in config.node.roles


def test_a_wildcard_is_never_advertised() -> None:
    config = load({"ORBIT_BIND_ADDRESS": "0.0.0.0"}).config
    assert not config.node.advertise_address.startswith("0.0.0.0")


def test_the_guides_s3_variables_alone_choose_the_backend() -> None:
    environ = {
        "S3_ENDPOINT": "s3.amazonaws.com",
        "S3_BUCKET": "cold",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "S3_SERVER_SIDE_ENCRYPTION": "AES256",
    }
    config = load(environ).config
    store = config.storage.object_store()
    assert config.storage.backend == "s3"
    assert (store.kind, store.endpoint, store.bucket, store.path_style) == (
        "s3",
        "https://s3.amazonaws.com",
        "cold",
        False,
    )
    assert store.server_side_encryption == "AES256"
    assert config.iceberg.warehouse == "s3://cold/warehouse"
    assert "secret" not in repr(store).replace("secret_key", "")


def test_minio_takes_what_it_lacks_from_the_s3_variables() -> None:
    environ = {
        "ORBIT_STORAGE_BACKEND": "minio",
        "S3_ENDPOINT": "http://minio:9000",
        "MINIO_BUCKET": "own",
        "AWS_ACCESS_KEY_ID": "admin",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    store = load(environ).config.storage.object_store()
    assert (store.kind, store.endpoint, store.region, store.bucket) == (
        "minio",
        "http://minio:9000",
        "us-east-1",
        "own",
    )
    assert store.access_key.get_secret_value() == "admin"
    assert store.path_style


def test_azure_names_its_warehouse() -> None:
    config = load({"AZURE_ACCOUNT": "acme", "AZURE_CONTAINER": "cold"}).config
    assert config.iceberg.warehouse == "abfss://cold@acme.dfs.core.windows.net/warehouse"
    with pytest.raises(ValueError, match="not S3-compatible"):
        config.storage.object_store()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("READ COMMITTED", "ReadCommitted"),
        ("read_uncommitted", "ReadUncommitted"),
        ("RepeatableRead", "RepeatableRead"),
        ("serializable", "Serializable"),
    ],
)
def test_isolation_levels_are_understood_in_every_usual_spelling(written: str, meant: str) -> None:
    assert load({"DEFAULT_ISOLATION_LEVEL": written}).config.transaction.default_isolation_level == meant
