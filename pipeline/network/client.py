"""Bytes over the network: whole files, continued where a transfer broke off, and ranges of files.

Servers of crawls ask for few connections at once, over all processes of a machine, and for longer and longer
waits after each 429 and 503. HTTP goes through urllib3 (pooled, thread-safe, exact about lengths); s3:// and
hf:// go through fsspec. Retrying is done here, not by urllib3's Retry, which covers a request only until its body
begins: most failures of large files come later.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import urllib3

from pipeline.common.errors import one_line
from pipeline.network.transports import Answer, FetchError, Interrupted, find_fsspec, open_fsspec, open_http
from pipeline.network.urls import url_problem

T = TypeVar("T")

RETRIES = 8
FIRST_WAIT, LONGEST_WAIT = 1.0, 120.0  # seconds; they double, less a random half
RETRY_AFTER_MAX = 600.0
SLOW_SECONDS, SLOW_RATE = 60.0, 1000  # a body with fewer bytes a second after so long is given up
PROGRESS = 2**20  # after so many more bytes, a failure counts as the first one again
FILE_MAX = 2**40  # bytes; a longer file is an error of the server
SPARE_DISK = 2**27
# A server that ignores Range sends the whole file: at most so many bytes of it are read for one range.
WHOLE_MAX = 2**24


class Client:
    """At most `connections` transfers at once, over all processes that share the folder `slots`."""

    def __init__(
        self,
        connections: int,
        slots: str | Path | None = None,
        sleep: Callable[[float], None] = time.sleep,
        retries: int = RETRIES,
    ) -> None:
        self.connections, self.sleep, self.retries = connections, sleep, retries
        self.stopped = threading.Event()  # set it to break off all transfers
        self.slots = Path(slots) if slots else None
        if self.slots:
            self.slots.mkdir(parents=True, exist_ok=True)
        self.pool = urllib3.PoolManager(maxsize=connections, block=True, retries=False)

    # What callers use ------------------------------------------------------------------------------

    def find(self, pattern: str) -> list[str]:
        """URLs of the files on a hub or in an object store that match a glob, in order. Raises FetchError."""
        return self._persist(pattern, lambda: find_fsspec(pattern))

    def size(self, url: str) -> tuple[int, str]:
        """(length in bytes, validator) of a file of which ranges will be read. Raises FetchError."""

        def attempt() -> tuple[int, str]:
            with self._open(url, 0, 1, "") as answer:
                if answer.total is None:
                    raise FetchError(f"{url}: the server does not say how long it is")
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
                    raise FetchError(f"{url}: it changed while it was read; run again")
                if answer.total is not None and stop > answer.total:
                    raise FetchError(f"{url}: {stop} bytes expected, it has {answer.total}", 416)
                skip = start + kept - answer.start
                if skip and skip + stop - start > WHOLE_MAX:
                    raise FetchError(f"{url}: the server ignores Range; fetch whole files (crawl.commoncrawl)")
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
                        raise FetchError(f"{url}: longer than {most} bytes, which such a file never is")
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

        def attempt() -> dict[str, Any]:
            validator = known.read_text(encoding="utf-8") if known.exists() else ""
            have = path.stat().st_size if validator else 0
            with self._open(url, have, None, validator) as answer, path.open("rb+") as file:
                if answer.start != have or (have and answer.validator != validator):
                    known.unlink(missing_ok=True)
                    file.truncate(0)
                    if answer.start:
                        raise Interrupted("it changed while it was fetched; starting again")
                known.write_text(answer.validator, encoding="utf-8")
                file.truncate(answer.start)
                file.seek(answer.start)
                self._check_room(path, url, answer)
                with self._keep(lambda: file.tell() - answer.start):
                    for piece in answer.pieces:
                        file.write(piece)
                        if file.tell() > FILE_MAX:
                            raise FetchError(f"{url}: longer than {FILE_MAX} bytes")
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
            raise FetchError(f"{url}: {problem}")
        opened = open_http if url.lower().startswith("http") else open_fsspec
        with self._slot(), opened(self.pool, url, start, stop, validator) as answer:
            answer.pieces = self._watched(answer.pieces)
            yield answer

    def _watched(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        begin, count = time.monotonic(), 0
        for piece in pieces:
            count += len(piece)
            yield piece
            if self.stopped.is_set():
                raise FetchError("broken off")
            seconds = time.monotonic() - begin
            if seconds > SLOW_SECONDS and count < SLOW_RATE * seconds:
                raise Interrupted(f"only {count} bytes in {seconds:.0f} s")

    @contextlib.contextmanager
    def _keep(self, gained: Callable[[], int]) -> Iterator[None]:
        """Inside it, an error that breaks off a body becomes an Interrupted with the bytes gained so far."""
        try:
            yield
        except urllib3.exceptions.HTTPError as error:
            raise Interrupted(one_line(error), gained=gained()) from error
        except Interrupted as error:
            error.gained = gained()
            raise

    def _persist(self, url: str, attempt: Callable[[], T]) -> T:
        """Try until it succeeds, or has failed `retries` times without progress, with waits between the tries."""
        failures = 0
        while True:
            try:
                return attempt()
            except Interrupted as error:
                failures = 1 if error.gained >= PROGRESS else failures + 1
                if failures > self.retries:
                    cure = "check the network, or crawl.connections (fewer), and run again: it goes on from here"
                    raise FetchError(f"{url}: {error}, {failures} times; {cure}") from None
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
                with (self.slots / f"{number}.slot").open("w") as file:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    yield
                    return
            time.sleep(0.05)

    def _check_room(self, path: Path, url: str, answer: Answer) -> None:
        need = (answer.total or 0) - answer.start
        free = shutil.disk_usage(path.parent).free
        if need + SPARE_DISK > free:
            raise FetchError(
                f"{url}: {need:,} bytes to come, {free:,} free in {path.parent}; make room there, or lower "
                "crawl.cache_gb and crawl.warcs_per_job, and run again"
            )

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
