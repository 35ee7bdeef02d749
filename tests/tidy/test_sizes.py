"""A ratchet on size: modules up to 500 lines, functions up to 70.

What is larger stands in baseline.json with its size, which may shrink and never grow; when it has shrunk, the entry
must follow, and goes once the limit holds.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

from tests.tidy import sources

MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
BASELINE: dict[str, int] = json.loads(Path(__file__).with_name("baseline.json").read_text())


def functions(name: str) -> dict[str, int]:
    """Return the length in lines of every function of a module, by `module::Class.function`."""
    sizes: dict[str, int] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                path = f"{prefix}{child.name}"
                if not isinstance(child, ast.ClassDef) and child.end_lineno is not None:
                    sizes[f"{name}::{path}"] = child.end_lineno - child.lineno + 1
                visit(child, f"{path}.")
            else:
                visit(child, prefix)

    visit(sources.tree(name), "")
    return sizes


def too_large() -> dict[str, int]:
    found: dict[str, int] = {}
    for name in sources.modules():
        lines = sources.text(name).count("\n")
        if lines > MODULE_LINES_MAX:
            found[name] = lines
        found.update({key: size for key, size in functions(name).items() if size > FUNCTION_LINES_MAX})
    return found


def test_nothing_grows_past_the_limits_or_past_its_baseline() -> None:
    grown = {key: size for key, size in too_large().items() if size > BASELINE.get(key, 0)}
    assert not grown, (
        f"larger than {MODULE_LINES_MAX} lines a module or {FUNCTION_LINES_MAX} a function: split by idea: {grown}"
    )


def test_the_baseline_shrinks_with_the_code() -> None:
    present = too_large()
    stale = {key: present.get(key, "within the limit") for key, size in BASELINE.items() if present.get(key, 0) < size}
    assert not stale, f"lower these entries of tests/tidy/baseline.json, or remove them: {stale}"
