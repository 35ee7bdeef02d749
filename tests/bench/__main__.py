"""`python -m tests.bench`: run the engine and its peers alternately, print one table, write results/latest.json.

Owns the order of the runs. Each workload goes round robin over its systems, `--rounds` times, so that what else the
machine does meets all of them; the figure is the median. A ratio above 1 means that the engine does better.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from orbit.cli.text_table import text_table
from tests.bench import systems, workloads
from tests.bench.systems import Engine, Resp, Sql

RESULTS = Path(__file__).parent / "results" / "latest.json"
WORKLOADS = ("pgbench", "copy", "tpch", "redis")
TOPOLOGIES = {"single": systems.single, "split": systems.split}


@dataclass(frozen=True)
class Result:
    """One line of the table. `value` is the engine's; `ratio` is null when one side has no figure."""

    workload: str
    topology: str
    engine: str
    peer: str
    value: float
    unit: str
    ratio: float | None


Measure = Callable[[], float]


def in_turns(runs: Mapping[str, Measure], rounds: int, what: str) -> dict[str, float]:
    """Run all of them in each round; return each one's median."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
    medians = {name: statistics.median(values) for name, values in found.items()}
    print(f"  {what}: " + ", ".join(f"{name} {value:,.4g}" for name, value in medians.items()), flush=True)
    return medians


class Bench:
    """One run over everything that was asked for."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.results: list[Result] = []
        self.engines: list[Engine] = []

    def run(self) -> None:
        wanted = self.options.workloads
        with contextlib.ExitStack() as stack:
            self.engines = [stack.enter_context(TOPOLOGIES[name](self.folder)) for name in self.options.topologies]
            if {"pgbench", "copy"} & set(wanted):
                self.against_postgres(stack.enter_context(systems.postgres(self.folder)))
            if "tpch" in wanted:
                self.against_duckdb()
            if "redis" in wanted:
                self.against_redis(stack.enter_context(systems.redis_server(self.folder)))

    def against_postgres(self, postgres: Sql) -> None:
        everyone = {engine.topology: engine.sql for engine in self.engines} | {postgres.name: postgres}
        rates: list[workloads.Rate] = []
        if "pgbench" in self.options.workloads:
            for sql in everyone.values():
                sql.pgbench.initialize(self.options.pgbench_scale)
            rates += workloads.pgbench_workloads(self.options.seconds)
        if "copy" in self.options.workloads:
            rates.append(workloads.copy_lineitem(self.tpch_files()))
        for rate in rates:
            runs = {name: (lambda sql=sql, rate=rate: rate.run(sql)) for name, sql in everyone.items()}
            self.compare(rate.name, rate.unit, runs, postgres.name)

    def against_duckdb(self) -> None:
        files = self.tpch_files()
        native = workloads.query_tpch_in_duckdb(files)
        for engine in self.engines:
            workloads.load_tpch(engine.sql, files)
            found = workloads.query_tpch(engine.sql)
            totals = [0.0, 0.0]
            for name, seconds in found.items():
                peer = native[name]
                if isinstance(seconds, str) or isinstance(peer, str):
                    print(f"  TPC-H {name}: {engine.topology} {seconds}", flush=True)
                    continue
                totals = [totals[0] + seconds, totals[1] + peer]
                self.add(f"TPC-H {name}", engine.topology, "duckdb", seconds, "s", peer / seconds)
            answered = sum(not isinstance(seconds, str) for seconds in found.values())
            ratio = totals[1] / totals[0] if answered else None
            self.add(f"TPC-H, {answered} of 22 queries", engine.topology, "duckdb", totals[0], "s", ratio)

    def against_redis(self, redis: Resp) -> None:
        everyone = {engine.topology: engine.resp for engine in self.engines} | {redis.name: redis}
        for command in ("set", "get"):
            for pipeline in (1, 16):
                runs = {
                    name: (lambda resp=resp, command=command, pipeline=pipeline: self.redis(resp, command, pipeline))
                    for name, resp in everyone.items()
                }
                self.compare(f"redis {command.upper()} -c 50 -P {pipeline}", "requests/s", runs, redis.name)

    def redis(self, resp: Resp, command: str, pipeline: int) -> float:
        return workloads.redis_benchmark(resp, command, pipeline, self.options.requests)

    def compare(self, workload: str, unit: str, runs: Mapping[str, Measure], peer: str) -> None:
        medians = in_turns(runs, self.options.rounds, workload)
        for name, value in medians.items():
            if name != peer:
                self.add(workload, name, peer, value, unit, value / medians[peer])

    def add(self, workload: str, topology: str, peer: str, value: float, unit: str, ratio: float | None) -> None:
        shown = None if ratio is None else round(ratio, 3)
        self.results.append(Result(workload, topology, "orbit", peer, round(value, 4), unit, shown))

    def tpch_files(self) -> Path:
        folder = self.folder / "tpch"
        if not folder.exists():
            folder.mkdir()
            workloads.generate_tpch(folder, self.options.scale)
        return folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--topologies", nargs="+", choices=list(TOPOLOGIES), default=list(TOPOLOGIES))
    parser.add_argument("--seconds", type=int, default=5, help="of each pgbench run (5)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each workload on each system (2)")
    parser.add_argument("--pgbench-scale", type=int, default=10, help="of pgbench's tables (10)")
    parser.add_argument("--scale", type=float, default=0.1, help="TPC-H scale factor (0.1)")
    parser.add_argument("--requests", type=int, default=20_000, help="of each redis-benchmark run (20000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="orbit-bench-") as folder:
        bench = Bench(options, Path(folder))
        bench.run()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([asdict(result) for result in bench.results], indent=1) + "\n")
    rows = [
        [
            one.workload,
            one.topology,
            f"{one.value:,.4g}",
            one.unit,
            one.peer,
            "" if one.ratio is None else f"{one.ratio:.2f}",
        ]
        for one in bench.results
    ]
    print("\n" + text_table(["workload", "topology", "orbit", "unit", "peer", "ratio"], rows, frozenset((2, 5))))
    print(f"\nratio above 1: better than the peer; written to {RESULTS}")


if __name__ == "__main__":
    main()
