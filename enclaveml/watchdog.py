"""An end for a rank that is stuck, from outside of Python: a native call may hold the GIL for ever.

The kernel's interval timer kills the process by SIGALRM's default action, which needs no
GIL, and by a signal, which is what MPI's launcher takes for a death: a process that
ended by ``_exit(1)`` (what ``faulthandler`` does) was not noticed by ULFM's survivors,
who then waited for ever (tried, Open MPI 5.0.11). A traceback is written just before.
A process in an uninterruptible wait for a dead file system can be ended by nobody.
"""

from __future__ import annotations

import faulthandler
import signal

# The traceback is written this much earlier, in seconds.
_BEFORE_S = 0.5


def arm(seconds: float) -> None:
    """Die in that many seconds, unless armed again or disarmed by then. Main thread only."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    faulthandler.dump_traceback_later(max(seconds - _BEFORE_S, seconds / 2), exit=False)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def disarm() -> None:
    """Take the last ``arm`` back."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    faulthandler.cancel_dump_traceback_later()
