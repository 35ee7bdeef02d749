"""From Compose files to launches: everything that is settled before the first process starts.

Owns the variables' order of precedence, the assignment of ports over several runs, and the folders and rewritten files
of each instance. Starts nothing.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.runner import plan, probe, programs, rewrite
from deploy.runner.compose import Mount, load
from deploy.runner.interpolate import InterpolationError, read_env_file
from deploy.runner.plan import Instance, PortKey
from deploy.runner.state import Folder, NotRun

DEFAULT_FILE = Path(__file__).resolve().parents[1] / "compose" / "compose.yaml"
SECRET_NAMES = "secrets.env.example"
"""Beside the Compose file; the names in it are generated when nobody gives them."""
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
"""All that a process gets of the caller's environment; the rest is what its Compose service says."""
LARGEST_TEXT_BYTES = 1 << 20

Translation = Callable[[str], str]
_PUBLISHED_BY = re.compile(r"\$\{(?P<name>\w+):?-\d+\}:(?P<port>\d+)")


class RunnerError(Exception):
    """The cluster cannot be started, or did not start. The message says which service, and why."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller wants. `environ` stands for the shell."""

    environ: Mapping[str, str]
    files: Sequence[Path] = (DEFAULT_FILE,)
    scale: Mapping[str, int] | None = None
    only: Collection[str] = ()
    port_offset: int | None = None
    free_ports: bool = False
    """Also take free ports for what the file publishes."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One instance, ready to start."""

    instance: Instance
    kind: str
    launch: programs.Launch
    probe: probe.Probe | None
    ports: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Preparation:
    """All that `Cluster` needs to start."""

    prepared: Sequence[Prepared]
    not_run: Sequence[NotRun]
    book: rewrite.AddressBook
    variables: Mapping[str, str]


def prepare(options: Options, folder: Folder, rng: random.Random) -> Preparation:
    """Decide everything and write each instance's files.

    Raises RunnerError, ComposeError, InterpolationError, OSError.
    """
    folder.create()
    variables = _variables(options, folder)
    services = load(options.files, variables)
    defaults = {
        name: value
        for service in services.values()
        if isinstance(found := programs.program(service), programs.Absent)
        for name, value in found.settings.items()
        if name not in options.environ
    }
    variables |= defaults
    services = load(options.files, variables)
    everyone = plan.instances(services, options.scale or {}, ())
    wanted = plan.instances(services, options.scale or {}, options.only)
    book = rewrite.AddressBook(
        {name: [one.name for one in everyone if one.service.name == name] for name in services},
        _assign_ports(options, folder, everyone, rng),
    )
    prepared: list[Prepared] = []
    not_run: list[NotRun] = []
    base = {name: options.environ[name] for name in PASSED_ON if name in options.environ}
    missing: list[str] = []
    for instance in wanted:
        found = programs.program(instance.service)
        if isinstance(found, programs.Absent):
            settings = ", ".join(f"{name}={value}" for name, value in found.settings.items() if name in defaults)
            not_run.append(NotRun(instance.name, found.reason + (f"; {settings} for the others" if settings else "")))
            continue
        try:
            prepared.append(_prepared(instance, found, book, folder, base))
        except programs.MissingProgram as error:
            if found.kind in programs.OPTIONAL:
                not_run.append(NotRun(instance.name, str(error)))
            else:
                missing.append(f"{instance.name}: {error}")
    if missing:
        raise RunnerError("\n".join(missing))
    return Preparation(prepared, not_run, book, variables)


def _variables(options: Options, folder: Folder) -> dict[str, str]:
    """Return all variables: the shell wins over secrets.env, which wins over .env; secrets given nowhere are made."""
    directory = options.files[0].resolve().parent
    from_files: dict[str, str] = {}
    for name in (".env", "secrets.env"):
        path = directory / name
        if path.exists():
            try:
                from_files |= read_env_file(path.read_text(), options.environ)
            except InterpolationError as error:
                raise RunnerError(f"{path}: {error}") from error
    given = {**from_files, **options.environ}
    names = directory / SECRET_NAMES
    wanted = read_env_file(names.read_text(), {}) if names.exists() else {}
    kept = folder.ensure_secrets(wanted, given)
    generated = {name: value for name, value in kept.items() if not given.get(name)}
    return given | generated


