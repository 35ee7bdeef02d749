"""Order and ports, decided without starting anything."""

from __future__ import annotations

import random
import socket

import pytest

from deploy.runner import plan
from deploy.runner.compose import ComposeError, Service


def services(*given: Service) -> dict[str, Service]:
    return {service.name: service for service in given}


CHAIN = services(
    Service("front", depends_on={"gateway": "service_healthy"}, ports=(5432, 80), published={5432: 5432}),
    Service("gateway", depends_on={"node": "service_healthy", "log": "service_started"}, ports=(5432, 9090)),
    Service("node", depends_on={"log": "service_healthy"}, ports=(7000,)),
    Service("log", ports=(4222,)),
    Service("alone"),
)


def test_dependencies_come_first() -> None:
    names = [instance.name for instance in plan.instances(CHAIN, {"gateway": 2}, ())]
    assert names == ["log", "alone", "node", "gateway-1", "gateway-2", "front"]
    assert plan.levels(CHAIN) == {"front": 3, "gateway": 2, "node": 1, "log": 0, "alone": 0}


def test_only_keeps_level_and_order() -> None:
    found = plan.instances(CHAIN, {}, ("front", "node"))
    assert [(one.name, one.level) for one in found] == [("node", 1), ("front", 3)]


def test_scale_to_none() -> None:
    assert "gateway" not in {one.service.name for one in plan.instances(CHAIN, {"gateway": 0}, ())}


def test_circle_is_refused_and_shown() -> None:
    circle = services(
        Service("a", depends_on={"b": "service_started"}), Service("b", depends_on={"a": "service_started"})
    )
    with pytest.raises(ComposeError, match="a -> b -> a"):
        plan.levels(circle)


def test_unknown_service_is_named() -> None:
    with pytest.raises(ComposeError, match="gatewya is no service"):
        plan.instances(CHAIN, {"gatewya": 2}, ())


def test_scaled_name_meets_another() -> None:
    with pytest.raises(ComposeError, match="two instances would be called node-1"):
        plan.instances(services(Service("node-1"), Service("node")), {"node": 2}, ())


def test_published_ports_move_by_the_offset() -> None:
    everyone = plan.instances(CHAIN, {}, ())
    assert plan.published_ports(everyone, 0) == {("front", "5432"): 5432}
    assert plan.published_ports(everyone, 10000) == {("front", "5432"): 15432}
    with pytest.raises(ComposeError, match="past 65535"):
        plan.published_ports(everyone, 65000)
    with pytest.raises(ComposeError, match="shares host port 5432"):
        plan.published_ports(plan.instances(CHAIN, {"front": 2}, ()), 0)


def test_offset_ports_are_the_same_each_time_and_scaling_moves_nobody() -> None:
    def assigned(gateways: int) -> dict[plan.PortKey, int]:
        everyone = plan.instances(CHAIN, {"gateway": gateways}, ())
        return plan.offset_ports(everyone, lambda instance: ("x",) if instance.name == "log" else (), 100)

    two, three = assigned(2), assigned(3)
    assert two == assigned(2)
    assert len(set(three.values())) == len(three)
    assert {key: port for key, port in three.items() if key in two} == two
    assert min(two.values()) == plan.FIRST_INTERNAL_PORT + 100
    assert ("log", "x") in two


def test_free_port_is_free_and_below_the_ephemeral_range() -> None:
    rng = random.Random(7)
    port = plan.free_port((), rng)
    assert port in plan.FREE_PORTS
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert not plan.is_free(listener.getsockname()[1])
        everything_else = set(plan.FREE_PORTS) - {port}
        assert plan.free_port(everything_else, _Always(port)) == port
        with pytest.raises(OSError, match="no free loopback port"):
            plan.free_port(set(plan.FREE_PORTS), rng)


class _Always(random.Random):
    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    def choice(self, seq: object) -> int:  # type: ignore[override]
        return self._port
