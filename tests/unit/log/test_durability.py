"""The verdict on durability, for every answer that servers can give."""

from __future__ import annotations

import pytest

from services.storage.log.durability import ServerAnswer, judge
from services.storage.log.stream import Cluster, Replica, StreamConfig, StreamInfo


def stream(*, down: str = "", persist_mode: str = "") -> StreamInfo:
    replicas = [Replica(name, offline=name == down) for name in ("n2", "n3")]
    return StreamInfo(StreamConfig("S", persist_mode=persist_mode), cluster=Cluster("n1", replicas))


def answers(*names: str, lax: str = "", version: str = "2.12.3") -> dict[str, ServerAnswer]:
    return {name: ServerAnswer(name, version, name != lax) for name in names}


def test_all_servers_that_fsync_are_durable() -> None:
    verdict = judge(stream(), answers("n1", "n2", "n3"), set())
    assert verdict.reason is None and not verdict.missing


@pytest.mark.parametrize("lax", ["n1", "n2", "n3"])
def test_one_server_without_fsync_is_enough(lax: str) -> None:
    verdict = judge(stream(), answers("n1", "n2", "n3", lax=lax), {"n1", "n2", "n3"})
    assert verdict.certain and verdict.reason is not None and lax in verdict.reason


@pytest.mark.parametrize("version", ["2.9.10", "2.12.2", "2.12", "garbage", ""])
def test_a_server_that_is_too_old_is_refused(version: str) -> None:
    verdict = judge(stream(), answers("n1", "n2", "n3", version=version), set())
    assert verdict.certain and verdict.reason is not None and "2.12.3" in verdict.reason


@pytest.mark.parametrize("version", ["2.12.3", "v2.12.3", "2.13.0-preview.1", "3.0.0"])
def test_a_server_that_is_new_enough_is_taken(version: str) -> None:
    assert judge(stream(), answers("n1", "n2", "n3", version=version), set()).reason is None


def test_asynchronous_persistence_is_refused() -> None:
    verdict = judge(stream(persist_mode="async"), answers("n1", "n2", "n3"), set())
    assert verdict.certain and verdict.reason is not None and "async" in verdict.reason


def test_a_silent_stranger_is_not_trusted() -> None:
    verdict = judge(stream(), answers("n1", "n2"), set())
    assert not verdict.certain and verdict.reason is not None and "n3" in verdict.reason


def test_a_server_that_is_down_or_was_seen_to_fsync_does_not_matter() -> None:
    for verdict in (judge(stream(down="n3"), answers("n1", "n2"), set()), judge(stream(), answers("n1", "n2"), {"n3"})):
        assert verdict.reason is None and verdict.missing == ("n3",)


def test_a_minority_proves_nothing() -> None:
    verdict = judge(stream(), answers("n1"), {"n1", "n2", "n3"})
    assert not verdict.certain and verdict.reason is not None and "majority" in verdict.reason


def test_a_stream_without_a_leader_proves_nothing() -> None:
    assert judge(StreamInfo(StreamConfig("S")), {}, set()).reason is not None
