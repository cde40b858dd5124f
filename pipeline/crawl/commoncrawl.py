"""Which files of a crawl to read: those of the config, and those chosen from CommonCrawl's lists.

CommonCrawl lists the files of a crawl in one small file. The choice is the first N by a seeded hash of their
paths, so that a larger N keeps the earlier ones in their places, and with them all that was made of them.
"""

from __future__ import annotations

import gzip
import io
import logging
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import xxhash

from pipeline.common.errors import StageError
from pipeline.common.files import atomic
from pipeline.common.shown import shown
from pipeline.crawl.manifest import LIST_BYTES, LIST_LINES, list_lines, manifest
from pipeline.crawl.options import CommonCrawl, Crawl, Texts
from pipeline.crawl.text_files import files_per_job, root, text_files
from pipeline.network.client import Client
from pipeline.network.transports import FetchError
from pipeline.network.urls import digest, is_url, url_problem
from pipeline.workflow.layout import Layout

SHOWN_CHARS = 200  # of a line that is no path
PATH = re.compile(r"[\w.=%+@-]+(?:/[\w.=%+@-]+)+", re.ASCII)
LIST_RETRIES = 3  # of a list: it is fetched before anything else, and someone waits for it
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


def left_out(crawl: Crawl) -> list[str]:
    """A message for each entry of `texts` with files in its folders that are not of a known kind."""
    others = [text_files(entry.files).left_out for entry in crawl.texts]
    return [
        f"crawl.texts[{number}]: {len(names)} files are of no known kind and not read, such as {names[0]}"
        for number, names in enumerate(others)
        if names
    ]


def per_job(crawl: Crawl, archives: list[list[str]], texts: list[list[str]]) -> list[int | None]:
    """How many files of each entry a job reads, first of the archives; None: as many as make few jobs."""
    whole = [entry.documents == "files" for entry in crawl.texts]
    of_texts = [
        files_per_job(files, crawl.warcs_per_job) if each else crawl.warcs_per_job
        for files, each in zip(texts, whole, strict=True)
    ]
    return [crawl.warcs_per_job] * len(archives) + of_texts


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


def listed(base_url: str, crawl: str, kind: str, cache: str, connections: int) -> list[str]:
    """The paths of a list of the crawl (warc, wet, cc-index-table), each once. It is fetched once and then kept:
    the list of a crawl does not change.

    Raises StageError where the list cannot be had or is none.
    """
    url = f"{base_url.rstrip('/')}/crawl-data/{crawl}/{kind}.paths.gz"
    kept = Path(cache, "lists", f"{digest(url)}.paths.gz")
    data = kept.read_bytes() if kept.is_file() else _client(cache, connections).read_whole(url, LIST_BYTES)
    try:
        with gzip.open(io.BytesIO(data)) as file:
            lines = [line for line in list_lines(file) if line]
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise StageError(f"{shown(url)}: not a list of paths: {error}; check base_url") from None
    wrong = next((line for line in lines if not PATH.fullmatch(line) or ".." in line), None)
    if wrong is not None or not lines:
        found = (wrong or "nothing")[:SHOWN_CHARS]
        raise StageError(f"{shown(url)}: not a list of paths: it holds {found!r}; check base_url")
    paths = list(dict.fromkeys(lines))
    if len(paths) < len(lines):
        logging.warning("%s: %d paths stand there more than once", shown(url), len(lines) - len(paths))
    if not kept.is_file():
        with atomic(kept) as part:
            part.write_bytes(data)
    return paths


def _client(cache: str, connections: int) -> Client:
    return Client(connections, Path(cache, "slots"), retries=LIST_RETRIES)


def _texts(entry: Texts, crawl: Crawl) -> list[str]:
    """The files of an entry of `texts`."""
    return [file for pattern in entry.files for file in _expanded(pattern, crawl)]


def _expanded(pattern: str, crawl: Crawl) -> Iterator[str]:
    """The files of a pattern; a glob on a hub or an object store is looked up once and then kept, with the hub's
    commit of that time."""
    if not pattern.startswith(("s3://", "hf://")) or not {"*", "?", "["}.intersection(pattern):
        yield from text_files([pattern]).files
        return
    kept = Path(crawl.cache, "lists", f"{digest(pattern)}.txt")
    if not kept.is_file():
        try:
            matching = _client(crawl.cache, crawl.connections).find(pattern)
        except FetchError as error:
            raise StageError(f"crawl.texts: {error}") from None
        if not matching:
            raise StageError(f"crawl.texts: {shown(pattern)}: no file matches; check its name, or name the files")
        if len(matching) > LIST_LINES:
            raise StageError(f"crawl.texts: {shown(pattern)}: {len(matching):,} files match; narrow it")
        # Names in a bucket may have line breaks, behind which a file of this machine would be named.
        if wrong := [name for name in matching if url_problem(name)]:
            raise StageError(f"crawl.texts: {shown(pattern)}: {wrong[0]!r:.200}: {url_problem(wrong[0])}")
        with atomic(kept) as part:
            part.write_text("\n".join(matching), encoding="utf-8")
    yield from kept.read_text("utf-8").split("\n")


def batch_files(out: Layout, batch: str, files: list[str], own: bool) -> str | list[str]:
    """What a batch is read from: its local files, or the folders of those that are fetched. `own`: they are not
    made here.

    Snakemake does not look at the dates of a user's own files, of which own_sizes() says whether they changed.
    """
    from snakemake.io import ancient

    if files[0].startswith(RECORDS):
        return [out.records(name.removeprefix(RECORDS)) for name in files]
    if is_url(files[0]):
        return out.fetched(batch)
    return [ancient(file) for file in files] if own else files


def own_sizes(files: list[str], own: bool) -> list[int]:
    """Sizes of a user's own files, in bytes; none where they are made or fetched here.

    They stand for the content: what was copied is another day's, and to read a crawl only to see that it is the
    same would take as long as to use it.
    """
    is_own = own and not is_url(files[0]) and not files[0].startswith(RECORDS)
    return [Path(file).stat().st_size for file in files] if is_own else []


def text_flags(entry: Texts) -> list[str]:
    """Where the text is in the files of an entry of `texts`, and its language, as words of a command line.

    >>> text_flags(Texts(files=[], text="body", url=""))
    ['--documents=files', '--text=body', '--url=']
    """
    known = {"documents": entry.documents, "text": entry.text, "url": entry.url, "language": entry.language}
    return [f"--{key}={value}" for key, value in known.items() if value is not None]


def text_folders(entry: Texts) -> list[str]:
    """The folders from which the local files of an entry of `texts` are named."""
    return list(dict.fromkeys(root(pattern) for pattern in entry.files if not is_url(pattern)))
