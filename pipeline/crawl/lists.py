"""CommonCrawl's lists of the files of a crawl: one small file for each kind, fetched once."""

from __future__ import annotations

import gzip
import io
import logging
import re
import zlib
from pathlib import Path

import xxhash

from pipeline.common.errors import StageError
from pipeline.common.files import atomic
from pipeline.network.client import Client

LIST_BYTES, LIST_UNPACKED = 2**26, 2**28
PATH = re.compile(r"[\w.=%+@-]+(?:/[\w.=%+@-]+)+", re.ASCII)
RETRIES = 3  # of a list: it is fetched before anything else, and someone waits for it


def listed(base_url: str, crawl: str, kind: str, cache: str, connections: int) -> list[str]:
    """The paths of a list of the crawl (warc, wet, cc-index-table), each once. It is fetched once and then kept:
    the list of a crawl does not change.

    Raises StageError where the list cannot be had or is none.
    """
    url = f"{base_url.rstrip('/')}/crawl-data/{crawl}/{kind}.paths.gz"
    kept = Path(cache, "lists", f"{xxhash.xxh3_64_hexdigest(url.encode())}-{crawl}.{kind}.paths.gz")
    data = kept.read_bytes() if kept.exists() else client(cache, connections).read_whole(url, LIST_BYTES)
    try:
        with gzip.open(io.BytesIO(data)) as file:
            text = file.read(LIST_UNPACKED).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise StageError(f"{url}: not a list of paths: {error}; check base_url") from None
    lines = [line for line in text.split("\n") if line]
    wrong = next((line for line in lines if not PATH.fullmatch(line) or ".." in line), None)
    if wrong is not None or not lines:
        raise StageError(f"{url}: not a list of paths: it holds {wrong or 'nothing'!r}; check base_url")
    paths = list(dict.fromkeys(lines))
    if len(paths) < len(lines):
        logging.warning("%s: %d paths stand there more than once", url, len(lines) - len(paths))
    if not kept.exists():
        with atomic(kept) as part:
            part.write_bytes(data)
    return paths


def client(cache: str, connections: int) -> Client:
    return Client(connections, Path(cache, "slots"), retries=RETRIES)
