"""How many CPU cores this process may use: the one count behind every default number of workers."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores that this process may use; on macOS and Windows, which do not tell that, all cores of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
