"""Runs one program as a child that does not outlive its parent.

Run as a script, before anything else is imported: `python -I -S child.py PARENT_PID PROGRAM [ARGUMENT..]`. Asks the
kernel for SIGTERM when the parent's thread ends, then becomes the program. Owns nothing else: who starts it holds
the locks and the pipes. (A hook between fork and exec would do the same, but is not safe in a process with threads.)
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Become the program. Exits with 1 when the parent is already gone."""
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before the kernel knew of our wish
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
