"""``python -m enclaveml``: the same as the console script ``enclaveml``."""

from __future__ import annotations

import sys

from enclaveml.cli import main

if __name__ == "__main__":
    sys.exit(main())
