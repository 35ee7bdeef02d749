"""Logs: one JSON line an event, with its origin, and no secrets. Each case is a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def logged(body: str, *, log_format: str = "json", level: str = "info") -> str:
    program = f"""
import logging, structlog
from orbit.chassis.telemetry import configure_logging
configure_logging(service="storage", node="n1", level={level!r}, log_format={log_format!r})
log = structlog.get_logger("orbit.test")
{body}
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == ""
    return result.stderr


def lines(body: str, **options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in logged(body, **options).splitlines()]


def test_an_event_is_one_json_line_with_its_origin() -> None:
    [line] = lines("log.info('segment sealed', rows=65536, raw=b'x', other=object)")
    assert line["event"] == "segment sealed"
    assert (line["level"], line["service"], line["node"], line["rows"]) == ("info", "storage", "n1", 65536)
    assert line["timestamp"].endswith("Z")


def test_exceptions_stay_on_the_line_of_their_event() -> None:
    [line] = lines("try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('apply failed')")
    assert line["level"] == "error" and "ZeroDivisionError" in line["exception"]


def test_secrets_are_masked_by_name() -> None:
    text = logged("log.warning('x', password='hunter2', s3_secret_key='hunter2', Authorization='hunter2', user='u')")
    assert "hunter2" not in text
    assert json.loads(text)["user"] == "u"


def test_the_level_holds() -> None:
    assert [line["event"] for line in lines("log.info('a'); log.warning('b')", level="warning")] == ["b"]


def test_third_parties_log_in_the_same_form() -> None:
    [line] = lines("logging.getLogger('some.library').warning('slow %s', 'disk')")
    assert (line["event"], line["logger"], line["service"]) == ("slow disk", "some.library", "storage")


def test_a_pipe_gets_json_by_default_and_a_person_gets_text_on_request() -> None:
    assert json.loads(logged("log.info('a')", log_format="auto"))["event"] == "a"
    assert "segment sealed" in logged("log.info('segment sealed', rows=1)", log_format="console")


def test_a_librarys_warning_is_a_record() -> None:
    [line] = lines("import warnings; warnings.warn('old api', UserWarning)")
    assert line["level"] == "warning"
    assert "old api" in line["event"]
