"""`python -m deploy.runner up|down|status`: a Compose file as plain processes on this machine.

Owns the command line and what a person reads. Exit status: 0 done, 1 it failed or is not (wholly) running, 2 usage.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

from deploy.runner.cluster import Cluster, end_processes, exclusive, forget, running
from deploy.runner.compose import ComposeError
from deploy.runner.interpolate import InterpolationError
from deploy.runner.prepare import DEFAULT_FILE, Options, RunnerError
from deploy.runner.probe import EveryProbe
from deploy.runner.process import StillRunning
from deploy.runner.state import ClusterRun, Folder
from orbit.cli.run_file import StateFolder


def main(arguments: list[str]) -> int:
    given = _parser().parse_args(arguments)
    try:
        match given.verb:
            case "up":
                return _up(given)
            case "down":
                return _down(given)
            case _:
                return _status(given)
    except (RunnerError, ComposeError, InterpolationError, StillRunning, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.runner", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="start everything and wait until it is healthy")
    up.add_argument("-f", "--file", action="append", type=Path, help="Compose file; later ones override earlier ones")
    up.add_argument("--scale", action="append", default=[], metavar="SERVICE=N", help="how many instances of a service")
    up.add_argument("--only", nargs="+", default=[], metavar="SERVICE", help="start these services and no others")
    up.add_argument("--free-ports", action="store_true", help="take free ports for what the file publishes, too")
    up.add_argument("--timeout", type=float, default=180.0, metavar="SECONDS", help="for the whole start (180)")
    default = StateFolder.of(dict(os.environ)).path / "cluster"
    down = verbs.add_parser("down", help="stop exactly what was started")
    down.add_argument("--volumes", action="store_true", help="also delete all data, ports and generated secrets")
    status = verbs.add_parser("status", help="say what runs and whether it is healthy")
    for verb in (up, down, status):
        verb.add_argument("--state-dir", type=Path, default=default, help=f"where all of it is kept ({default})")
    return parser


def _up(given: argparse.Namespace) -> int:
    folder = Folder(given.state_dir)
    run_file = folder.path.parent / "run.json"
    remembered = [record for record in running(folder) if not record.one_shot]
    alive = [record for record in remembered if record.identity.alive()]
    if alive and len(alive) == len(remembered):
        print(f"already running: {len(alive)} processes, described in {run_file}")
        return 0
    if alive:
        print(f"only {len(alive)} of {len(remembered)} processes still run: `down` first", file=sys.stderr)
        return 1
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    cluster = Cluster(
        Options(
            environ=os.environ,
            files=given.file or [DEFAULT_FILE],
            scale=_scale(given.scale),
            only=[name for names in given.only for name in names.split(",")],
            port_offset=_offset(os.environ.get("ORBIT_PORT_OFFSET", "")),
            free_ports=given.free_ports,
        ),
        given.state_dir,
        run_file=run_file,
        report=lambda line: print(line, flush=True),
        interrupted=stop.is_set,
    )
    cluster.start(given.timeout)
    _tell(cluster.description, run_file)
    return 0


def _scale(given: list[str]) -> dict[str, int]:
    scale: dict[str, int] = {}
    for text in given:
        name, equals, count = text.partition("=")
        if not equals or not count.isdigit():
            raise RunnerError(f"--scale {text} is not SERVICE=N")
        scale[name] = int(count)
    return scale


def _offset(text: str) -> int | None:
    if not text:
        return None
    if not text.isdigit():
        raise RunnerError(f"ORBIT_PORT_OFFSET={text} is no number")
    return int(text)


def _tell(run: ClusterRun, run_file: Path) -> None:
    where = run.endpoints
    print(f"\n{len(run.processes)} processes run; all about them: {run_file}")
    for skipped in run.not_run:
        print(f"  not run     {skipped.service}: {skipped.reason}")
    if where.postgres:
        host, _, port = where.postgres.rpartition(":")
        print(f"  PostgreSQL  psql -h {host} -p {port} -U {run.user} {run.database}")
    if where.redis:
        host, _, port = where.redis.rpartition(":")
        print(f"  Redis       redis-cli -h {host} -p {port} --user {run.user} --askpass")
    if where.rest:
        print(f"  REST        {where.rest}")
    for process in run.processes:
        if "metrics" in process.ports:
            print(f"  operations  http://127.0.0.1:{process.ports['metrics']}/health  ({process.node_id})")
    if run.password_file:
        print(f"  password    in {run.password_file}")
    print(f"stop it: python -m deploy.runner down --state-dir {run.state_dir}")


def _down(given: argparse.Namespace) -> int:
    folder = Folder(given.state_dir)
    if not folder.path.exists():
        print(f"nothing was started in {folder.path}")
        return 0
    with exclusive(folder):
        end_processes(running(folder), lambda line: print(line, flush=True))
        forget(folder)
    if given.volumes:
        shutil.rmtree(folder.path)
    print("stopped" + (", and all data deleted" if given.volumes else f"; the data stays in {folder.path}"))
    return 0


def _status(given: argparse.Namespace) -> int:
    folder = Folder(given.state_dir)
    state = folder.load()
    if state is None:
        print(f"nothing runs in {folder.path}")
        return 1
    well = True
    for record in state.processes:
        alive = record.identity.alive()
        complaint = EveryProbe(tuple(record.probes)).ask() if alive else None
        condition = "running" if alive else "done" if record.one_shot else "dead"
        well = well and complaint is None and (alive or record.one_shot)
        ports = " ".join(f"{port}->{number}" for port, number in record.ports.items())
        print(
            f"{record.name:16} {condition:8} {record.pid:8}  {ports}{f'  unhealthy: {complaint}' if complaint else ''}"
        )
    for skipped in state.not_run:
        print(f"{skipped.service:16} not run   {skipped.reason}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
