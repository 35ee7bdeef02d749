"""A cluster of processes from Compose files: start it, hurt it, stop it.

    with Cluster(state_dir=tmp_path, environ=os.environ, free_ports=True, guarded=True) as cluster:
        dsn = cluster.address("haproxy", 5432)
        cluster.kill("node-1")
        cluster.restart("node-1")

Owns the processes' lives: start order, health, failure, the end. Restart policies, resource limits and networks are not
emulated: what dies stays dead until `restart`. Every method blocks; a test with an event loop calls it in a thread.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from deploy.runner import process
from deploy.runner.plan import Instance
from deploy.runner.prepare import Options, Preparation, Prepared, RunnerError, check_ports, prepare
from deploy.runner.probe import EveryProbe, HttpProbe, Probe
from deploy.runner.state import ClusterProcess, ClusterRun, Folder, ProcessRecord, State, write
from orbit.cli.run_file import Endpoints

TURN_S = 0.03
"""How often the start looks at its processes."""
PROBE_EVERY_S = 0.2
PROBES_AT_ONCE = 4
TAIL_LINES = 25
PORT_NAMES = {"5432": "postgres", "6379": "redis", "8080": "rest", "9090": "metrics", "7000": "node"}
"""What the run file calls the ports of our own services."""


@dataclass(slots=True)
class _Running:
    """A process of this cluster, and what is known of its health."""

    prepared: Prepared
    record: ProcessRecord
    child: subprocess.Popen[bytes]
    log_start: int
    started: float
    healthy: bool = False
    asked: Future[str | None] | None = None
    asked_at: float = 0.0
    complaint: str = "it was not asked yet"

    @property
    def name(self) -> str:
        return self.prepared.instance.name

    @property
    def one_shot(self) -> bool:
        return self.prepared.instance.service.one_shot


@dataclass(slots=True)
class _Start:
    """One start on its way."""

    pending: list[Prepared]
    deadline: float
    running: dict[str, _Running] = field(default_factory=dict)


class Cluster:
    """The processes of one state folder, started by this object."""

    def __init__(
        self,
        options: Options,
        state_dir: Path,
        *,
        run_file: Path | None = None,
        guarded: bool = False,
        report: Callable[[str], None] = lambda line: None,
        interrupted: Callable[[], bool] = lambda: False,
        rng: random.Random | None = None,
    ) -> None:
        """`guarded`: another process ends the cluster when this one dies without stopping it.

        `interrupted` is asked during a start; when it says so, the start fails and leaves nothing running.
        """
        self._options = options
        self._folder = Folder(state_dir)
        self._run_file = run_file or self._folder.path / "run.json"
        self._guarded = guarded
        self._guard: subprocess.Popen[bytes] | None = None
        self._report = report
        self._interrupted = interrupted
        self._rng = rng or random.Random()
        self._running: dict[str, _Running] = {}
        self._preparation: Preparation | None = None
        self._started_at = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- its life -----------------------------------------------------------------------------------------------

    def start(self, timeout_s: float = 180.0) -> None:
        """Start everything and return when it is healthy; on any failure nothing is left running.

        Raises RunnerError, ComposeError, InterpolationError, OSError.
        """
        with exclusive(self._folder):
            if any(record.identity.alive() for record in running(self._folder)):
                raise RunnerError(f"the cluster in {self._folder.path} is already running")
            _refuse_other_engine(self._run_file, self._folder)
            self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
            self._preparation = prepare(self._options, self._folder, self._rng)
            check_ports(self._preparation, self._options)
            for skipped in self._preparation.not_run:
                self._report(f"{skipped.service}: not run, {skipped.reason}")
            if self._guarded:
                self._start_guard()
            try:
                self._bring_up(list(self._preparation.prepared), timeout_s)
                self._save()
                self._keep_password()
                write(self._run_file, json_of(self._describe()))
            except BaseException:
                self._end_all()
                raise

    def stop(self, most_grace_s: float = 60.0) -> None:
        """End everything that this object started, what started last first. Raises StillRunning.

        `most_grace_s` shortens what the file grants between the stop signal and SIGKILL: three etcd that stop at once
        wait 7 s for each other.
        """
        with exclusive(self._folder):
            self._end_all(most_grace_s)

    def _end_all(self, most_grace_s: float = 60.0) -> None:
        try:
            end_processes([one.record for one in self._running.values()], self._report, most_grace_s)
        finally:
            for one in self._running.values():
                if not one.record.identity.alive():
                    one.child.wait()
        self._running.clear()
        forget(self._folder)
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()  # its sign to look, and to find nothing left
            self._guard.wait()
            self._guard = None

    def _keep_password(self) -> None:
        assert self._preparation is not None, "prepared before it was started"
        if password := self._preparation.variables.get("ORBIT_PASSWORD"):
            write(self._folder.password, f"{password}\n".encode())

    def _start_guard(self) -> None:
        self._guard = subprocess.Popen(
            (sys.executable, "-m", "deploy.runner.guard", str(self._folder.path)),
            stdin=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[2],
            start_new_session=True,
        )

    # --- hurting it ---------------------------------------------------------------------------------------------

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to an instance and all that it started. Raises RunnerError when it does not run.

        When this returns, a process is gone after SIGKILL, stands still after SIGSTOP, and goes on after SIGCONT.
        """
        one = self._one(name)
        if not one.record.identity.send(number, group=True):
            raise RunnerError(f"{name} does not run")
        if number is signal.SIGKILL:
            one.child.wait()
        while number is signal.SIGSTOP and one.record.identity.alive() and not one.record.identity.paused():
            time.sleep(process.POLL_S)

    def restart(self, name: str, timeout_s: float = 60.0) -> None:
        """Start an instance again on its ports and data (ending it first when it runs); return when it is healthy.

        Raises RunnerError when it does not become healthy; the others stay as they are.
        """
        one = self._one(name)
        end_processes([one.record], self._report)
        one.child.wait()
        try:
            self._bring_up([one.prepared], timeout_s)
        finally:
            self._save()
            write(self._run_file, json_of(self._describe()))

    def wait_healthy(self, name: str, timeout_s: float = 60.0) -> None:
        """Return when the instance's health check passes again. Raises RunnerError when it does not in time."""
        one = self._one(name)
        one.healthy = one.prepared.probe is None
        self._watch(_Start([], time.monotonic() + timeout_s, {name: one}))

    # --- looking at it ------------------------------------------------------------------------------------------

    @property
    def processes(self) -> dict[str, ProcessRecord]:
        """Every process by instance name, whether it still runs or not."""
        return {name: one.record for name, one in self._running.items()}

    def alive(self, name: str) -> bool:
        """Return whether the instance's process runs."""
        return self._one(name).record.identity.alive()

    def address(self, name: str, port: int) -> str:
        """Return 127.0.0.1:port of a container's port, also of a service that does not run. Raises ComposeError."""
        assert self._preparation is not None, "the cluster was started"
        book = self._preparation.book
        instances = book.instances.get(name)
        return f"127.0.0.1:{book.port(instances[0] if instances else name, port)}"

    @property
    def description(self) -> ClusterRun:
        """What the run file says: endpoints, user, processes, what was not run."""
        return self._describe()

    @property
    def variables(self) -> Mapping[str, str]:
        """Every variable of the Compose files as it was used, generated passwords among them."""
        assert self._preparation is not None, "the cluster was started"
        return self._preparation.variables

    def log(self, name: str) -> str:
        """Return all that the instance wrote since it was last started."""
        one = self._one(name)
        return process.tail(Path(one.record.log), 1 << 20, one.log_start)

    def _one(self, name: str) -> _Running:
        if name not in self._running:
            raise RunnerError(f"there is no instance {name}; there are {', '.join(self._running)}")
        return self._running[name]

    # --- starting -----------------------------------------------------------------------------------------------

    def _bring_up(self, wanted: list[Prepared], timeout_s: float) -> None:
        self._watch(_Start(wanted, time.monotonic() + timeout_s))

    def _watch(self, start: _Start) -> None:
        """Start what is pending as its dependencies allow, until all is healthy. Raises RunnerError."""
        waited_for = {one.instance.name for one in start.pending} | set(start.running)
        with ThreadPoolExecutor(PROBES_AT_ONCE, thread_name_prefix="probe") as pool:
            while True:
                for one in start.running.values():
                    self._look_at(one, pool)
                for prepared in list(start.pending):
                    if self._may_start(prepared.instance, waited_for):
                        start.pending.remove(prepared)
                        start.running[prepared.instance.name] = self._launch(prepared)
                unready = [one for one in start.running.values() if not one.healthy]
                if not start.pending and not unready:
                    return
                if self._interrupted():
                    raise RunnerError("interrupted")
                if time.monotonic() > start.deadline:
                    raise RunnerError(_late(unready, start.pending))
                time.sleep(TURN_S)

    def _may_start(self, instance: Instance, waited_for: set[str]) -> bool:
        for other, condition in instance.service.depends_on.items():
            assert self._preparation is not None, "prepared before it was started"
            for name in self._preparation.book.instances[other]:
                if name not in waited_for:
                    continue  # left out, not to be had here, or (in a restart) already up
                found = self._running.get(name)
                if found is None or (condition != "service_started" and not found.healthy):
                    return False
        return True

    def _launch(self, prepared: Prepared) -> _Running:
        name, service = prepared.instance.name, prepared.instance.service
        log = self._folder.logs / f"{name}.log"
        log_start = log.stat().st_size if log.exists() else 0
        launch = prepared.launch
        try:
            identity, child = process.start(launch.argv, launch.environment, launch.directory, log)
        except OSError as error:
            raise RunnerError(f"{name} could not be started: {error}") from error
        asked = prepared.probe
        record = ProcessRecord(
            service=prepared.kind,
            name=name,
            node_id=launch.environment.get("NODE_ID", name),
            pid=identity.pid,
            start_ticks=identity.start_ticks,
            ports=dict(prepared.ports),
            log=str(log),
            level=prepared.instance.level,
            stop_signal=service.stop_signal,
            stop_grace_s=service.stop_grace_s,
            one_shot=service.one_shot,
            own=service.built is not None,
            probes=_http_probes(asked),
        )
        one = _Running(prepared, record, child, log_start, time.monotonic())
        one.healthy = asked is None and not service.one_shot
        self._running[name] = one
        self._save()
        self._report(f"{name}: started as process {identity.pid}")
        return one

    def _look_at(self, one: _Running, pool: ThreadPoolExecutor) -> None:
        """Notice an end, take the health check's answer, ask again when it is time. Raises RunnerError."""
        ended = one.child.poll()
        if ended is not None:
            if one.one_shot and ended == 0:
                one.healthy = True
                return
            how = f"was ended by signal {-ended}" if ended < 0 else f"ended with {ended}"
            raise RunnerError(f"{one.name} {how}{self._last_lines(one)}")
        if one.healthy or one.prepared.probe is None:
            return
        now = time.monotonic()
        if one.asked is not None and one.asked.done():
            complaint = one.asked.result()
            one.asked, one.asked_at = None, now
            if complaint is None:
                one.healthy = True
                self._report(f"{one.name}: healthy after {now - one.started:.1f} s")
                return
            one.complaint = complaint
        check = one.prepared.instance.service.healthcheck
        if check is not None and now - one.started > check.patience_s:
            raise RunnerError(f"{one.name} is not healthy: {one.complaint}{self._last_lines(one)}")
        if one.asked is None and now - one.asked_at >= PROBE_EVERY_S:
            one.asked = pool.submit(one.prepared.probe.ask)

    def _last_lines(self, one: _Running) -> str:
        text = process.tail(Path(one.record.log), TAIL_LINES, one.log_start)
        return f"; the end of {one.record.log}:\n{text}" if text else f"; it wrote nothing to {one.record.log}"

    def _save(self) -> None:
        not_run = list(self._preparation.not_run) if self._preparation else []
        records = [one.record for one in self._running.values()]
        self._folder.save(State(records, not_run, str(self._run_file)))

    def _describe(self) -> ClusterRun:
        assert self._preparation is not None, "the cluster was started"
        variables = self._preparation.variables
        in_file_order = (name for names in self._preparation.book.instances.values() for name in names)
        records = [self._running[name].record for name in in_file_order if name in self._running]

        def first(port: str, *services: str) -> str:
            for service in services:
                for record in records:
                    if record.service == service and port in record.ports:
                        return f"127.0.0.1:{record.ports[port]}"
            return ""

        def url(address: str) -> str:
            return f"http://{address}" if address else ""

        return ClusterRun(
            topology="cluster",
            started_at=self._started_at,
            processes=[_shown(record) for record in records if not record.one_shot],
            endpoints=Endpoints(
                postgres=first("5432", "haproxy", "gateway"),
                redis=first("6379", "haproxy", "gateway"),
                rest=url(first("8080", "haproxy", "gateway")),
                operations=url(first("9090", "storage", "gateway")),
            ),
            user=variables.get("ORBIT_USER", ""),
            database=variables.get("ORBIT_DATABASE", ""),
            password_file=str(self._folder.password) if variables.get("ORBIT_PASSWORD") else "",
            state_dir=str(self._folder.path),
            compose_files=[str(path.resolve()) for path in self._options.files],
            not_run=list(self._preparation.not_run),
        )


