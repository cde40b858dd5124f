"""A bound on what foreign files may take of the memory: a few bytes of some formats unpack to any number."""

from __future__ import annotations

import contextlib
import re
import resource
from collections.abc import Iterator
from pathlib import Path

STATUS = Path("/proc/self/status")


@contextlib.contextmanager
def memory_limit(size: int) -> Iterator[None]:
    """Inside it this process gets `size` bytes more than it has; what would take more raises MemoryError.

    Files that are mapped do not count. Where the system is not Linux, nothing is bounded.
    """
    if not STATUS.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    match = re.search(r"^VmData:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    most = (int(match[1]) * 1024 if match else 0) + size
    bounds = [bound for bound in (soft, hard, most) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
