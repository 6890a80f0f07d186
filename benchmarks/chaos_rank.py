"""One rank of a soaked job: ``python chaos_rank.py STOPPED_S ATTACK run JOB``, ATTACK ``honest`` or of liar.py.

Frozen ranks are given up after STOPPED_S seconds instead of the package's 60, and ranks that cannot join the
others after JOIN_S instead of 300, so that a soak is about faults and not about waiting; nothing else is changed. How a rank lies is the tests' matter (``tests/attacks/liar.py``).
"""

from __future__ import annotations

import sys
from pathlib import Path

from enclaveml import cli, watchdog

JOIN_S = 60.0

if __name__ == "__main__":
    watchdog.STOPPED_S, watchdog.START_S = float(sys.argv[1]), JOIN_S
    name, _, argument = sys.argv[2].partition("=")
    if name != "honest":
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/attacks"))
        from liar import ATTACKS

        ATTACKS[name](argument)
    sys.exit(cli.main(sys.argv[3:]))
