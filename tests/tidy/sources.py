"""The files that tidy looks at: what git would commit, generated code apart."""

from __future__ import annotations

import ast
import functools
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED_SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")


@functools.cache
def files() -> tuple[str, ...]:
    """Return every file of the checkout that is or may be committed, by its path from the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return tuple(sorted(name for name in set(listed.split("\0")) if name and (ROOT / name).is_file()))


def modules(*folders: str) -> list[str]:
    """Return the hand-written Python modules, all of them or those under the folders."""
    return [
        name
        for name in files()
        if name.endswith(".py")
        and not name.endswith(GENERATED_SUFFIXES)
        and (not folders or name.startswith(tuple(f"{folder}/" for folder in folders)))
    ]


@functools.cache
def text(name: str) -> str:
    """Return a file's text; empty for a binary one."""
    try:
        return (ROOT / name).read_text()
    except UnicodeDecodeError:
        return ""


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(text(name), name)


def imported(name: str) -> set[str]:
    """Return the dotted names that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
    return found
