"""Rules for every module: a docstring, a name that says what it is, one reader of the environment."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.tidy import sources

REFUSED_NAMES = {"common", "helper", "helpers", "misc", "util", "utils"}

READS_THE_ENVIRONMENT = {
    "orbit/chassis/config/loading.py": "the one reader of the engine's settings",
    "deploy/runner/": "interpolates the compose file as Docker does",
    "tests/": "starts processes with an environment of its own",
}


def test_every_module_says_what_it_owns() -> None:
    silent = [
        name
        for name in sources.modules()
        if sources.tree(name).body and ast.get_docstring(sources.tree(name)) is None and not is_empty(name)
    ]
    assert not silent, f"no docstring: {silent}"


def is_empty(name: str) -> bool:
    return not sources.text(name).strip()


def test_no_module_or_folder_is_named_for_nothing() -> None:
    vague = [name for name in sources.modules() if REFUSED_NAMES & {*Path(name).parts[:-1], Path(name).stem}]
    assert not vague, f"name them for what they own: {vague}"


def environment_reads(name: str) -> list[int]:
    lines: list[int] = []
    for node in ast.walk(sources.tree(name)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            if node.attr in ("environ", "environb", "getenv", "putenv"):
                lines.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            if {"environ", "environb", "getenv"} & {alias.name for alias in node.names}:
                lines.append(node.lineno)
    return lines


def test_only_configuration_reads_the_environment() -> None:
    found = [
        f"{name}:{line}"
        for name in sources.modules()
        if not name.startswith(tuple(READS_THE_ENVIRONMENT))
        for line in environment_reads(name)
    ]
    assert not found, f"take it as an argument from orbit.chassis.config: {found}"


def test_every_exception_to_the_rule_is_still_needed() -> None:
    for prefix in READS_THE_ENVIRONMENT:
        assert any(environment_reads(name) for name in sources.modules() if name.startswith(prefix)), prefix
