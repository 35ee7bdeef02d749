"""Every setting of the engine: its TOML key, environment variable, type, limits and default.

Owns the tree of sections and the relations between settings. Attribute path = TOML key. Where a default depends on
another setting (`""`, `0` or "auto" below), `derived` fills it in, so that a reader of `Config` always finds the value
that is in force. A secret is a `SecretStr` and comes from the environment only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ModelWrapValidatorHandler, SecretStr, field_validator, model_validator

from orbit.chassis.config import derived, relations
from orbit.chassis.config.values import (
    Amount,
    Bytes,
    Count,
    Env,
    EtcdEndpoints,
    Folder,
    FreePort,
    HostPort,
    HostPorts,
    HttpUrl,
    Milliseconds,
    Name,
    Names,
    NatsUrls,
    Port,
    Ratio,
    Section,
    TargetUrls,
)

ROLES = ("gateway", "storage", "coordinator", "cdc", "migrator")

Role = Literal["gateway", "storage", "coordinator", "cdc", "migrator"]
IsolationLevel = Literal["ReadUncommitted", "ReadCommitted", "RepeatableRead", "Serializable"]
Secret = SecretStr
NO_SECRET = SecretStr("")


class Node(Section):
    """One process of the engine."""

    id: Annotated[Name, Env("NODE_ID")] = "node-1"
    roles: Annotated[tuple[Role, ...], Names, Env("ORBIT_ROLES")] = ()
    """Empty: every role that the coordinator store allows; embedded needs and allows no coordinator."""
    data_dir: Annotated[Folder, Env("ORBIT_DATA_DIR")] = Path(".orbit/data")
    bind_address: Annotated[HostPort, Env("ORBIT_NODE_BIND_ADDRESS")] = ""
    """Where this node's gRPC server listens, for gateways and other nodes; empty: gateway.bind_address, port 7000."""
    advertise_address: Annotated[HostPort, Env("ORBIT_NODE_ADVERTISE_ADDRESS")] = ""
    """Where others reach it; empty: its entry in cluster.peers, or the bind address."""

    @field_validator("roles")
    @classmethod
    def _each_once(cls, roles: tuple[Role, ...]) -> tuple[Role, ...]:
        if len(set(roles)) != len(roles):
            raise ValueError("must name each role once")
        return roles


class Bootstrap(Section):
    """The administrator and database that the first start creates; later starts do not look at them."""

    user: Annotated[Name, Env("ORBIT_USER")] = "orbit"
    password: Annotated[Secret, Env("ORBIT_PASSWORD")] = NO_SECRET
    """Empty: the first start generates one and prints it once."""
    database: Annotated[Name, Env("ORBIT_DATABASE")] = "orbit"


class Region(Section):
    """Which region this deployment is, and whether it takes writes."""

    name: Annotated[Name, Env("ORBIT_REGION")] = "local"
    role: Annotated[Literal["primary", "replica"], Env("ORBIT_REGION_ROLE")] = "primary"


class Cluster(Section):
    """Membership and its time limits."""

    peers: Annotated[HostPorts, Env("CLUSTER_PEERS")] = ()
    replication_factor: Annotated[Count, Field(le=5), Env("REPLICATION_FACTOR")] = 1
    election_timeout_ms: Annotated[Milliseconds, Field(ge=100), Env("RAFT_ELECTION_TIMEOUT_MS")] = 5000
    """The lease's time to live: a dead leader is replaced after it."""
    heartbeat_interval_ms: Annotated[Milliseconds, Env("RAFT_HEARTBEAT_INTERVAL_MS")] = 1000
    """How often the lease is kept alive."""


class Coordinator(Section):
    """Where membership and leadership are kept."""

    store: Annotated[Literal["auto", "embedded", "etcd"], Env("ORBIT_COORDINATOR_STORE")] = "auto"
    """auto: etcd when endpoints or several peers are named, else embedded, which serves a single node."""
    endpoints: Annotated[EtcdEndpoints, Env("ORBIT_ETCD_ENDPOINTS")] = ()
    """Empty with etcd: port 2379 of each peer's host."""
    prefix: Annotated[str, Field(pattern=r"^/.*/$"), Env("ORBIT_ETCD_PREFIX")] = "/orbit/"
    user: Annotated[str, Env("ORBIT_ETCD_USER")] = ""
    password: Annotated[Secret, Env("ORBIT_ETCD_PASSWORD")] = NO_SECRET


