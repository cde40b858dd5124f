"""Work for workers, each item with a folder to leave marks in and the number of the item."""

import os
import signal
import time
from pathlib import Path

from pipeline.common.errors import StageError

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


def killed_once(item: Item) -> int:
    """The second item is killed, as for want of memory, when it is tried first."""
    mark = Path(item[0], "killed")
    if item[1] == 1 and not mark.exists():
        mark.touch()
        return killed(item)
    return item[1]


def killed(item: Item) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return item[1]


def wrong_or_for_ever(item: Item) -> int:
    if item[1] == 0:
        raise StageError(f"item {item[1]} is wrong")
    return for_ever(item)


def for_ever(item: Item) -> int:
    """Leaves its process id when it begins."""
    Path(item[0], str(os.getpid())).touch()
    time.sleep(600)
    return item[1]


def open_sockets(item: Item) -> list[str]:
    """The sockets that others could connect or send to, of this process, its parent and its parent's children."""
    Path(item[0], f"there-{item[1]}").touch()
    while len(list(Path(item[0]).glob("there-*"))) < 2:  # both workers
        time.sleep(0.01)
    parent = os.getppid()
    family = [str(parent), *Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    links = [str(fd.readlink()) for pid in family for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    ours = {link[len("socket:[") : -1] for link in links if link.startswith("socket:")}
    found = []
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if rest[5] in ours and (state == "0A" or name.startswith("udp")):  # TCP_LISTEN
                found.append(f"{name} {local}")
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        _, _, _, flags, _, _, inode, *path = line.split()
        if inode in ours and int(flags, 16) & 0x10000:  # __SO_ACCEPTCON
            found.append(f"unix {path}")
    return found
