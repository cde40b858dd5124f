"""Files and folders that one writer has at a time, whichever processes and machines the others are on.

A lock (flock) ends with its process, however that ends: what is there and not locked was left by a killed run. On
a file system without locks nothing is held, and two writers of one file disturb each other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

LOCK = ".lock"


def hold(path: str | Path, wait: bool = True) -> int | None:
    """A descriptor that has the lock of the file `path` until it is closed; the file is made where there is none.

    None where another has the lock and `wait` is false, or where the file was deleted while we waited. Raises
    OSError for a symbolic link, whose target is nobody's lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            os.close(descriptor)
            raise
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            return descriptor
    os.close(descriptor)
    return None


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Inside it is one writer at a time for the file `path`; the others wait."""
    while (lock := hold(path)) is None:
        pass
    try:
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def own_folder(path: str | Path) -> Iterator[Path]:
    """A folder `path`.part, empty but for its lock, deleted at the end; with a number, while others have it."""
    names = itertools.chain([f"{path}.part"], (f"{path}.{number}.part" for number in itertools.count(1)))
    folder, lock = next(found for name in names if (found := _take(Path(name))))
    for name in itertools.takewhile(os.path.lexists, names):  # left by writers that were killed together
        if found := _take(Path(name)):
            _delete(*found)
    try:
        yield folder
    finally:
        _delete(folder, lock)


def _delete(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def clear(path: str | Path) -> None:
    """Delete what a writer of `path` left that was killed behind its last byte; what one is writing stays."""
    folder = Path(f"{path}.part")
    if folder.is_dir() and (found := _take(folder)):
        shutil.rmtree(folder, ignore_errors=True)
        os.close(found[1])


def _take(folder: Path) -> tuple[Path, int] | None:
    """The folder, made or emptied, and its lock; None where another writer or another user has it."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if not _is_own(folder):
            return None
    try:
        lock = hold(folder / LOCK, wait=False)
    except FileNotFoundError:  # another writer has just deleted it
        return None
    if lock is None:
        return None
    for left in folder.iterdir():
        if left.name != LOCK:
            remove(left)
    return folder, lock


def remove(path: Path) -> None:
    """Delete a file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextlib.contextmanager
def resumed_folder(path: str | Path) -> Iterator[Path]:
    """A folder in `path`.part with what a run that ended early left there, deleted when the block ends well.

    Others that want it wait. Raises FileExistsError where something else lies at `path`.part.
    """
    outer = Path(f"{path}.part")
    lock = None
    while lock is None:
        outer.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # deleted by the one that had it
            if not _is_own(outer):
                raise FileExistsError(
                    errno.EEXIST, "not a folder of this user; remove it and run again", str(outer)
                )
            lock = hold(outer / LOCK)
    try:
        inner = outer / Path(path).name
        inner.mkdir(exist_ok=True)
        yield inner
        shutil.rmtree(outer, ignore_errors=True)
    finally:
        os.close(lock)


def _is_own(folder: Path) -> bool:
    """Whether it is a folder, and no symbolic link or another user's, who could change what is in it."""
    with contextlib.suppress(FileNotFoundError):
        entry = folder.lstat()
        return stat.S_ISDIR(entry.st_mode) and entry.st_uid == os.geteuid()
    return False
