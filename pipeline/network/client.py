"""Bytes over the network: whole files, continued where a transfer broke off, and ranges of files.

Servers of crawls ask for few connections at once, over all processes of a machine, and for longer and longer
waits after each 429 and 503. HTTP goes through urllib3 (pooled, thread-safe, exact about lengths); s3:// and
hf:// go through fsspec. Retrying is done here, not by urllib3's Retry, which covers a request only until its body
begins: most failures of large files come later.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pipeline.common.locks import hold
from pipeline.common.shown import shown, unrepeated
from pipeline.network.connections import make_pools
from pipeline.network.transports import Answer, FetchError, Interrupted, find_fsspec, open_fsspec, open_http
from pipeline.network.urls import url_problem

T = TypeVar("T")

RETRIES = 8
FIRST_WAIT, LONGEST_WAIT = 1.0, 120.0  # seconds; they double, less a random half
RETRY_AFTER_MAX = 600.0
NAP = 0.2  # seconds, after which a wait looks whether it is broken off
PROGRESS = 2**20  # after so many more bytes, a failure counts as the first one again
UNSTATED_MAX = 2**34  # bytes of a file whose length the server does not say
SPARE_DISK, ROOM_BYTES = 2**27, 2**26  # bytes left free on the disk, which is looked at after so many more
# A server that ignores Range sends the whole file: at most so many bytes of it are read for one range.
WHOLE_MAX = 2**24


class Client:
    """At most `connections` transfers at once, over all processes that share the folder `slots`."""

    def __init__(
        self,
        connections: int,
        slots: str | Path | None = None,
        sleep: Callable[[float], None] | None = None,
        retries: int = RETRIES,
    ) -> None:
        self.connections, self.sleep, self.retries = connections, sleep or self._nap, retries
        self.stopped = threading.Event()  # set it to break off all transfers
        self.slots = Path(slots) if slots else None
        if self.slots:
            self.slots.mkdir(parents=True, exist_ok=True)
        self.pools = make_pools(connections)

    # What callers use ------------------------------------------------------------------------------

    def find(self, pattern: str) -> list[str]:
        """URLs of the files on a hub or in an object store that match a glob, in order. Raises FetchError."""
        return self._persist(pattern, lambda: find_fsspec(pattern))

    def size(self, url: str) -> tuple[int, str]:
        """(length in bytes, validator) of a file of which ranges will be read. Raises FetchError."""

        def attempt() -> tuple[int, str]:
            with self._open(url, 0, 1, "") as answer:
                if answer.total is None:
                    raise FetchError(f"{shown(url)}: the server does not say how long it is")
                return answer.total, answer.validator

        return self._persist(url, attempt)

    def read(self, url: str, start: int, stop: int, validator: str = "") -> bytes:
        """Bytes `start` up to `stop` of a file; with a validator, of the version of the file that it stands for.

        Raises FetchError also where the file has changed, ends before `stop`, or can only be had whole and is
        long.
        """
        data = bytearray()

        def attempt() -> bytes:
            kept = len(data)
            with self._open(url, start + kept, stop, validator) as answer:
                if validator and answer.validator != validator:
                    raise FetchError(f"{shown(url)}: it changed while it was read; run again")
                if answer.total is not None and stop > answer.total:
                    raise FetchError(f"{shown(url)}: {stop} bytes expected, it has {answer.total}", 416)
                skip = start + kept - answer.start
                if skip and skip + stop - start > WHOLE_MAX:
                    cure = "fetch whole files (crawl.commoncrawl)"
                    raise FetchError(f"{shown(url)}: the server ignores Range; {cure}")
                with self._keep(lambda: len(data) - kept):
                    for piece in answer.pieces:
                        data.extend(piece[skip:])
                        skip = max(0, skip - len(piece))
                        if len(data) >= stop - start:
                            return bytes(data[: stop - start])
                raise Interrupted("the body ends early", gained=len(data) - kept)

        return self._persist(url, attempt)

    def read_whole(self, url: str, most: int) -> bytes:
        """The bytes of a small file. Raises FetchError also where it has more than `most` bytes."""

        def attempt() -> bytes:
            data = bytearray()
            with self._open(url, 0, None, "") as answer, self._keep(lambda: 0):
                for piece in answer.pieces:
                    data.extend(piece)
                    if len(data) > most:
                        raise FetchError(f"{shown(url)}: longer than {most} bytes, which such a file never is")
            if answer.total is not None and len(data) != answer.total:
                raise Interrupted("the body ends early")
            return bytes(data)

        return self._persist(url, attempt)

    def download(self, url: str, path: Path) -> dict[str, Any]:
        """Fetch a whole file to `path`, from where an earlier try, of this process or another, stopped.

        Returns its length and validator. `path` is written in place, and `path`.json holds the validator
        meanwhile: the caller moves the one and deletes the other. Raises FetchError, and OSError where the disk
        is full.
        """
        known = Path(f"{path}.json")
        path.touch()
        begun = 0  # answers from the first byte on: each of them may have thrown away what stood before

        def attempt() -> dict[str, Any]:
            nonlocal begun
            validator = known.read_text(encoding="utf-8") if known.exists() else ""
            have = path.stat().st_size if validator else 0
            with self._open(url, have, None, validator) as answer, open(path, "rb+", opener=_no_link) as file:
                same = answer.validator == validator and answer.total is not None  # or where would it end?
                if answer.start != have or (have and not same):
                    known.unlink(missing_ok=True)
                    file.truncate(0)
                    if answer.start:
                        raise Interrupted("it changed while it was fetched; starting again")
                begun += answer.start == 0
                if begun > self.retries + 1:
                    raise FetchError(
                        f"{shown(url)}: began again {self.retries} times, since it changes; run again"
                    )
                with open(known, "w", encoding="utf-8", opener=_no_link) as note:
                    note.write(answer.validator)
                file.truncate(answer.start)
                file.seek(answer.start)
                with self._keep(lambda: file.tell() - answer.start):
                    self._write(file, path, url, answer)
                length = file.tell()
                if answer.total is not None and length != answer.total:
                    raise Interrupted(f"{length} bytes came of {answer.total}", gained=length - answer.start)
            self._check_digest(path, known, answer)
            return {"bytes": length, "validator": answer.validator}

        return self._persist(url, attempt)

    # One attempt -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _open(self, url: str, start: int, stop: int | None, validator: str) -> Iterator[Answer]:
        """Raises FetchError or Interrupted."""
        if problem := url_problem(url):
            raise FetchError(f"{shown(url)}: {problem}")
        opened = open_http if url.lower().startswith("http") else open_fsspec
        with self._slot(), opened(self.pools, url, start, stop, validator) as answer:
            answer.pieces = self._until_stopped(answer.pieces)
            yield answer

    def _until_stopped(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            yield piece
            self._check_stopped()

    def _check_stopped(self) -> None:
        if self.stopped.is_set():
            raise FetchError("broken off")

    def _nap(self, seconds: float) -> None:
        """Sleep, unless all transfers are broken off meanwhile."""
        while seconds > 0 and not self.stopped.is_set():
            time.sleep(min(NAP, seconds))
            seconds -= NAP

    @contextlib.contextmanager
    def _keep(self, gained: Callable[[], int]) -> Iterator[None]:
        """Inside it, an Interrupted that breaks off a body gets the bytes gained so far."""
        try:
            yield
        except Interrupted as error:
            error.gained = gained()
            raise

    def _persist(self, url: str, attempt: Callable[[], T]) -> T:
        """Try until it succeeds, or has failed `retries` times without progress, with waits between the tries."""
        failures, begin = 0, f"{shown(url)}: "
        while True:
            self._check_stopped()
            try:
                return attempt()
            except FetchError as error:
                known = begin if str(error).startswith(begin) else ""
                raise FetchError(known + unrepeated(str(error)[len(known) :], url), error.status) from None
            except Interrupted as error:
                failures = 1 if error.gained >= PROGRESS else failures + 1
                if failures > self.retries:
                    cure = "check the network, or crawl.connections (fewer), and run again: it goes on from here"
                    raise FetchError(f"{begin}{unrepeated(str(error), url)}, {failures} times; {cure}") from None
                backoff = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (failures - 1)) * random.uniform(0.5, 1)
                self.sleep(max(backoff, min(error.wait, RETRY_AFTER_MAX)))

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        """Hold one of the connections of this machine; a process that ends, in whatever way, gives it back."""
        if self.slots is None:
            yield
            return
        while True:
            for number in range(self.connections):
                lock = hold(self.slots / f"{number}.slot", wait=False)
                if lock is None:
                    continue
                try:
                    yield
                    return
                finally:
                    os.close(lock)
            self._check_stopped()
            time.sleep(0.05)

    def _write(self, file: BinaryIO, path: Path, url: str, answer: Answer) -> None:
        """Write the body, as far as the file and the disk go; what has no length and goes on leaves no part."""
        place, looked = answer.start, None
        most = UNSTATED_MAX if answer.total is None else answer.total
        for piece in itertools.chain([b""], answer.pieces):
            place += len(piece)
            if place > most and answer.total is not None:
                raise Interrupted(f"more than its {most} bytes came")
            problem = f"longer than {most:,} bytes, and its length was not stated" if place > most else ""
            if looked is None or place - looked >= ROOM_BYTES:
                looked = place
                problem = problem or _lack_of_room(path.parent, 0 if answer.total is None else most - place)
            if problem:
                if answer.total is None:
                    file.truncate(0)
                raise FetchError(f"{shown(url)}: {problem}")
            file.write(piece)

    def _check_digest(self, path: Path, known: Path, answer: Answer) -> None:
        if answer.digest is None:
            return
        algorithm, expected = answer.digest
        with path.open("rb") as file:
            got = hashlib.file_digest(file, algorithm).digest()
        if got != expected:
            known.unlink(missing_ok=True)
            os.truncate(path, 0)
            raise Interrupted(f"its {algorithm} is {got.hex()}, the server says {expected.hex()}")


def _no_link(path: str, flags: int) -> int:
    """Open no symbolic link, which another user of the cache may have put there."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _lack_of_room(folder: Path, need: int) -> str:
    free = shutil.disk_usage(folder).free
    if need + SPARE_DISK <= free:
        return ""
    return (
        f"{need:,} bytes to come, {free:,} free in {folder}; make room there, or lower crawl.cache_gb and "
        "crawl.warcs_per_job, and run again"
    )
