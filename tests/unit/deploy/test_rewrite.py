"""Names inside a container network become addresses of this machine, and nothing else changes."""

from __future__ import annotations

import pytest
import yaml

from deploy.runner import rewrite
from deploy.runner.compose import ComposeError
from deploy.runner.rewrite import AddressBook

BOOK = AddressBook(
    {"nats-1": ["nats-1"], "west-nats-1": ["west-nats-1"], "gateway": ["gateway-1", "gateway-2"], "gone": []},
    {
        ("nats-1", "4222"): 11,
        ("nats-1", "6222"): 12,
        ("west-nats-1", "4222"): 13,
        ("gateway-1", "5432"): 21,
        ("gateway-1", "9090"): 22,
        ("gateway-2", "5432"): 31,
        ("gateway-2", "9090"): 32,
    },
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nats://nats-1:4222,nats://west-nats-1:4222", "nats://127.0.0.1:11,nats://127.0.0.1:13"),
        ("nats-route://route:pw@nats-1:6222", "nats-route://route:pw@127.0.0.1:12"),
        ("name=nats-1=http://nats-1:4222", "name=nats-1=http://127.0.0.1:11"),
        ("gateway:5432", "127.0.0.1:21"),
        ("listen: 0.0.0.0:4222", "listen: 127.0.0.1:11"),
        ("bind *:6222", "bind 127.0.0.1:12"),
        ("bind [::]:6222", "bind 127.0.0.1:12"),
        ("http://localhost:4222/x", "http://127.0.0.1:11/x"),
        ("http://localhost:80/x", "http://localhost:80/x"),
        ("my-nats-1:4222", "my-nats-1:4222"),
        ("nats-10:4222", "nats-10:4222"),
        ("nats-1.example.com:4222", "nats-1.example.com:4222"),
        ("127.0.0.11:53", "127.0.0.11:53"),
        ("--name nats-1", "--name nats-1"),
    ],
)
def test_addresses(text: str, expected: str) -> None:
    assert rewrite.addresses(text, "nats-1", BOOK) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nats-1:9999", "nats-1 has no port 9999"),
        ("0.0.0.0:9999", "nats-1 has no port 9999"),
        ("gone:1", "no instance runs"),
    ],
)
def test_port_that_nobody_names_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ComposeError, match=complaint):
        rewrite.addresses(text, "nats-1", BOOK)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--data-dir=/data", "--data-dir=/l"),
        ('store_dir: "/data/jetstream"', 'store_dir: "/l/jetstream"'),
        ("sqlite:////data-2/catalog.db", "sqlite:////m/catalog.db"),
        ("/database /mnt/data /data.old", "/database /mnt/data /data.old"),
    ],
)
def test_paths(text: str, expected: str) -> None:
    assert rewrite.paths(text, {"/data": "/l", "/data-2": "/m"}) == expected


def test_haproxy_template_becomes_a_line_for_each_instance() -> None:
    text = "backend b\n  server-template gateway 16 gateway:5432 fall 6\n  option x\n"
    expected = "backend b\n  server gateway1 127.0.0.1:21 fall 6\n  server gateway2 127.0.0.1:31 fall 6\n  option x\n"
    assert rewrite.haproxy(text, BOOK) == expected
    with pytest.raises(ComposeError, match="nobody"):
        rewrite.haproxy("server-template n 4 nobody:1", BOOK)


def test_prometheus_discovery_becomes_static() -> None:
    text = """
scrape_configs:
  - job_name: a
    static_configs: [{targets: ["nats-1:4222"]}]
    dns_sd_configs: [{names: [gateway], type: A, port: 9090}]
"""
    job = yaml.safe_load(rewrite.prometheus(text, BOOK))["scrape_configs"][0]
    assert "dns_sd_configs" not in job
    assert job["static_configs"][1] == {
        "targets": ["127.0.0.1:22", "127.0.0.1:32"],
        "labels": {"__meta_dns_name": "gateway"},
    }
