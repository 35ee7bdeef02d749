"""The `orbit` command: its sub-commands, their options, what they print and their exit codes.

Owns the words. What a command does is in the module that it imports when it is called: start-up time is part of
`make up`'s promise, so nothing heavy is imported here.

Exit codes: 0 done; 1 it failed; 2 wrong usage or configuration; 3 nothing is running.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from orbit.cli.run_file import Run, StateFolder

FAILED, MISUSED, NOT_RUNNING = 1, 2, 3

app = typer.Typer(
    name="orbit",
    help="Orbit Engine on this machine.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Configuration file (TOML); default: what ORBIT_CONFIG names.")
]


def main() -> None:
    """Run the command line. Known failures become one message and an exit code; anything else is a defect."""
    app(standalone_mode=True)


@app.command()
def up(config: ConfigFile = None) -> None:
    """Start a single-node engine, wait until it is healthy and say how to reach it."""
    from orbit.chassis.config import ConfigError
    from orbit.cli.engine import StartFailed
    from orbit.cli.engine import up as start
    from orbit.cli.run_file import RunFileBroken

    environ = _environment(config)
    folder = _state_folder(environ)
    generated: list[str] = []

    def keep(password: str) -> None:
        generated.append(password)
        typer.echo(f"first start: the password of the administrator is kept in {folder.password_file}")

    try:
        started = start(folder, environ, keep)
    except ConfigError as error:
        _stop(f"the configuration cannot be used:\n{_indented(error.problems)}", MISUSED)
    except (StartFailed, RunFileBroken) as error:
        _stop(str(error), FAILED)
    for note in started.notes:
        typer.echo(f"note: {note}")
    if started.already_running:
        typer.echo("Orbit Engine is already running.")
    else:
        typer.echo(f"Orbit Engine is up ({started.seconds:.1f} s).")
    typer.echo(_summary(started.run, generated[0] if generated else None))


@app.command()
def down() -> None:
    """Stop the engine."""
    from orbit.cli.engine import STOP_TIMEOUT_SECONDS, StartFailed
    from orbit.cli.engine import down as stop
    from orbit.cli.run_file import RunFileBroken

    try:
        stopped, killed = stop(_state_folder(_environment(None)))
    except (StartFailed, RunFileBroken) as error:
        _stop(str(error), FAILED)
    for one in stopped:
        typer.echo(f"stopped {one.service} ({one.node_id}, pid {one.pid})")
    for one in killed:
        typer.echo(
            f"killed {one.service} ({one.node_id}, pid {one.pid}): it did not stop in {STOP_TIMEOUT_SECONDS:g} s"
        )
    if killed:
        raise typer.Exit(FAILED)
    if not stopped:
        typer.echo("Orbit Engine is not running.")


@app.command()
def status() -> None:
    """Show each process and its health."""
    from orbit.cli import health

    run = _run()
    reports = health.reports(run)
    typer.echo(health.table(run, reports))
    if not all(report.alive for report in reports):
        raise typer.Exit(NOT_RUNNING if not any(report.alive for report in reports) else FAILED)
    if not all(report.healthy for report in reports):
        raise typer.Exit(FAILED)


@app.command("config")
def show_config(
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Print the effective configuration: each value, where it came from, and what nothing uses yet."""
    from orbit.chassis.config import ConfigError, load
    from orbit.cli import configuration

    environ = _environment(config)
    try:
        loaded = load(environ, defaults={"node.data_dir": _state_folder(environ).path / "data"})
    except ConfigError as error:
        _stop(f"the configuration cannot be used:\n{_indented(error.problems)}", MISUSED)
    typer.echo(configuration.as_json(loaded) if as_json else configuration.as_text(loaded))


@app.command()
def sql(
    statement: Annotated[str | None, typer.Argument(help="One SQL statement; default: standard input.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the statement from a file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the engine's JSON answer as it is.")] = False,
) -> None:
    """Run one SQL statement on the running engine and print the result."""
    import sys

    from orbit.cli import http, sql_client

    if statement is not None and file is not None:
        _stop("give the SQL as an argument or as a file, not both", MISUSED)
    if file is not None:
        try:
            statement = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            _stop(f"{file} cannot be read: {error}", MISUSED)
    text = statement if statement is not None else sys.stdin.read()
    if not text.strip():
        _stop("there is no SQL to run", MISUSED)
    try:
        answer = sql_client.run_sql(_run(), text)
    except (http.Unreachable, sql_client.SqlFailed) as error:
        _stop(str(error), FAILED)
    typer.echo(answer.raw if as_json else sql_client.table(answer))


@app.command()
def tiers(
    as_json: Annotated[bool, typer.Option("--json", help="Print the engine's JSON answer as it is.")] = False,
) -> None:
    """Show how many rows, bytes and files each table has in each tier."""
    from orbit.cli import http, tier_report

    try:
        report = tier_report.read(_run())
    except (http.Unreachable, tier_report.NotUnderstood) as error:
        _stop(str(error), FAILED)
    typer.echo(report.raw if as_json else tier_report.table(report))


def _environment(config: Path | None) -> dict[str, str]:
    from orbit.chassis.config import environment

    environ = environment()
    if config is not None:
        environ["ORBIT_CONFIG"] = str(config.absolute())
    return environ


def _state_folder(environ: dict[str, str]) -> StateFolder:
    from orbit.cli.run_file import StateFolder

    return StateFolder.of(environ)


def _run() -> Run:
    """Return what runs, or end the command."""
    from orbit.cli.run_file import RunFileBroken

    folder = _state_folder(_environment(None))
    try:
        run = folder.read()
    except RunFileBroken as error:
        _stop(str(error), FAILED)
    if run is None:
        _stop("Orbit Engine is not running; `make up` starts it", NOT_RUNNING)
    return run


def _summary(run: Run, password: str | None) -> str:
    host, _, port = run.endpoints.postgres.rpartition(":")
    redis_host, _, redis_port = run.endpoints.redis.rpartition(":")
    kept = run.password_file
    host, redis_host = host.strip("[]"), redis_host.strip("[]")
    lines = [
        "",
        *(f"  {one.service:<12} node {one.node_id}, pid {one.pid}, log {one.log}" for one in run.processes),
        "",
        f"  PostgreSQL   {run.endpoints.postgres}",
        f"  Redis        {run.endpoints.redis}",
        f"  REST         {run.endpoints.rest}          (OpenAPI: /openapi.json)",
        f"  operations   {run.endpoints.operations}          (/health, /metrics)",
        "",
        f"  user {run.user}, database {run.database}, password "
        + (f"{password} (shown this once; kept in {kept})" if password else f"in {kept}" if kept else "not known here"),
        "",
    ]
    if kept:
        lines += [
            "Connect:",
            f'  PGPASSWORD="$(cat {kept})" psql -h {host} -p {port} -U {run.user} {run.database}',
            f'  REDISCLI_AUTH="$(cat {kept})" redis-cli -h {redis_host} -p {redis_port} --user {run.user} PING',
            f'  curl -u "{run.user}:$(cat {kept})" {run.endpoints.rest}/health',
        ]
    lines += ["Look: make status    Stop: make down"]
    return "\n".join(lines)


def _indented(problems: list[str]) -> str:
    return "\n".join(f"  {problem}" for problem in problems)


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(f"orbit: {message}", err=True)
    raise typer.Exit(code)