def _assign_ports(
    options: Options, folder: Folder, everyone: Sequence[Instance], rng: random.Random
) -> dict[PortKey, int]:
    def extra(instance: Instance) -> Collection[str]:
        found = programs.program(instance.service)
        return found.extra_ports if isinstance(found, programs.Program) else ()

    published = {} if options.free_ports else plan.published_ports(everyone, options.port_offset or 0)
    kept = folder.load_ports()
    if kept is not None and kept.offset != options.port_offset:
        before = "without ORBIT_PORT_OFFSET" if kept.offset is None else f"with ORBIT_PORT_OFFSET={kept.offset}"
        raise RunnerError(
            f"the data in {folder.path} was made {before}, and etcd keeps its members' addresses in its data: "
            "start the same way, in another --state-dir, or anew after `down --volumes`"
        )
    assigned = dict(published)
    if options.port_offset is not None:
        fixed = plan.offset_ports(everyone, extra, options.port_offset)
        assigned = {**fixed, **published}
    else:
        remembered = {} if kept is None else kept.ports
        taken = {*published.values(), *remembered.values()}
        for instance in everyone:
            for key in plan.port_keys(instance, extra(instance)):
                if key not in assigned:
                    number = remembered.get(" ".join(key)) or plan.free_port(taken, rng)
                    taken.add(number)
                    assigned[key] = number
    # What no instance has this time (a gateway less) stays remembered.
    remembered_keys = {} if kept is None else {_key(text): number for text, number in kept.ports.items()}
    folder.save_ports(options.port_offset, {**remembered_keys, **assigned})
    return assigned


def _key(text: str) -> PortKey:
    instance, _, port = text.partition(" ")
    return instance, port


def check_ports(preparation: Preparation, options: Options) -> None:
    """Refuse to start while another program holds a port. Raises RunnerError, which names port and setting."""
    setting_of = {
        int(found["port"]): found["name"]
        for path in options.files
        for found in _PUBLISHED_BY.finditer(path.read_text())
    }
    for one in preparation.prepared:
        for port, number in one.ports.items():
            if plan.is_free(number):
                continue
            published = not options.free_ports and port.isdigit() and int(port) in one.instance.service.published
            if published:
                settings = [*filter(None, [setting_of.get(int(port))]), "ORBIT_PORT_OFFSET"]
                advice = f"{' or '.join(settings)} moves it"
            elif options.port_offset is not None:
                advice = "another ORBIT_PORT_OFFSET moves it"
            else:
                advice = (
                    "it was free when this cluster was made; end that program, or start anew after `down --volumes`"
                )
            raise RunnerError(f"port {number} ({one.instance.name}) is taken by another program: {advice}")


def _prepared(
    instance: Instance, found: programs.Program, book: rewrite.AddressBook, folder: Folder, base: Mapping[str, str]
) -> Prepared:
    service = instance.service
    own = folder.services / instance.name
    own.mkdir(mode=0o700, exist_ok=True)
    local = {mount.target: str(_place(mount, instance, folder)) for mount in service.mounts}

    def translated(text: str) -> str:
        return rewrite.paths(rewrite.addresses(text, instance.name, book), local)

    for mount in service.mounts:
        if mount.bind and mount.read_only:
            _copy(Path(mount.source), Path(local[mount.target]), found.kind, translated, book)
    environment = {name: translated(value) for name, value in service.environment.items()}
    if instance.name != service.name and "NODE_ID" in environment:
        environment["NODE_ID"] = instance.name  # instances of one service: each is a node of its own
    ports = {port: number for (name, port), number in book.ports.items() if name == instance.name}
    task = programs.Task(
        instance=instance.name,
        service=service,
        command=tuple(map(translated, service.command)),
        environment={**base, **environment},
        ports=ports,
        folder=own,
        local=local,
    )
    launch = found.launch(task)
    asked = launch.probe
    if asked is None and service.healthcheck is not None:
        test = tuple(map(translated, service.healthcheck.test))
        asked = probe.translated(service.healthcheck, test, launch.environment)
    return Prepared(instance, found.kind if service.built is None else service.built, launch, asked, ports)


def _place(mount: Mount, instance: Instance, folder: Folder) -> Path:
    """Return where a mounted container path is on this machine, made when it is a volume."""
    if mount.bind:
        # Configuration is copied, because it is rewritten; data that the host shares is used where it is.
        copied = folder.services / instance.name / "mounts" / mount.target.strip("/").replace("/", "-")
        return copied if mount.read_only else Path(mount.source)
    # A scaled service has one volume for all, as with Compose.
    volume = folder.volumes / mount.source
    volume.mkdir(mode=0o700, exist_ok=True)
    return volume


def _copy(source: Path, target: Path, kind: str, translated: Translation, book: rewrite.AddressBook) -> None:
    """Copy a mounted file or folder, its texts rewritten. Raises RunnerError when there is nothing to mount."""
    if not source.exists():
        raise RunnerError(f"{source} is to be mounted and does not exist")
    if target.exists():
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    files = [source] if source.is_file() else [path for path in sorted(source.rglob("*")) if path.is_file()]
    for path in files:
        copy = target if path == source else target / path.relative_to(source)
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = path.read_bytes()
        if len(content) <= LARGEST_TEXT_BYTES and b"\0" not in content:
            text = content.decode(errors="surrogateescape")
            if kind == "haproxy":
                text = rewrite.haproxy(text, book)
            elif kind == "prometheus" and path.name == "prometheus.yml":
                text = rewrite.prometheus(text, book)
            content = translated(text).encode(errors="surrogateescape")
        copy.touch(mode=0o600)
        copy.write_bytes(content)
