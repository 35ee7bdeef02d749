"""The planner over worlds made by hand and by chance: what it decides, and that every prefix of a plan is safe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from orbit.chassis.etcd_nouns import Changes, Deleted, KeyValue
from services.coordinator.client import Leader, Member
from services.coordinator.planner import Action, Goals, plan
from services.coordinator.store import Candidate, ClusterConfig, Keys, NodeRecord, ShardRecord, Value, encode
from services.coordinator.view import World

KEYS = Keys("r")
NOW_US = 1_000_000_000_000
HOUR_US = 3_600_000_000
GOALS = Goals(replication_factor=3)


def member(name: str) -> Member:
    return Member(name, f"{name}:7000", f"{name}:9090", 0, 1)


@dataclass
class Store:
    """A stand-in for etcd that keeps compare-and-set honest."""

    world: World

    def put(self, key: str, value: Value, lease: int = 0) -> Store:
        before, revision = self.world.entries.get(key), self.world.revision + 1
        created = revision if before is None else before.create_revision
        return self._move(KeyValue(key, encode(value), created, revision, lease))

    def delete(self, key: str) -> Store:
        return self._move(Deleted(key, self.world.revision + 1))

    def carry_out(self, actions: Sequence[Action]) -> Store:
        for action in actions:
            before = self.world.entries.get(action.key)
            assert action.expected_revision == (0 if before is None else before.mod_revision), action
            if action.value is None:
                self.delete(action.key)
            else:
                self.put(action.key, action.value)
        return self

    def _move(self, event: KeyValue | Deleted) -> Store:
        self.world = self.world.changed(Changes(self.world.revision + 1, (event,)))
        return self


def store_with(*names: str) -> Store:
    store = Store(World(KEYS))
    for name in names:
        store.put(KEYS.member(name), member(name), 1)
    return store


def settled(store: Store, goals: Goals = GOALS, now_us: int = NOW_US) -> Store:
    for _ in range(3):
        store.carry_out(plan(store.world, goals, now_us))
    assert plan(store.world, goals, now_us) == ()
    return store


def record(store: Store, shard: int = 0) -> ShardRecord:
    found = store.world.shard(shard)
    assert found is not None
    return found.value


def test_a_new_cluster_gets_its_records() -> None:
    store = settled(store_with("c", "a", "b"))
    config = store.world.config()
    assert config is not None
    assert config.value == ClusterConfig(1, 1, 3)
    assert record(store) == ShardRecord(0, 3, ("a", "b", "c"), "a")
    assert {name: node.value.alive for name, node in store.world.nodes().items()} == {"a": True, "b": True, "c": True}


def test_nothing_is_placed_while_nobody_lives() -> None:
    assert settled(store_with()).world.shard(0) is None


def test_placement_grows_with_the_members_up_to_the_replication_factor() -> None:
    store = settled(store_with("a"))
    assert record(store).placement == ("a",)
    for name in ("b", "c", "d"):
        settled(store.put(KEYS.member(name), member(name), 1))
    assert record(store).placement == ("a", "b", "c")


def test_the_leader_is_placed_and_preferred() -> None:
    store = store_with("a", "b", "c", "d").put(KEYS.leader(0), Leader(0, "d", "d:7000", 4), 1)
    assert record(settled(store)) == ShardRecord(0, 3, ("a", "b", "d"), "d")
    store = settled(store, Goals(replication_factor=1))
    assert record(store).placement == ("d",)


def test_a_dead_node_is_marked_keeps_its_place_for_a_while_and_is_then_replaced() -> None:
    store = settled(store_with("a", "b", "c", "d"))
    settled(store.delete(KEYS.member("b")))
    node = store.world.nodes()["b"].value
    assert node == NodeRecord("b", "b:7000", "b:9090", False, NOW_US)
    assert record(store).placement == ("a", "b", "c")
    later = NOW_US + GOALS.replace_after_us
    assert plan(store.world, GOALS, later - 1) == ()
    settled(store, now_us=later)
    assert record(store).placement == ("a", "c", "d")


def test_a_dead_node_keeps_its_place_when_there_is_no_spare() -> None:
    store = settled(store_with("a", "b", "c"))
    settled(store.delete(KEYS.member("b")), now_us=NOW_US + HOUR_US)
    assert plan(store.world, GOALS, NOW_US + 100 * HOUR_US) == ()
    assert record(store).placement == ("a", "b", "c")


def test_a_shard_without_a_live_replica_gets_one_at_once() -> None:
    goals = Goals(replication_factor=2)
    store = settled(store_with("a", "b", "c"), goals)
    store.delete(KEYS.member("a")).delete(KEYS.member("b"))
    placement = record(settled(store, goals)).placement
    assert len(placement) == 2
    assert "c" in placement, "the other dead node keeps its place for a while"


def test_a_returning_node_is_alive_again_and_a_moved_one_is_noticed() -> None:
    store = settled(store_with("a", "b", "c"))
    settled(store.delete(KEYS.member("b")))
    moved = replace(member("b"), address="elsewhere:7000")
    settled(store.put(KEYS.member("b"), moved, 2), now_us=NOW_US + 5)
    assert store.world.nodes()["b"].value == NodeRecord("b", "elsewhere:7000", "b:9090", True, NOW_US + 5)


def test_progress_of_a_member_plans_nothing() -> None:
    store = settled(store_with("a", "b", "c"))
    store.put(KEYS.member("a"), replace(member("a"), applied_sequence=900), 1)
    assert plan(store.world, GOALS, NOW_US + HOUR_US) == ()


def test_a_dead_preferred_leader_gives_way_to_the_one_that_leads() -> None:
    store = settled(store_with("a", "b", "c"))
    store.delete(KEYS.member("a")).put(KEYS.leader(0), Leader(0, "c", "c:7000", 2), 1)
    assert record(settled(store)).preferred == "c"
    settled(store.put(KEYS.member("a"), member("a"), 2))
    assert record(store).preferred == "c", "a node that returns does not take the lead back by itself"


def test_leaders_are_spread_over_the_nodes() -> None:
    goals = Goals(shards=(0, 1, 2, 3, 4, 5), replication_factor=3)
    store = settled(store_with("a", "b", "c"), goals)
    assert sorted(record(store, shard).preferred or "" for shard in goals.shards) == ["a", "a", "b", "b", "c", "c"]


def test_replicas_are_spread_over_the_nodes() -> None:
    goals = Goals(shards=(0, 1, 2, 3), replication_factor=1)
    store = settled(store_with("a", "b", "c", "d"), goals)
    assert sorted(record(store, shard).placement for shard in goals.shards) == [("a",), ("b",), ("c",), ("d",)]


def test_a_new_replication_factor_is_a_new_version_of_the_configuration() -> None:
    store = settled(settled(store_with("a", "b", "c")), Goals(replication_factor=2))
    config = store.world.config()
    assert config is not None
    assert config.value == ClusterConfig(2, 1, 2)
    assert record(store) == ShardRecord(0, 2, ("a", "b"), "a")


def test_a_handover_request_goes_when_it_is_fulfilled_or_void() -> None:
    store = settled(store_with("a", "b", "c").put(KEYS.leader(0), Leader(0, "a", "a:7000", 2), 1))
    store.put(KEYS.handover(0), Candidate("b"))
    assert plan(store.world, GOALS, NOW_US) == ()
    fulfilled = Store(store.world).put(KEYS.leader(0), Leader(0, "b", "b:7000", 3), 1)
    assert settled(fulfilled).world.handover(0) is None
    void = Store(store.world).delete(KEYS.member("b"))
    assert settled(void).world.handover(0) is None


_NAMES = [f"n{number}" for number in range(6)]
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("up"), st.sampled_from(_NAMES)),
        st.tuples(st.just("down"), st.sampled_from(_NAMES)),
        st.tuples(st.just("lead"), st.sampled_from(_NAMES)),
        st.tuples(st.just("wait"), st.just("")),
    ),
    max_size=25,
)


@given(steps=_STEPS, factor=st.integers(1, 5), cut=st.integers(0, 12), shards=st.integers(1, 3))
def test_every_interrupted_plan_can_be_taken_up_again(
    steps: list[tuple[str, str]], factor: int, cut: int, shards: int
) -> None:
    goals = Goals(shards=tuple(range(shards)), replication_factor=factor)
    store, now_us = store_with(), NOW_US
    for what, name in steps:
        if what == "up":
            store.put(KEYS.member(name), member(name), 1)
        elif what == "down" and KEYS.member(name) in store.world.entries:
            store.delete(KEYS.member(name))
        elif what == "lead" and KEYS.member(name) in store.world.entries:
            store.put(KEYS.leader(0), Leader(0, name, f"{name}:7000", 1), 1)
        elif what == "wait":
            now_us += GOALS.replace_after_us
        store.carry_out(plan(store.world, goals, now_us)[:cut])  # The coordinator dies in the middle.
        settled(store, goals, now_us)
        alive = set(store.world.members())
        for shard in goals.shards:
            found = store.world.shard(shard)
            if found is None:
                assert not alive
                continue
            placement = found.value.placement
            assert len(set(placement)) == len(placement) <= factor
            assert len(placement) >= min(factor, len(alive))
            assert alive & set(placement) or not alive
            if alive:
                assert found.value.preferred in alive & set(placement)
