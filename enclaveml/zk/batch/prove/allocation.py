"""What the C library does with freed memory, for a process that proves."""

from __future__ import annotations

import ctypes

#: glibc's parameters of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -2, -3, -4, -8

#: A threshold of trimming that says: never (mallopt(3)).
_NEVER = -1

#: The largest threshold that glibc takes (DEFAULT_MMAP_THRESHOLD_MAX on 64 bits).
_LARGEST = 32 << 20


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next array; does nothing where there is no mallopt.

    JAX allocates each result anew. By default those of some 100 KB come from the kernel each time, which has to clear them page by page:
    that was a third of the time of adding two arrays. And glibc never keeps those beyond 32 MB
    unless no memory may come by mmap at all: clearing them was a fifth of the time of a proof of wide layers, and its peak is no higher.
    Nor is what is free at the end of its memory given back, however much it is: above 2 GB, the most that another threshold can say, a
    proof of a convolutional network spent a third of its CPU time on that. For the whole process, which keeps what its largest proof
    took, hence for one that proves alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, 2 * _LARGEST), (_ARENA_MAX, 1),
                             (_MMAP_MAX, 0)):
        mallopt(parameter, value)
