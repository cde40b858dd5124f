"""Which files of a crawl to read: those of the config, and those chosen from CommonCrawl's lists.

The choice is the first N by a seeded hash of their paths: a larger N keeps the earlier ones in their places, and
with them all that was made of them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import xxhash

from pipeline.common.errors import StageError
from pipeline.common.files import atomic
from pipeline.common.layout import Layout
from pipeline.crawl.lists import client, listed
from pipeline.crawl.manifest import manifest
from pipeline.crawl.options import CommonCrawl, Crawl, Texts
from pipeline.network.transports import FetchError
from pipeline.network.urls import is_url

RECORDS = "records:"  # what stands for a WARC file that `fetch-records` makes


def archives(crawl: Crawl) -> list[list[str]]:
    """Paths and URLs of the archives of each entry of the manifest; `records:0`, … for those of the index.

    Raises StageError where a list cannot be had.
    """
    entries = manifest(crawl.warcs)[0]
    if crawl.commoncrawl:
        entries.append(chosen(crawl.commoncrawl, crawl.cache, crawl.connections))
    if crawl.index:
        entries.append([f"{RECORDS}{part}" for part in range(crawl.index.files)])
    return entries


def texts(crawl: Crawl) -> list[list[str]]:
    """Paths and URLs of the files of each entry of `texts`."""
    return [_texts(entry, crawl) for entry in crawl.texts]


def chosen(options: CommonCrawl, cache: str, connections: int) -> list[str]:
    """URLs of the chosen files of the crawl, in their order. Raises StageError where it has too few."""
    paths = listed(options.base_url, options.crawl, options.kind, cache, connections)
    ordered = sorted(paths, key=lambda path: (xxhash.xxh3_64_intdigest(path.encode(), options.seed), path))
    count = len(paths) if options.files == "all" else int(options.files)
    if count > len(paths):
        raise StageError(
            f"crawl.commoncrawl.files: {count}, but {options.crawl} has {len(paths)}; give that or all"
        )
    return [f"{options.base_url.rstrip('/')}/{path}" for path in ordered[:count]]


def _texts(entry: Texts, crawl: Crawl) -> list[str]:
    return [file for pattern in entry.files for file in _expanded(pattern, crawl)]


def _expanded(pattern: str, crawl: Crawl) -> Iterator[str]:
    """The files of a pattern; a glob on a hub or an object store is looked up once and then kept, with the hub's
    commit of that time."""
    if not pattern.startswith(("s3://", "hf://")) or not {"*", "?", "["}.intersection(pattern):
        yield from manifest([pattern])[0][0]
        return
    kept = Path(crawl.cache, "lists", f"{xxhash.xxh3_64_hexdigest(pattern.encode())}.txt")
    if not kept.exists():
        try:
            found = client(crawl.cache, crawl.connections).find(pattern)
        except FetchError as error:
            raise StageError(f"crawl.texts: {error}") from None
        if not found:
            raise StageError(f"crawl.texts: {pattern}: no file matches; check its name, or name the files")
        with atomic(kept) as part:
            part.write_text("\n".join(found), encoding="utf-8")
    yield from kept.read_text("utf-8").split("\n")


def local_files(out: Layout, batch: str, files: list[str]) -> str | list[str]:
    """What a batch is read from: its local files, or the folders of those that are fetched."""
    if files[0].startswith(RECORDS):
        return [out.records(name.removeprefix(RECORDS)) for name in files]
    return out.fetched(batch) if is_url(files[0]) else files


def text_flags(entry: Texts) -> str:
    """Where the text is in the files of an entry of `texts`, and its language, as flags."""
    known = {"text": entry.text, "url": entry.url, "language": entry.language}
    return " ".join(f"--{key} {shlex.quote(value)}" for key, value in known.items() if value)