class Log(Section):
    """The shard log on NATS JetStream."""

    urls: Annotated[NatsUrls, Env("ORBIT_NATS_URLS")] = ()
    """Empty: port 4222 of each peer's host, or, on a single node, a server that the engine runs as its child."""
    embedded_port: Annotated[FreePort, Env("ORBIT_NATS_PORT")] = 0
    """The child server's port on 127.0.0.1; 0 takes a free one."""
    user: Annotated[str, Env("ORBIT_NATS_USER")] = ""
    password: Annotated[Secret, Env("ORBIT_NATS_PASSWORD")] = NO_SECRET
    system_user: Annotated[str, Env("ORBIT_NATS_SYSTEM_USER")] = ""
    """Account that may ask every server for its settings, for the durability check."""
    system_password: Annotated[Secret, Env("ORBIT_NATS_SYSTEM_PASSWORD")] = NO_SECRET
    domain: Annotated[str, Env("ORBIT_NATS_DOMAIN")] = ""
    """JetStream domain of this region; empty: the servers have none."""
    durability: Annotated[Literal["checked", "relaxed"], Env("ORBIT_LOG_DURABILITY")] = "checked"
    """checked: no commit is acknowledged unless every server is known to fsync each append."""
    replicas: Annotated[int, Field(ge=0, le=5), Env("ORBIT_LOG_REPLICAS")] = 0
    """0: cluster.replication_factor."""
    max_bytes: Annotated[Bytes, Field(ge=1 << 20), Env("ORBIT_LOG_MAX_BYTES")] = 16 << 30


class PostgresListener(Section):
    port: Annotated[Port, Env("ORBIT_POSTGRES_PORT")] = 5432


class RedisListener(Section):
    port: Annotated[Port, Env("ORBIT_REDIS_PORT")] = 6379


class RestListener(Section):
    port: Annotated[Port, Env("ORBIT_REST_PORT")] = 8080


class GatewayTls(Section):
    """The certificate shown to clients of the three protocols."""

    cert_path: Annotated[str, Env("ORBIT_GATEWAY_TLS_CERT_PATH")] = ""
    key_path: Annotated[str, Env("ORBIT_GATEWAY_TLS_KEY_PATH")] = ""


class Gateway(Section):
    """The three front doors."""

    bind_address: Annotated[str, Field(min_length=1), Env("ORBIT_BIND_ADDRESS")] = "127.0.0.1"
    postgres: PostgresListener = Field(default_factory=PostgresListener)
    redis: RedisListener = Field(default_factory=RedisListener)
    rest: RestListener = Field(default_factory=RestListener)
    tls: GatewayTls = Field(default_factory=GatewayTls)


class ClusterTls(Section):
    """Mutual TLS between the processes of a cluster."""

    cert_path: Annotated[str, Env("ORBIT_TLS_CERT_PATH")] = ""
    key_path: Annotated[str, Env("ORBIT_TLS_KEY_PATH")] = ""
    ca_cert_path: Annotated[str, Env("ORBIT_TLS_CA_CERT_PATH")] = ""


class Security(Section):
    tls: ClusterTls = Field(default_factory=ClusterTls)


class S3(Section):
    """An S3 bucket for the cold tier. Without keys, the instance's role is used."""

    endpoint: Annotated[str, Env("S3_ENDPOINT")] = ""
    region: Annotated[str, Env("AWS_REGION")] = ""
    bucket: Annotated[str, Env("S3_BUCKET")] = ""
    access_key: Annotated[Secret, Env("AWS_ACCESS_KEY_ID")] = NO_SECRET
    secret_key: Annotated[Secret, Env("AWS_SECRET_ACCESS_KEY")] = NO_SECRET
    session_token: Annotated[Secret, Env("AWS_SESSION_TOKEN")] = NO_SECRET
    server_side_encryption: Annotated[Literal["", "AES256", "aws:kms"], Env("S3_SERVER_SIDE_ENCRYPTION")] = ""


class Minio(Section):
    """A MinIO bucket. What is empty here is taken from storage.s3, whose variables the guide uses for MinIO too."""

    endpoint: Annotated[str, Env("MINIO_ENDPOINT")] = ""
    region: Annotated[str, Env("MINIO_REGION")] = ""
    bucket: Annotated[str, Env("MINIO_BUCKET")] = ""
    access_key: Annotated[Secret, Env("MINIO_ACCESS_KEY")] = NO_SECRET
    secret_key: Annotated[Secret, Env("MINIO_SECRET_KEY")] = NO_SECRET


class Azure(Section):
    """An Azure Blob container."""

    account: Annotated[str, Env("AZURE_ACCOUNT")] = ""
    container: Annotated[str, Env("AZURE_CONTAINER")] = ""
    endpoint: Annotated[str, Env("AZURE_ENDPOINT")] = ""
    """Only for an emulator or a private cloud."""
    access_key: Annotated[Secret, Env("AZURE_ACCESS_KEY")] = NO_SECRET