def _shown(record: ProcessRecord) -> ClusterProcess:
    return ClusterProcess(
        service=record.service,
        name=record.name,
        node_id=record.node_id,
        pid=record.pid,
        start_ticks=record.start_ticks,
        ports={PORT_NAMES.get(port, port) if record.own else port: number for port, number in record.ports.items()},
        log=record.log,
    )


def _http_probes(asked: Probe | None) -> list[HttpProbe]:
    if isinstance(asked, EveryProbe):
        return list(asked.probes)
    return [asked] if isinstance(asked, HttpProbe) else []


def _late(unready: list[_Running], pending: list[Prepared]) -> str:
    waiting = "; ".join(f"{one.name} is not healthy: {one.complaint}" for one in unready)
    never = ", ".join(one.instance.name for one in pending)
    return "the start took too long: " + waiting + (f"; not started yet: {never}" if never else "")


# --- without the object that started it ---------------------------------------------------------------------------


def running(folder: Folder) -> list[ProcessRecord]:
    """Return the processes that the state folder remembers, alive or not."""
    state = folder.load()
    return [] if state is None else state.processes


def end_processes(records: Sequence[ProcessRecord], report: Callable[[str], None], most_grace_s: float = 60.0) -> None:
    """End the processes, the highest level first and each level together. Raises StillRunning."""
    for level in sorted({record.level for record in records}, reverse=True):
        alive = [record for record in records if record.level == level and record.identity.alive()]
        process.stop(
            (one.identity, signal.Signals[one.stop_signal], min(one.stop_grace_s, most_grace_s)) for one in alive
        )
        for record in alive:
            report(f"{record.name}: stopped")


