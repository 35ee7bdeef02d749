"""Generates the Python code of every contract under proto/ into its package, or checks that it is up to date.

    python proto/generate.py          # write orbit/api/v1/*_pb2.py, *_pb2.pyi and *_pb2_grpc.py
    python proto/generate.py --check  # write nothing; exit 1 and name each file that differs

A contract at proto/orbit/api/v1/x.proto becomes orbit/api/v1/x_pb2.py: folder path = import path, so that the
generated imports are right as they are.
"""

from __future__ import annotations

import importlib.resources
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROTO = ROOT / "proto"
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py")


def generate(target: Path) -> None:
    """Write the code of every contract under `target`. Raises SystemExit when a contract is wrong."""
    from grpc_tools import protoc

    contracts = sorted(PROTO.rglob("*.proto"))
    if not contracts:
        return
    arguments = [
        "protoc",
        f"-I{PROTO}",
        f"-I{importlib.resources.files('grpc_tools') / '_proto'}",
        f"--python_out={target}",
        f"--pyi_out={target}",
        *(str(contract) for contract in contracts),
    ]
    with_services = [str(contract) for contract in contracts if "\nservice " in contract.read_text()]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc refused the contracts")
    if with_services and protoc.main([*arguments[:3], f"--grpc_python_out={target}", *with_services]) != 0:
        raise SystemExit("protoc refused the services")


def generated_files(root: Path) -> dict[str, bytes]:
    """Return the generated files under `root`/orbit/api by relative path."""
    return {
        str(file.relative_to(root)): file.read_bytes()
        for pattern in GENERATED
        for file in (root / "orbit" / "api").rglob(pattern)
    }


def check() -> list[str]:
    """Return one line for each generated file that is missing, different or left over."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        wanted = generated_files(Path(folder))
    present = generated_files(ROOT)
    return [
        *(f"{name}: missing" for name in sorted(wanted.keys() - present.keys())),
        *(f"{name}: no contract generates it" for name in sorted(present.keys() - wanted.keys())),
        *(f"{name}: out of date" for name in sorted(wanted.keys() & present.keys()) if wanted[name] != present[name]),
    ]


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        problems = check()
        for problem in problems:
            print(problem, file=sys.stderr)
        if problems:
            print("run `make proto` and commit the result", file=sys.stderr)
        return 1 if problems else 0
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    for name in generated_files(ROOT):
        (ROOT / name).unlink()
    generate(ROOT)
    for name in sorted(generated_files(ROOT)):
        print(name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
