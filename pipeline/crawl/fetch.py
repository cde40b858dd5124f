"""Files from the network to a folder that `extract` and `text` read, one folder a batch.

A transfer that breaks off continues from where it was, in this run or the next; a fetched file is not fetched
again while it is in the cache. A file that does not exist (404) is left out and counted; any other file that
cannot be fetched ends the stage.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.common.files import link_or_copy, naming_full_disk
from pipeline.common.locks import delete, locked, resumed_folder
from pipeline.crawl.origins import finish_folder
from pipeline.network.client import Client
from pipeline.network.threads import map_in_threads
from pipeline.network.transports import FetchError
from pipeline.network.urls import SHORT, digest, file_name, source_name

GONE = (404, 410)
PART_DAYS = 7  # an unfinished transfer stays so long in the cache


def fetch_files(sources: list[str], output: str, cache: str, cache_gb: int, connections: int) -> None:
    """Fetch the URLs `sources` into the folder `output`, with a list of them; it appears when all are there.

    `cache` is a folder, of which `cache_gb` GB of files stay; `connections` are transfers at once. Raises
    FetchError (a StageError) where a file cannot be fetched, or where none of them exists.
    """
    client = Client(connections, Path(cache, "slots"))
    keep = Path(cache, "files") if cache_gb else None
    parts = Path(cache, "parts")
    for place in filter(None, (keep, parts)):
        place.mkdir(parents=True, exist_ok=True)
    with resumed_folder(output) as folder:
        names = {source: f"{digest(source)[:SHORT]}-{file_name(source)}" for source in sources}
        for stray in {path.name for path in folder.iterdir()} - set(names.values()):
            delete(folder / stray)  # a folder, where a run was killed while it copied from another disk

        def fetch(source: str) -> FetchError | None:
            # The cache has all of the hash and nothing else, so that what lies there is of this very URL.
            part, kept = parts / f"{digest(source)}.part", keep and keep / digest(source)
            try:
                _fetch_one(client, source, folder / names[source], part, kept)
            except FetchError as error:
                if error.status not in GONE:
                    raise
                return error
            return None

        missing = dict(zip(sources, map_in_threads(client, fetch, sources, "fetch", "files"), strict=True))
        if sources and all(missing.values()):
            raise next(error for error in missing.values() if error)
        finish_folder(
            folder,
            output,
            [{"file": names[url], "source": source_name(url)} for url, error in missing.items() if not error],
            [
                {"reason": reason_of(error), "source": source_name(url), "documents": 1, "bytes": 0}
                for url, error in missing.items()
                if error
            ],
        )
    if keep:
        trim(keep, parts, cache_gb * 10**9)


def reason_of(error: FetchError) -> str:
    """The reason in the ledger for what a server does not have.

    >>> reason_of(FetchError("https://a.example/x: it does not exist", 404))
    'fetch_http_404'
    """
    return f"fetch_http_{error.status}"


def _fetch_one(client: Client, source: str, target: Path, part: Path, kept: Path | None) -> None:
    """Put the file at `target`, from the cache or the network, and into the cache."""
    with naming_full_disk(target), locked(part):  # while another run fetches it: after that, it is in the cache
        if not target.exists() and not (kept and _take(kept, target)):
            client.download(source, part)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            if kept:
                link_or_copy(part, kept)
            link_or_copy(part, target)
        part.unlink(missing_ok=True)
        Path(f"{part}.json").unlink(missing_ok=True)


def _take(kept: Path, target: Path) -> bool:
    if not kept.is_file():
        return False
    try:
        os.utime(kept)
        link_or_copy(kept, target)
    except FileNotFoundError:
        return False
    return True


def trim(kept: Path, parts: Path, most: int) -> None:
    """Delete files in the folder `kept`, least recently used first, until it has at most `most` bytes.

    A file that a batch still holds (it has a second link) stays: to delete it here would free no space. Of
    `parts`, what is older than PART_DAYS goes.
    """
    old = time.time() - PART_DAYS * 86400
    for path, stat in _with_stat(parts):
        if stat.st_mtime < old:
            path.unlink(missing_ok=True)
    files = sorted(_with_stat(kept), key=lambda item: item[1].st_mtime)
    total = sum(stat.st_size for _, stat in files)
    for path, stat in files:
        if total > most and stat.st_nlink == 1:
            path.unlink(missing_ok=True)
            total -= stat.st_size


def _with_stat(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files of a folder, without those that another run deletes meanwhile."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield path, path.lstat()