class Tiers(Section):
    """When rows sink. Fractions are allowed: 0.001 hours are 3.6 seconds."""

    hot_retention_hours: Annotated[Amount, Env("HOT_TIER_RETENTION_HOURS")] = 48.0
    warm_retention_days: Annotated[Amount, Env("WARM_TIER_RETENTION_DAYS")] = 30.0
    hot_max_size_gb: Annotated[Amount, Env("HOT_TIER_MAX_SIZE_GB")] = 4.0
    """The guide's 16 suits a production host; past it the oldest hot segments become warm early."""
    warm_point_reads: Annotated[bool, Env("ORBIT_WARM_POINT_READS")] = True
    """Keep a row-form copy of warm rows, for point reads in microseconds."""


class RocksDb(Section):
    path: Annotated[Folder, Env("ROCKSDB_PATH")] = Path()
    """Empty: `rocksdb` in the data directory."""
    max_open_files: Annotated[int, Field(ge=-1), Env("ROCKSDB_MAX_OPEN_FILES")] = 10000
    """-1: no limit."""
    write_buffer_size: Annotated[
        Bytes, Field(ge=1 << 16), Env("ROCKSDB_WRITE_BUFFER_SIZE_MB", derived.bytes_of_megabytes)
    ] = 64 << 20
    block_cache_size_gb: Annotated[Amount, Env("ROCKSDB_BLOCK_CACHE_SIZE_GB")] = 1.0


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """The object store in force: storage.s3, or storage.minio completed from it. Secrets are masked in its repr."""

    kind: Literal["s3", "minio"]
    endpoint: str
    """URL with its scheme; empty: the provider's own."""
    region: str
    bucket: str
    access_key: Secret
    secret_key: Secret
    session_token: Secret
    server_side_encryption: str
    path_style: bool


class Storage(Section):
    """Tiers and where the cold one lives."""

    backend: Annotated[Literal["auto", "local", "s3", "azure", "minio"], Env("ORBIT_STORAGE_BACKEND")] = "auto"
    """auto: s3 or azure when a bucket or container is named, else a local folder."""
    s3: S3 = Field(default_factory=S3)
    azure: Azure = Field(default_factory=Azure)
    minio: Minio = Field(default_factory=Minio)
    tiers: Tiers = Field(default_factory=Tiers)
    rocksdb: RocksDb = Field(default_factory=RocksDb)

    def object_store(self) -> ObjectStore:
        """Return the S3-compatible store in force. Raises ValueError when the backend is none."""
        s3, minio = self.s3, self.minio
        if self.backend == "s3":
            return ObjectStore(
                "s3",
                derived.endpoint_url(s3.endpoint),
                s3.region or "us-east-1",
                s3.bucket,
                s3.access_key,
                s3.secret_key,
                s3.session_token,
                s3.server_side_encryption,
                path_style=bool(s3.endpoint) and "amazonaws.com" not in s3.endpoint,
            )
        if self.backend == "minio":
            own_keys = bool(minio.access_key.get_secret_value())
            return ObjectStore(
                "minio",
                derived.endpoint_url(minio.endpoint or s3.endpoint),
                minio.region or s3.region or "us-east-1",
                minio.bucket or s3.bucket,
                minio.access_key if own_keys else s3.access_key,
                minio.secret_key if own_keys else s3.secret_key,
                NO_SECRET,
                s3.server_side_encryption,
                path_style=True,
            )
        raise ValueError(f"storage.backend is {self.backend}, which is not S3-compatible")


class Iceberg(Section):
    """The catalog and warehouse of the cold tier."""

    catalog: Annotated[Literal["sqlite", "postgresql", "rest"], Env("ORBIT_ICEBERG_CATALOG")] = "sqlite"
    uri: Annotated[str, Env("ORBIT_ICEBERG_URI")] = ""
    """Empty with sqlite: `catalog.db` in the data directory. A password in it is masked wherever it is shown."""
    warehouse: Annotated[str, Env("ORBIT_ICEBERG_WAREHOUSE")] = ""
    """Folder or URI. Empty: `warehouse` in the data directory, bucket or container."""
    token: Annotated[Secret, Env("ORBIT_ICEBERG_TOKEN")] = NO_SECRET


class Transaction(Section):
    default_isolation_level: Annotated[
        IsolationLevel, BeforeValidator(derived.isolation_level), Env("DEFAULT_ISOLATION_LEVEL")
    ] = "ReadCommitted"
    timeout_ms: Annotated[Milliseconds, Env("TRANSACTION_TIMEOUT_MS")] = 30000
    max_concurrent: Annotated[Count, Env("MAX_CONCURRENT_TRANSACTIONS")] = 10000


