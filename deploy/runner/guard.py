"""`python -m deploy.runner.guard STATE_DIR`: end a cluster whose owner died.

Owns nothing but the wait: its standard input is a pipe from the owner, which ends when the owner does, however it does.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.runner.cluster import end_processes, exclusive, forget, running
from deploy.runner.state import Folder


def main() -> None:
    folder = Folder(Path(sys.argv[1]))
    sys.stdin.buffer.read()
    if running(folder):
        with exclusive(folder):
            end_processes(running(folder), lambda line: None)
            forget(folder)


if __name__ == "__main__":
    main()
