"""The command line from outside: words, exit codes, secrets, and how long it takes to say something."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def orbit(tmp_path: Path, *arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orbit.cli", *arguments],
        env={"PYTHONPATH": str(ROOT), "ORBIT_STATE_DIR": str(tmp_path / "state"), **environ},
        cwd=tmp_path,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_config_shows_values_origins_and_what_nothing_uses_with_secrets_masked(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[transaction]\nmax_concurrent = 6\n")
    done = orbit(tmp_path, "config", "--config", "config.toml", TRANSACTION_TIMEOUT_MS="5", ORBIT_PASSWORD="hunter2")
    assert done.returncode == 0, done.stderr
    lines = {line.split(" = ")[0]: line for line in done.stdout.splitlines() if " = " in line}
    assert "# environment TRANSACTION_TIMEOUT_MS" in lines["transaction.timeout_ms"]
    assert "= 6" in lines["transaction.max_concurrent"]
    assert f"# file {file}" in lines["transaction.max_concurrent"]
    assert str(tmp_path / "state" / "data") in lines["node.data_dir"]
    assert "********" in lines["bootstrap.password"]
    assert "hunter2" not in done.stdout
    _, _, unused = done.stdout.partition("nothing uses these yet")
    assert "query.simd_enabled" in unused
    assert "node.data_dir" not in unused


def test_config_as_json_names_every_setting(tmp_path: Path) -> None:
    shown = json.loads(
        orbit(tmp_path, "config", "--json", AWS_SECRET_ACCESS_KEY="hunter2", AWS_ACCESS_KEY_ID="k").stdout
    )
    assert shown["storage.s3.secret_key"]["value"] == "********"
    assert shown["storage.s3.secret_key"]["source"] == "environment"
    assert shown["query.simd_enabled"]["used_by"] is None
    assert shown["storage.tiers.hot_retention_hours"]["value"] == 48.0


def test_a_configuration_that_cannot_be_used_is_refused_by_every_command_that_needs_it(tmp_path: Path) -> None:
    for command in ("config", "up"):
        done = orbit(tmp_path, command, ORBIT_NONSENSE="1", METRICS_PORT="0")
        assert done.returncode == 2
        assert "ORBIT_NONSENSE: unknown environment variable" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "state").exists()


def test_commands_without_an_engine_say_so(tmp_path: Path) -> None:
    for command in (["status"], ["tiers"], ["sql", "SELECT 1"]):
        done = orbit(tmp_path, *command)
        assert done.returncode == 3
        assert "not running" in done.stderr
    done = orbit(tmp_path, "down")
    assert done.returncode == 0
    assert "not running" in done.stdout


def test_sql_refuses_nothing_and_too_much(tmp_path: Path) -> None:
    assert orbit(tmp_path, "sql", stdin="  \n").returncode == 2
    assert orbit(tmp_path, "sql", "SELECT 1", "--file", "x.sql").returncode == 2
    assert "x.sql cannot be read" in orbit(tmp_path, "sql", "--file", "x.sql").stderr


def test_help_lists_every_command(tmp_path: Path) -> None:
    shown = orbit(tmp_path, "--help").stdout
    for command in ("up", "down", "status", "config", "sql", "tiers"):
        assert f"  {command} " in shown


def test_the_command_loads_no_engine_code_to_start_one(tmp_path: Path) -> None:
    heavy = ("pyarrow", "duckdb", "nats", "grpc", "pyiceberg", "sqlglot", "numpy", "services", "rich.table")
    code = f"import sys, orbit.cli.app, orbit.cli.engine; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