class Query(Section):
    executor_threads: Annotated[int, Field(ge=0, le=1024), Env("QUERY_EXECUTOR_THREADS")] = 0
    """0: the number of CPUs."""
    max_batch_size: Annotated[Count, Env("QUERY_BATCH_SIZE")] = 10000
    simd_enabled: Annotated[bool, Env("SIMD_ENABLED")] = True
    simd_instruction_set: Annotated[Literal["auto", "AVX2", "AVX512", "NEON"], Env("SIMD_INSTRUCTION_SET")] = "auto"
    logging_enabled: Annotated[bool, Env("QUERY_LOGGING_ENABLED")] = False
    slow_log_threshold_ms: Annotated[int, Field(ge=0), Env("QUERY_SLOW_LOG_THRESHOLD_MS")] = 1000


class Monitoring(Section):
    """The operations port, logs and traces."""

    metrics_enabled: Annotated[bool, Env("METRICS_ENABLED")] = True
    metrics_port: Annotated[Port, Env("METRICS_PORT")] = 9090
    bind_address: Annotated[str, Env("ORBIT_METRICS_BIND_ADDRESS")] = ""
    """Empty: gateway.bind_address."""
    advertise_address: Annotated[HostPort, Env("ORBIT_METRICS_ADVERTISE_ADDRESS")] = ""
    """Where others reach the operations port; empty: the node's advertised host and metrics_port."""
    tracing_enabled: Annotated[bool, Env("TRACING_ENABLED")] = False
    tracing_endpoint: Annotated[HttpUrl, Env("TRACING_ENDPOINT")] = "http://127.0.0.1:4318/v1/traces"
    tracing_sample_ratio: Annotated[Ratio, Env("ORBIT_TRACING_SAMPLE_RATIO")] = 1.0
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Env("ORBIT_LOG_LEVEL")] = "info"
    log_format: Annotated[Literal["json", "console"], Env("ORBIT_LOG_FORMAT")] = "json"


class Cdc(Section):
    """Change events and replication to other regions."""

    enabled: Annotated[bool, Env("CDC_ENABLED")] = True
    replication_targets: Annotated[TargetUrls, Env("CDC_REPLICATION_TARGETS")] = ()
    batch_size: Annotated[Count, Env("CDC_BATCH_SIZE")] = 1000
    flush_interval_ms: Annotated[Milliseconds, Env("CDC_FLUSH_INTERVAL_MS")] = 100
    stream_max_bytes: Annotated[Bytes, Field(ge=1 << 20), Env("ORBIT_CDC_STREAM_MAX_BYTES")] = 4 << 30
    """A change stream of this size takes no more events: cdc waits, and says so, until there is room."""
    stream_max_age_hours: Annotated[float, Field(ge=0, allow_inf_nan=False), Env("ORBIT_CDC_STREAM_MAX_AGE_HOURS")] = 0
    """Older events leave the change stream, read or not; 0: they stay."""


class Migration(Section):
    """The mover between tiers."""

    batch_size: Annotated[Count, Env("TIER_MIGRATION_BATCH_SIZE")] = 1000
    interval_ms: Annotated[Milliseconds, Env("TIER_MIGRATION_INTERVAL_MS")] = 60000


class Config(Section):
    """The whole configuration of one process. Build it with `load`."""

    node: Node = Field(default_factory=Node)
    bootstrap: Bootstrap = Field(default_factory=Bootstrap)
    region: Region = Field(default_factory=Region)
    cluster: Cluster = Field(default_factory=Cluster)
    coordinator: Coordinator = Field(default_factory=Coordinator)
    log: Log = Field(default_factory=Log)
    gateway: Gateway = Field(default_factory=Gateway)
    security: Security = Field(default_factory=Security)
    storage: Storage = Field(default_factory=Storage)
    iceberg: Iceberg = Field(default_factory=Iceberg)
    transaction: Transaction = Field(default_factory=Transaction)
    query: Query = Field(default_factory=Query)
    monitoring: Monitoring = Field(default_factory=Monitoring)
    cdc: Cdc = Field(default_factory=Cdc)
    migration: Migration = Field(default_factory=Migration)

    @model_validator(mode="wrap")
    @classmethod
    def _completed(cls, given: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Validate, fill in the defaults that depend on other settings, then check what settings say together."""
        config = validate(given)
        if isinstance(given, dict):
            config = validate(derived.merged(given, derived.missing(config)))
        if broken := relations.broken(config):
            raise ValueError("\n".join(broken))
        return config
