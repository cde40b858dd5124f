"""Work for the workers of a cluster, each with a folder to leave marks in and the number of the item."""

import os
import time
from pathlib import Path

Item = tuple[str, int]


def slowly(item: Item) -> int:
    """Leaves a mark when it begins."""
    Path(item[0], str(item[1])).touch()
    time.sleep(0.5)
    return item[1]


def too_much_memory_once(item: Item) -> int:
    mark = Path(item[0], "full")
    if item[1] == 2 and not mark.exists():
        mark.touch()
        return too_much_memory(item)
    return item[1]


def too_much_memory(item: Item) -> int:
    hoard = []
    for _ in range(60):  # about 1 GiB, and far less when the worker is stopped
        hoard.append(os.urandom(2**24))
        time.sleep(0.02)
    time.sleep(5)
    return len(hoard)


def where(item: Item) -> str:
    return str(Path.cwd())
