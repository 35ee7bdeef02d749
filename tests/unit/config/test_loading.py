"""Precedence, origins, and the refusal of what is unknown or impossible."""

from __future__ import annotations

from pathlib import Path

import pytest

from orbit.chassis.config import Config, ConfigError, load, settings

GUIDE_TOML = Path(__file__).with_name("guide.toml")

# Every variable of the deployment guide with a value that is not the default, and where it must arrive.
GUIDE_VARIABLES: dict[str, tuple[str, str, object]] = {
    "NODE_ID": ("node-2", "node.id", "node-2"),
    "CLUSTER_PEERS": ("node-1:7000,node-2:7000", "cluster.peers", ("node-1:7000", "node-2:7000")),
    "S3_ENDPOINT": ("s3.example.com", "storage.s3.endpoint", "s3.example.com"),
    "AWS_REGION": ("eu-west-1", "storage.s3.region", "eu-west-1"),
    "S3_BUCKET": ("bucket", "storage.s3.bucket", "bucket"),
    "AZURE_ACCOUNT": ("account", "storage.azure.account", "account"),
    "AZURE_CONTAINER": ("container", "storage.azure.container", "container"),
    "HOT_TIER_RETENTION_HOURS": ("0.001", "storage.tiers.hot_retention_hours", 0.001),
    "WARM_TIER_RETENTION_DAYS": ("2.5", "storage.tiers.warm_retention_days", 2.5),
    "HOT_TIER_MAX_SIZE_GB": ("16", "storage.tiers.hot_max_size_gb", 16.0),
    "DEFAULT_ISOLATION_LEVEL": ("Serializable", "transaction.default_isolation_level", "Serializable"),
    "TRANSACTION_TIMEOUT_MS": ("1234", "transaction.timeout_ms", 1234),
    "MAX_CONCURRENT_TRANSACTIONS": ("77", "transaction.max_concurrent", 77),
    "RAFT_ELECTION_TIMEOUT_MS": ("10000", "cluster.election_timeout_ms", 10000),
    "RAFT_HEARTBEAT_INTERVAL_MS": ("300", "cluster.heartbeat_interval_ms", 300),
    "REPLICATION_FACTOR": ("2", "cluster.replication_factor", 2),
    "QUERY_EXECUTOR_THREADS": ("3", "query.executor_threads", 3),
    "QUERY_BATCH_SIZE": ("500", "query.max_batch_size", 500),
    "QUERY_LOGGING_ENABLED": ("true", "query.logging_enabled", True),
    "QUERY_SLOW_LOG_THRESHOLD_MS": ("5", "query.slow_log_threshold_ms", 5),
    "SIMD_ENABLED": ("false", "query.simd_enabled", False),
    "SIMD_INSTRUCTION_SET": ("AVX512", "query.simd_instruction_set", "AVX512"),
    "METRICS_ENABLED": ("false", "monitoring.metrics_enabled", False),
    "METRICS_PORT": ("9099", "monitoring.metrics_port", 9099),
    "TRACING_ENABLED": ("true", "monitoring.tracing_enabled", True),
    "TRACING_ENDPOINT": ("http://j:1/api", "monitoring.tracing_endpoint", "http://j:1/api"),
    "ROCKSDB_BLOCK_CACHE_SIZE_GB": ("8", "storage.rocksdb.block_cache_size_gb", 8.0),
    "ROCKSDB_WRITE_BUFFER_SIZE_MB": ("32", "storage.rocksdb.write_buffer_size", 32 << 20),
    "ROCKSDB_MAX_OPEN_FILES": ("-1", "storage.rocksdb.max_open_files", -1),
    "TIER_MIGRATION_BATCH_SIZE": ("9", "migration.batch_size", 9),
    "TIER_MIGRATION_INTERVAL_MS": ("11", "migration.interval_ms", 11),
    "CDC_BATCH_SIZE": ("5000", "cdc.batch_size", 5000),
    "CDC_FLUSH_INTERVAL_MS": ("7", "cdc.flush_interval_ms", 7),
}
GUIDE_SECRETS = {
    "AWS_ACCESS_KEY_ID": "storage.s3.access_key",
    "AWS_SECRET_ACCESS_KEY": "storage.s3.secret_key",
    "AZURE_ACCESS_KEY": "storage.azure.access_key",
}


