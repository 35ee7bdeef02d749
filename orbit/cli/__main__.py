"""`python -m orbit.cli`: the `orbit` command."""

from __future__ import annotations

from orbit.cli.app import main

if __name__ == "__main__":
    main()
