"""The Compose format: what is understood, what is merged, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.runner.compose import ComposeError, Mount, duration_s, load

FULL = """
x-common: &common
  image: nats:2
  environment: &env {A: "1", B: "${B:-two}", PASSED_ON: , LEFT_OUT: }
services:
  one:
    <<: *common
    command: ["nats-server", "-c", "/etc/x.conf"]
    expose: ["4222", 8222]
    ports: ["127.0.0.1:${HOST_PORT:-15432}:5432", "9090", "6000:6000/tcp"]
    volumes: ["./x.conf:/etc/x.conf:ro", "data:/data"]
    depends_on: [two]
    healthcheck: {test: ["CMD", "true"], interval: 2s, retries: 4, start_period: 1m30s, timeout: 500ms}
    restart: unless-stopped
    stop_signal: SIGINT
    stop_grace_period: 1m
    networks: [back]
  two:
    build: {context: .., args: {SERVICE: gateway}}
    command: python -m services.gateway --verbose "two words"
    environment: ["A=1", PASSED_ON, LEFT_OUT, "EQUALS=a=b"]
    healthcheck: {test: "wget x || exit 1"}
"""


def write(folder: Path, text: str, name: str = "compose.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_everything_understood(tmp_path: Path) -> None:
    services = load([write(tmp_path, FULL)], {"PASSED_ON": "yes"})
    one, two = services["one"], services["two"]
    assert one.environment == {"A": "1", "B": "two", "PASSED_ON": "yes"}
    assert one.ports == (5432, 9090, 6000, 4222, 8222)
    assert one.published == {5432: 15432, 6000: 6000}
    assert one.mounts == (
        Mount(str(tmp_path / "x.conf"), "/etc/x.conf", bind=True, read_only=True),
        Mount("data", "/data", bind=False, read_only=False),
    )
    assert one.depends_on == {"two": "service_started"}
    assert one.healthcheck is not None
    assert (one.healthcheck.interval_s, one.healthcheck.timeout_s, one.healthcheck.patience_s) == (2.0, 0.5, 98.0)
    assert (one.stop_signal, one.stop_grace_s, one.one_shot) == ("SIGINT", 60.0, False)
    assert (two.built, two.context, two.one_shot) == ("gateway", tmp_path.parent, True)
    assert two.command == ("python", "-m", "services.gateway", "--verbose", "two words")
    assert two.environment == {"A": "1", "PASSED_ON": "yes", "EQUALS": "a=b"}
    assert two.healthcheck is not None
    assert two.healthcheck.shell


def test_later_file_overrides_by_key(tmp_path: Path) -> None:
    override = """
services:
  one:
    command: ["nats-server"]
    environment: {B: three, C: "4"}
    volumes: ["./y.conf:/etc/x.conf:ro", "more:/more"]
    ports: ["7777:5432"]
    depends_on: {three: {condition: service_healthy}}
  three: {image: etcd}
"""
    services = load([write(tmp_path, FULL), write(tmp_path, override, "over.yaml")], {})
    one = services["one"]
    assert one.command == ("nats-server",)
    assert one.environment == {"A": "1", "B": "three", "C": "4"}
    assert [mount.source for mount in one.mounts] == [str(tmp_path / "y.conf"), "data", "more"]
    assert one.published == {5432: 7777, 6000: 6000}
    assert one.depends_on == {"two": "service_started", "three": "service_healthy"}
    assert list(services) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("{image: x, secrets: [a]}", "does not understand secrets"),
        ("{image: x, extends: {service: y}}", "does not understand extends"),
        ("{}", "neither image nor build"),
        ("{build: .}", "SERVICE"),
        ("{image: x, depends_on: [nobody]}", "depends on nobody"),
        ("{image: x, depends_on: {s: {condition: often}}}", "often is no condition"),
        ("{image: x, environment: {A: true}}", "A is a YAML truth value"),
        ("{image: x, volumes: [justone]}", "justone is not source:target"),
        ("{image: x, expose: [70000]}", "no TCP port"),
        ("{image: x, expose: ['53/udp']}", "no TCP port"),
        ("{image: x, healthcheck: {test: [true]}}", "starts with CMD"),
        ("{image: x, healthcheck: {test: [CMD, a], interval: soon}}", "'soon' is no duration"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(tmp_path: Path, body: str, complaint: str) -> None:
    with pytest.raises(ComposeError, match=complaint):
        load([write(tmp_path, f"services:\n  s: {body}\n")], {})


def test_not_a_compose_file(tmp_path: Path) -> None:
    with pytest.raises(ComposeError, match="has no services"):
        load([write(tmp_path, "a: 1")], {})


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5.0), ("1m30s", 90.0), ("500ms", 0.5), ("2h", 7200.0)])
def test_duration(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds
