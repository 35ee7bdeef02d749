"""Status documents, replication lag, campaign delays and the decoded world, without etcd."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from orbit.chassis.etcd_nouns import Changes, Deleted, KeyValue, Listing
from services.coordinator.client import Leader, Member
from services.coordinator.coordination import LAG_LIMIT_S, LAG_STEP_S, PREFERENCE_S, UNPLACED_S, campaign_delay_s
from services.coordinator.server import LagMeter, health_document, replication_document, status_document
from services.coordinator.store import Candidate, Keys, ShardRecord, Value, encode
from services.coordinator.view import World

KEYS = Keys("r")


def member(name: str, applied: int = 100) -> Member:
    return Member(name, f"{name}:7000", f"{name}:9090", applied, 1)


def world_of(*entries: tuple[str, Value]) -> World:
    items = (KeyValue(key, encode(value), at, at, 1) for at, (key, value) in enumerate(entries, 1))
    return World(KEYS).listed(Listing(50, tuple(items)))


def cluster(leader: Leader | None, *members: Member, record: ShardRecord | None = None) -> World:
    entries: list[tuple[str, Value]] = [(KEYS.member(each.node_id), each) for each in members]
    if leader is not None:
        entries.append((KEYS.leader(0), leader))
    if record is not None:
        entries.append((KEYS.shard(0), record))
    return world_of(*entries)


A_LEADS = Leader(0, "a", "a:7000", 5)


def test_a_world_follows_listings_and_changes_and_never_changes_itself() -> None:
    before = cluster(A_LEADS, member("a"), member("b"))
    added = KeyValue(KEYS.member("c"), encode(member("c")), 51, 51, 3)
    after = before.changed(Changes(52, (added, Deleted(KEYS.member("a"), 52), Deleted(KEYS.leader(0), 52))))
    assert (list(before.members()), before.leader(0)) == (["a", "b"], A_LEADS)
    assert (list(after.members()), after.leader(0), after.revision) == (["b", "c"], None, 52)


def test_an_unreadable_value_is_reported_and_an_unknown_key_is_not() -> None:
    items = (KeyValue(KEYS.leader(0), b"{", 1, 1, 0), KeyValue("/orbit/r/later/thing", b"?", 2, 2, 0))
    with capture_logs() as logs:
        world = World(KEYS).listed(Listing(9, items))
    assert world.leader(0) is None
    assert [(each["log_level"], each["key"]) for each in logs] == [("error", KEYS.leader(0))]


@pytest.mark.parametrize("region", ["", "a/b"])
def test_a_region_is_one_part_of_a_key(region: str) -> None:
    with pytest.raises(ValueError, match="region"):
        Keys(region)


def test_lag_is_measured_from_when_the_leader_was_first_ahead() -> None:
    meter = LagMeter(interval_s=1.0)
    meter.observe(cluster(A_LEADS, member("a", 100), member("b", 100)), 10.0)
    meter.observe(cluster(A_LEADS, member("a", 150), member("b", 100)), 11.0)
    world = cluster(A_LEADS, member("a", 200), member("b", 120))
    meter.observe(world, 12.0)
    assert (meter.lag_records(world, "a"), meter.lag_ms(world, "a", 12.0)) == (0, 0)
    assert (meter.lag_records(world, "b"), meter.lag_ms(world, "b", 12.5)) == (80, 500)
    assert meter.lag_ms(world, "b", 20.0) == 8000, "a follower that stands still lags more and more"
    kept_up = cluster(A_LEADS, member("a", 210), member("b", 200))
    meter.observe(kept_up, 21.0)
    assert meter.lag_ms(kept_up, "b", 21.9) == 0, "what one report interval explains is no lag"
    assert meter.lag_ms(kept_up, "gone", 22.0) is None


def test_leader_changes_are_counted_once_and_the_term_outlives_the_leader() -> None:
    meter = LagMeter(interval_s=1.0)
    for leader in (None, A_LEADS, A_LEADS, None, replace(A_LEADS, epoch=6), Leader(0, "b", "b:7000", 7), None):
        meter.observe(cluster(leader, member("a"), member("b")), 1.0)
    assert meter.leader_changes == 2
    assert status_document(cluster(None, member("a")), meter, 2.0, True)["term"] == 7


def test_status_has_the_guides_shape_from_each_point_of_view() -> None:
    meter = LagMeter(interval_s=1.0)
    members = (member("a", 100), member("b", 90), member("c", 100))
    world = cluster(A_LEADS, *members, record=ShardRecord(0, 3, ("a", "b", "c"), "a"))
    meter.observe(world, 10.0)
    on_leader = status_document(world, meter, 15.0, True, node_id="a")
    shown = {key: on_leader[key] for key in ("healthy", "role", "term", "peers", "replication_lag_ms")}
    assert shown == {
        "healthy": True,
        "role": "leader",
        "term": 5,
        "peers": ["b:7000", "c:7000"],
        "replication_lag_ms": 4000,
    }
    assert status_document(world, meter, 15.0, True, node_id="b")["replication_lag_ms"] == 4000
    on_follower = status_document(world, meter, 15.0, True, node_id="c")
    assert (on_follower["role"], on_follower["replication_lag_ms"]) == ("follower", 0)
    elsewhere = status_document(world, meter, 15.0, True, role="standby")
    assert (elsewhere["role"], len(elsewhere["peers"]), elsewhere["replication_lag_ms"]) == ("standby", 3, 4000)
    leaderless = status_document(cluster(None, *members), meter, 15.0, True, node_id="b")
    assert (leaderless["role"], leaderless["healthy"]) == ("candidate", False)


@pytest.mark.parametrize(
    ("world", "connected", "reason"),
    [
        (cluster(A_LEADS, member("a")), False, "etcd does not answer"),
        (cluster(None), True, "no storage node is alive"),
        (cluster(None, member("a")), True, "shard 0 has no leader"),
        (cluster(A_LEADS, member("a"), record=ShardRecord(0, 3, ("a", "b", "c"))), True, None),
    ],
)
def test_health_says_what_is_wrong(world: World, connected: bool, reason: str | None) -> None:
    document = health_document(world, connected)
    assert document["healthy"] is (reason is None)
    assert (document["reason"] is None) if reason is None else reason in document["reason"]


def test_missing_replicas_are_told_without_denying_that_the_cluster_serves() -> None:
    meter, record = LagMeter(interval_s=1.0), ShardRecord(0, 3, ("a", "b", "c"))
    missing = status_document(cluster(A_LEADS, member("a"), record=record), meter, 1.0, True)
    assert (missing["healthy"], missing["degraded"]) == (True, "shard 0 has 1 live replicas of 3")
    complete = status_document(cluster(A_LEADS, *map(member, "abc"), record=record), meter, 1.0, True)
    assert (complete["healthy"], complete["degraded"]) == (True, None)


def test_replication_lists_every_member() -> None:
    meter = LagMeter(interval_s=0.5)
    world = cluster(A_LEADS, member("a", 100), member("b", 40), record=ShardRecord(0, 2, ("a", "b")))
    meter.observe(world, 10.0)
    document = replication_document(world, meter, 12.5)
    assert (document["leader"], document["term"], document["resolution_ms"]) == ("a", 5, 500)
    assert [
        (each["node"], each["role"], each["applied_sequence"], each["lag_records"], each["lag_ms"])
        for each in document["members"]
    ] == [("a", "leader", 100, 0, 0), ("b", "follower", 40, 60, 2000)]


def test_a_candidate_waits_by_its_lag() -> None:
    def delay(own: int, best: int) -> float:
        return campaign_delay_s(cluster(None, member("me", own), member("b", best)), 0, "me", own)

    assert delay(100, 100) == 0
    assert delay(200, 100) == 0
    assert delay(99, 100) == pytest.approx(LAG_STEP_S)
    assert delay(0, 100) < delay(0, 1000) < delay(0, 10_000)
    assert delay(0, 1 << 40) == LAG_LIMIT_S
    assert campaign_delay_s(cluster(None), 0, "me", 0) == 0, "alone, before its own record shows"


def test_a_candidate_lets_the_wanted_node_go_first_if_it_lives() -> None:
    def delay(record: ShardRecord, *more: tuple[str, Value]) -> float:
        members = [(KEYS.member(name), member(name)) for name in ("me", "b")]
        return campaign_delay_s(world_of(*members, (KEYS.shard(0), record), *more), 0, "me", 100)

    assert delay(ShardRecord(0, 2, ("b", "me"), "b")) == PREFERENCE_S
    assert delay(ShardRecord(0, 2, ("b", "me"), "me")) == 0
    assert delay(ShardRecord(0, 2, ("dead", "me"), "dead")) == 0
    assert delay(ShardRecord(0, 2, ("b", "me"), "me"), (KEYS.handover(0), Candidate("b"))) == PREFERENCE_S
    assert delay(ShardRecord(0, 1, ("b",), None)) == UNPLACED_S
    assert delay(ShardRecord(0, 1, ("dead",), "dead")) == 0
