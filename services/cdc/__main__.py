"""`python -m services.cdc`: one cdc process. Wiring only."""

import sys

from services.__main__ import main

if __name__ == "__main__":
    sys.exit(main(("cdc",)))