def forget(folder: Folder) -> None:
    """Remove the record of the processes, and the run file if it is this cluster's."""
    state = folder.load()
    if state is not None and state.run_file:
        run_file = Path(state.run_file)
        if run_file.exists() and json.loads(run_file.read_bytes()).get("state_dir") == str(folder.path):
            run_file.unlink()
    folder.forget()


@contextmanager
def exclusive(folder: Folder) -> Iterator[None]:
    """Let one runner at a time work on a state folder. Raises RunnerError while another does."""
    folder.create()
    lock = os.open(folder.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise RunnerError(f"another runner is at work in {folder.path}") from None
    try:
        yield
    finally:
        os.close(lock)


def _refuse_other_engine(run_file: Path, folder: Folder) -> None:
    """Raise RunnerError while the run file describes another engine that still runs."""
    if not run_file.exists():
        return
    described = json.loads(run_file.read_bytes())
    if described.get("state_dir") == str(folder.path):
        return
    for one in described.get("processes", ()):
        if process.Identity(one["pid"], one["start_ticks"]).alive():
            raise RunnerError(f"{run_file} says that another engine runs here (process {one['pid']}): stop it first")


def json_of(described: ClusterRun) -> bytes:
    """Return the run file's text."""
    return msgspec.json.format(msgspec.json.encode(described), indent=2) + b"\n"