def at(config: Config, path: str) -> object:
    value: object = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def problems_of(environ: dict[str, str], file: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(environ, file)
    return raised.value.problems


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_every_variable_of_the_guide_arrives_from_the_environment() -> None:
    environ = {name: text for name, (text, _, _) in GUIDE_VARIABLES.items()}
    environ |= dict.fromkeys(GUIDE_SECRETS, "s3cr3t")
    loaded = load(environ)
    for name, (_, path, expected) in GUIDE_VARIABLES.items():
        assert at(loaded.config, path) == expected, name
        assert loaded.sources[path] == "environment", name
    for path in GUIDE_SECRETS.values():
        assert at(loaded.config, path).get_secret_value() == "s3cr3t", path  # type: ignore[attr-defined]


def test_the_guides_file_is_accepted_as_it_stands() -> None:
    loaded = load({}, GUIDE_TOML)
    config = loaded.config
    assert config.cluster.peers == ("node-1:7000", "node-2:7000", "node-3:7000")
    assert config.node.advertise_address == "node-1.orbit.example.com:7000"
    assert config.storage.rocksdb.path == Path("/var/lib/orbit/rocksdb")
    assert sum(source == "file" for source in loaded.sources.values()) == 26
    # What the guide's three nodes need and its file does not say follows from the peers.
    assert config.coordinator.store == "etcd"
    assert config.coordinator.endpoints == ("node-1:2379", "node-2:2379", "node-3:2379")
    assert config.log.urls == ("nats://node-1:4222", "nats://node-2:4222", "nats://node-3:4222")
    assert config.log.replicas == 3


def test_environment_wins_over_file_and_file_over_default(tmp_path: Path) -> None:
    file = written(tmp_path, "[transaction]\ntimeout_ms = 5\nmax_concurrent = 6\n")
    loaded = load({"TRANSACTION_TIMEOUT_MS": "7", "ORBIT_CONFIG": str(file)})
    assert loaded.config.transaction.timeout_ms == 7
    assert loaded.config.transaction.max_concurrent == 6
    assert loaded.config.query.max_batch_size == 10000
    assert loaded.sources["transaction.timeout_ms"] == "environment"
    assert loaded.sources["transaction.max_concurrent"] == "file"
    assert loaded.sources["query.max_batch_size"] == "default"
    assert loaded.sources["storage.rocksdb.path"] == "derived"
    assert loaded.file == file


def test_an_empty_variable_counts_as_not_set() -> None:
    loaded = load({"S3_ENDPOINT": "", "S3_BUCKET": "", "TRANSACTION_TIMEOUT_MS": ""})
    assert loaded.config.storage.backend == "local"
    assert loaded.sources["transaction.timeout_ms"] == "default"


def test_unknown_names_are_refused_by_name_all_at_once(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "surprise = 1\n[query]\nexecutor_thread = 3\n[storage.s4]\nbucket = 'b'\n"
        "[nothing]\n[storage]\ntiers = 4\n[cdc]\n",
    )
    problems = problems_of({"ORBIT_RETENTION": "1", "HOME": "/nowhere"}, file)
    assert problems == [
        "ORBIT_RETENTION: unknown environment variable; did you mean ORBIT_REGION?",
        f"surprise: unknown key in {file}",
        f"query.executor_thread: unknown key in {file}; did you mean query.executor_threads?",
        f"storage.s4.bucket: unknown key in {file}; did you mean storage.s3.bucket?",
        f"storage.tiers: is a section in {file}, not a value",
        f"nothing: unknown key in {file}",
    ]


def test_kubernetes_service_links_are_not_taken_for_settings() -> None:
    links = {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "ORBIT_CLUSTER_SERVICE_HOST": "10.0.0.2",
        "ORBIT_CLUSTER_SERVICE_PORT_GRPC": "7000",
        "ORBIT_CLUSTER_PORT": "tcp://10.0.0.2:7000",
        "ORBIT_CLUSTER_PORT_7000_TCP_ADDR": "10.0.0.2",
    }
    load(links)
    (problem,) = problems_of({**links, "ORBIT_REDIS_PORT": "tcp://10.0.0.3:6379"})
    assert problem.startswith("ORBIT_REDIS_PORT (gateway.redis.port)")
    assert "enableServiceLinks" in problem


@pytest.mark.parametrize(
    ("name", "text", "key"),
    [
        ("TRANSACTION_TIMEOUT_MS", "-1", "transaction.timeout_ms"),
        ("TRANSACTION_TIMEOUT_MS", "soon", "transaction.timeout_ms"),
        ("METRICS_PORT", "90900", "monitoring.metrics_port"),
        ("DEFAULT_ISOLATION_LEVEL", "Chaos", "transaction.default_isolation_level"),
        ("CLUSTER_PEERS", "node-1", "cluster.peers"),
        ("HOT_TIER_RETENTION_HOURS", "nan", "storage.tiers.hot_retention_hours"),
        ("HOT_TIER_RETENTION_HOURS", "0", "storage.tiers.hot_retention_hours"),
        ("ROCKSDB_WRITE_BUFFER_SIZE_MB", "inf", "storage.rocksdb.write_buffer_size"),
        ("ROCKSDB_WRITE_BUFFER_SIZE_MB", "-3", "storage.rocksdb.write_buffer_size"),
        ("TRACING_ENABLED", "perhaps", "monitoring.tracing_enabled"),
        ("TRACING_ENDPOINT", "jaeger", "monitoring.tracing_endpoint"),
        ("NODE_ID", "no spaces", "node.id"),
        ("ORBIT_ROLES", "gateway,chef", "node.roles"),
        ("ORBIT_ROLES", "storage,storage", "node.roles"),
        ("ORBIT_NATS_URLS", "http://a:1", "log.urls"),
        ("REPLICATION_FACTOR", "6", "cluster.replication_factor"),
        ("ORBIT_LOG_DURABILITY", "maybe", "log.durability"),
    ],
)
def test_an_impossible_value_is_refused_with_both_names(name: str, text: str, key: str) -> None:
    (problem,) = problems_of({name: text})
    assert problem.startswith(f"{name} ({key})"), problem


def test_an_impossible_value_in_a_file_is_named_by_its_key(tmp_path: Path) -> None:
    (problem,) = problems_of({}, written(tmp_path, "[transaction]\ntimeout_ms = true\n"))
    assert problem == "transaction.timeout_ms (TRANSACTION_TIMEOUT_MS) = True: must be a number, not true or false"


@pytest.mark.parametrize("text", ["[node", "a = \x00", "[node]\nid = 'x'\nid = 'y'\n"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, text: str) -> None:
    (problem,) = problems_of({}, written(tmp_path, text))
    assert "is not TOML" in problem


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    (problem,) = problems_of({"ORBIT_CONFIG": str(tmp_path / "absent.toml")})
    assert "absent.toml cannot be read: No such file or directory" in problem


@pytest.mark.parametrize(
    ("environ", "parts"),
    [
        (
            {"RAFT_HEARTBEAT_INTERVAL_MS": "5000"},
            ["cluster.heartbeat_interval_ms (RAFT_HEARTBEAT_INTERVAL_MS) = 5000", "RAFT_ELECTION_TIMEOUT_MS"],
        ),
        (
            {"WARM_TIER_RETENTION_DAYS": "1.5"},
            ["storage.tiers.warm_retention_days", "HOT_TIER_RETENTION_HOURS) = 48"],
        ),
        ({"CLUSTER_PEERS": "a:1,b:1", "REPLICATION_FACTOR": "3"}, ["REPLICATION_FACTOR", "CLUSTER_PEERS"]),
        ({"REPLICATION_FACTOR": "3"}, ["ORBIT_COORDINATOR_STORE", "REPLICATION_FACTOR"]),
        ({"ORBIT_COORDINATOR_STORE": "etcd", "ORBIT_NATS_URLS": "nats://a:1"}, ["ORBIT_ETCD_ENDPOINTS"]),
        ({"ORBIT_ETCD_ENDPOINTS": "a:1"}, ["ORBIT_NATS_URLS"]),
        ({"ORBIT_ROLES": "gateway"}, ["ORBIT_ROLES", "ORBIT_COORDINATOR_STORE"]),
        ({"ORBIT_ROLES": "storage,coordinator"}, ["ORBIT_ROLES", "ORBIT_COORDINATOR_STORE"]),
        ({"ORBIT_LOG_REPLICAS": "3"}, ["ORBIT_LOG_REPLICAS", "ORBIT_NATS_URLS"]),
        ({"ORBIT_REDIS_PORT": "5432"}, ["ORBIT_REDIS_PORT", "ORBIT_POSTGRES_PORT"]),
        ({"ORBIT_STORAGE_BACKEND": "s3"}, ["S3_BUCKET"]),
        ({"AZURE_CONTAINER": "c"}, ["AZURE_ACCOUNT"]),
        ({"ORBIT_STORAGE_BACKEND": "minio", "MINIO_BUCKET": "b"}, ["MINIO_ENDPOINT"]),
        ({"AWS_ACCESS_KEY_ID": "k"}, ["storage.s3.access_key", "storage.s3.secret_key"]),
        ({"ORBIT_ICEBERG_CATALOG": "rest"}, ["ORBIT_ICEBERG_URI"]),
        ({"ORBIT_GATEWAY_TLS_CERT_PATH": "c.pem"}, ["gateway.tls.cert_path", "gateway.tls.key_path"]),
        ({"ORBIT_TLS_CA_CERT_PATH": "ca.pem"}, ["ORBIT_TLS_CA_CERT_PATH", "ORBIT_TLS_CERT_PATH"]),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_their_names(
    environ: dict[str, str], parts: list[str]
) -> None:
    (problem,) = problems_of(environ)
    for part in parts:
        assert part in problem


def test_secrets_come_from_the_environment_only(tmp_path: Path) -> None:
    (problem,) = problems_of({}, written(tmp_path, "[storage.s3]\nsecret_key = 'hunter2'\n"))
    assert problem.startswith("storage.s3.secret_key: secrets are not read from a file; set AWS_SECRET_ACCESS_KEY")
    assert "hunter2" not in problem


def test_no_secret_is_ever_shown() -> None:
    environ = {setting.env.name: "hunter2" for setting in settings().values() if setting.secret}
    environ |= {
        "ORBIT_NATS_URLS": "nats://user:hunter2@127.0.0.1:4222",
        "ORBIT_ICEBERG_CATALOG": "postgresql",
        "ORBIT_ICEBERG_URI": "postgresql://user:hunter2@127.0.0.1/catalog",
    }
    config = load(environ).config
    assert "hunter2" not in repr(config)
    assert "hunter2" not in str(config)
    assert "hunter2" not in repr(load({**environ, "ORBIT_STORAGE_BACKEND": "s3", "S3_BUCKET": "b"}).config.storage)
    assert config.iceberg.uri == "postgresql://user:hunter2@127.0.0.1/catalog"
    (problem,) = problems_of({"ORBIT_NATS_URLS": "http://user:hunter2@127.0.0.1:4222"})
    assert "hunter2" not in problem


def test_the_configuration_cannot_be_changed() -> None:
    config = load({}).config
    with pytest.raises(ValueError, match="frozen"):
        config.transaction.timeout_ms = 1  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        config.node = config.node  # type: ignore[misc]
