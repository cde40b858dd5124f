"""A plan to fetch single records: which of a crawl are wanted, by CommonCrawl's columnar index, and their cost.

The index is Parquet sorted by host, with statistics: a filter on top-level domains or hosts skips row groups, and
of the others only the columns named here are read. With a limit, the crawl's files are put in a random order, and
the records of the first ones are taken: they are a random sample, since CommonCrawl spreads hosts over its files,
and they lie as near each other as possible. A larger limit keeps the earlier records. Source:
commoncrawl/cc-index-table, `src/main/resources/schema/cc-index-schema-flat.json`.
"""

from __future__ import annotations

import functools
import io
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import xxhash

from pipeline.common.errors import StageError, one_line
from pipeline.common.files import read_arrow, stamp, write_batches, write_json
from pipeline.common.shown import shown
from pipeline.crawl.commoncrawl import PATH, listed
from pipeline.crawl.manifest import manifest
from pipeline.crawl.memory import memory_limit
from pipeline.crawl.options import Index
from pipeline.network.client import Client
from pipeline.network.threads import map_in_threads
from pipeline.network.urls import is_url

FILTERED = ("fetch_status", "content_languages", "content_mime_detected", "url_host_tld", "url_host_name")
HOSTS = ("url_host_registered_domain",)
KEPT = ("warc_filename", "warc_record_offset", "warc_record_length", "content_digest", "url_host_name")
PLAN_SCHEMA = pa.schema(
    [
        ("part", pa.int32()),
        ("warc", pa.dictionary(pa.int32(), pa.string())),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("digest", pa.large_string()),  # more than 2 GiB of them in a whole crawl
    ]
)
GAPS = (0, 2**14, 2**17, 2**20)  # bytes; the plan gives the cost for each
SHOWN = 20
# Matching rows after which those beyond the limit are dropped.
TRIM_ROWS = 2**20
# What a sound index stays below by far: rows of a file of it, bytes of a record and of the file that holds it,
# characters of a digest, and bytes that Parquet's reader asks for at once.
ROWS_MAX, RECORD_MAX, FILE_MAX, DIGEST_CHARS, READ_MAX = 2**28, 2**27, 2**40, 64, 2**29


def plan_records(
    options: Index,
    output: str,
    report: str,
    cache: str,
    connections: int,
    latency: float,
    rate: float,
    memory_mb: int = 8000,
) -> None:
    """Write which records to fetch (Arrow) and what that costs (JSON); the predicted times go to the log.

    The parts are about equal in bytes and hold neighbouring records. `latency` is in seconds a request, `rate` in
    bytes a second of one connection. Raises StageError where the index lacks a column, has no such record, or
    takes more than `memory_mb` MB of memory.
    """
    try:
        with memory_limit(memory_mb * 10**6):
            _plan(options, output, report, cache, connections, latency, rate)
    except MemoryError:
        raise StageError(
            f"crawl.index: it takes more than {memory_mb:,} MB of memory; set crawl.index.limit, or, if the index "
            "is sound, raise --memory-mb (of the workflow: --set-resources index_plan:mem_mb=N)"
        ) from None


def _plan(
    options: Index, output: str, report: str, cache: str, connections: int, latency: float, rate: float
) -> None:
    client = Client(connections, Path(cache, "slots"))
    files = index_files(options, cache, connections)
    matches = map_in_threads(
        client, functools.partial(_matches, options, client), files, "read the index", "files"
    )
    records, problems = _sound(pa.concat_tables(matches).unify_dictionaries())
    del matches
    records = first_records(records, options.limit, options.seed)
    if not len(records):
        asked = f"languages {options.languages}, tlds {options.tlds}, hosts {options.hosts}, mimes {options.mimes}"
        raise StageError(f"no record of {len(files)} index files has {asked}; widen crawl.index")
    warcs, offsets, lengths, digests, hosts = (records[name] for name in KEPT)
    lengths = lengths.to_numpy()
    ends = np.cumsum(lengths)
    columns = [pa.array(parts(ends, options.files)), warcs, offsets, pa.array(lengths), digests]
    table = pa.table(columns, schema=stamp(PLAN_SCHEMA, "index-plan", options))
    write_batches(output, table.schema, table.to_batches(max_chunksize=2**16))
    costs = {gap: cost(table, gap, options.max_range) for gap in sorted({*GAPS, options.gap})}
    summary = {
        "records": len(table),
        "bytes": int(ends[-1]),
        "rows_left_out": problems,
        "warcs": len(set(_codes(warcs).tolist())),
        "gap": options.gap,
        "by_gap": costs,
        "by_host": _largest(hosts, lengths),
        "by_warc": _largest(warcs, lengths),
    }
    write_json(report, summary)
    for line in describe(summary, connections, latency, rate):
        logging.info("%s", line)


def parts(ends: np.ndarray, files: int) -> np.ndarray:
    """The part of each record, int32[records], where they end after so many bytes (int64[records], ascending).

    >>> parts(np.array([4, 8, 9]), 2).tolist()
    [0, 1, 1]
    """
    # Where parts 1, 2, … begin, in integers of any size.
    begins = [-(-number * int(ends[-1]) // files) for number in range(1, files)]
    return np.searchsorted(np.array(begins, np.int64), ends - 1, side="right").astype(np.int32)


def describe(summary: dict[str, Any], connections: int, latency: float, rate: float) -> Iterator[str]:
    """The summary of a plan in lines of text, with the time that each gap would take."""
    yield (
        f"{summary['records']:,} records, {summary['bytes'] / 1e6:,.1f} MB, of {summary['warcs']:,} WARCs"
        + "".join(f"; {count:,} rows left out: {why}" for why, count in summary["rows_left_out"].items())
    )
    for gap, cost_of in summary["by_gap"].items():
        seconds = (cost_of["requests"] * latency + cost_of["bytes"] / rate) / connections
        chosen = "  <- crawl.index.gap" if gap == summary["gap"] else ""
        yield (
            f"gap {gap:>9,}: {cost_of['requests']:>9,} requests, {cost_of['bytes'] / 1e6:>11,.1f} MB, "
            f"{seconds / 60:>8,.1f} min{chosen}"
        )
    yield f"(at {latency:g} s a request and {rate / 1e6:g} MB/s a connection, {connections} connections)"
    for host in summary["by_host"][:5]:
        yield f"{host['name']}: {host['records']:,} records, {host['bytes'] / 1e6:,.1f} MB"


def index_files(options: Index, cache: str, connections: int) -> list[str]:
    """Paths or URLs of the Parquet files of the index. Raises StageError where there are none."""
    if options.tables:
        entries, problems = manifest(options.tables)
        if problems:
            raise StageError(f"crawl.index.tables: {problems[0]}")
        return [path for entry in entries for path in entry]
    paths = listed(options.base_url, options.crawl, "cc-index-table", cache, connections)
    files = sorted(path for path in paths if "/subset=warc/" in path)
    if not files:
        raise StageError(f"the index of {options.crawl} lists no file of subset=warc")
    return [f"{options.base_url.rstrip('/')}/{path}" for path in files]


def _matches(options: Index, client: Client, path: str) -> pa.Table:
    """The wanted rows of one file of the index. Raises StageError that names a missing column."""
    source: Any = RemoteFile(client, path) if is_url(path) else pa.memory_map(path)
    try:
        with pa.PythonFile(source, mode="r") if is_url(path) else source as file:
            fragment = ds.ParquetFileFormat(pre_buffer=True).make_fragment(file)
            needed = {*KEPT, *FILTERED, *(HOSTS if options.hosts else ())}
            if missing := sorted(needed - set(fragment.physical_schema.names)):
                raise StageError(
                    f"{shown(path)}: no column {', '.join(missing)}; crawls before August 2018 have no languages: "
                    "take a later crawl"
                )
            if fragment.metadata.num_rows > ROWS_MAX:
                raise StageError(f"{shown(path)}: more than {ROWS_MAX:,} rows; make several files of it")
            parts, rows = [], 0
            for batch in fragment.scanner(
                columns=list(KEPT), filter=wanted(options), batch_readahead=2, fragment_readahead=1
            ).to_batches():
                parts.append(_compact(batch))
                rows += batch.num_rows
                if options.limit and rows > TRIM_ROWS + options.limit:
                    parts = [first_records(pa.concat_tables(parts), options.limit, options.seed)]
                    rows = len(parts[0])
            empty = pa.RecordBatch.from_pylist([], schema=fragment.physical_schema).select(list(KEPT))
            table = pa.concat_tables([_compact(empty), *parts])
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a name that is not UTF-8
        what = f"{shown(path)}: not a Parquet file of the index, or a damaged one"
        raise StageError(f"{what}: {one_line(error)}") from None
    return first_records(table, options.limit, options.seed)


def _compact(batch: pa.RecordBatch) -> pa.Table:
    """The rows in about 60 bytes each: names as codes of a dictionary."""
    table = pa.Table.from_batches([batch])
    columns = {}
    for column in ("warc_filename", "url_host_name"):
        names = pc.fill_null(table[column].cast(pa.string()), "").combine_chunks().dictionary_encode()
        columns[column] = pa.DictionaryArray.from_arrays(names.indices, _text(names.dictionary))
    for column in ("warc_record_offset", "warc_record_length"):
        columns[column] = table[column].cast(pa.int64())
    columns["content_digest"] = table["content_digest"].cast(pa.large_string())
    return pa.table({column: columns[column] for column in KEPT})


def _text(words: pa.Array) -> pa.Array:
    """The words, with U+FFFD for bytes that are no UTF-8, which Parquet does not look at."""
    try:
        words.validate(full=True)
    except pa.ArrowInvalid:
        return pa.array([word.decode("utf-8", "replace") for word in words.cast(pa.binary()).to_pylist()])
    return words


def _codes(names: Any) -> np.ndarray:
    """The codes of a column of one dictionary."""
    return np.concatenate([chunk.indices.to_numpy() for chunk in names.chunks] or [np.zeros(0, np.int32)])


def _words(names: Any) -> list[str]:
    return names.chunk(0).dictionary.to_pylist() if names.num_chunks else []


def wanted(options: Index) -> Any:
    """The filter for wanted rows, in comparisons that Parquet's statistics can answer where possible."""
    languages = pc.field("content_languages")
    # "fra" and "fra,eng": in ASCII ',' comes before all letters, and '-' is the character after ','.
    first = [(languages >= code) & (languages < code + "-") for code in options.languages]
    if options.match == "any":
        first = [pc.match_substring(languages, code) for code in options.languages]
    terms = [pc.field("fetch_status") == 200, functools.reduce(lambda a, b: a | b, first)]
    if options.mimes:
        terms.append(pc.field("content_mime_detected").isin(options.mimes))
    if options.tlds:
        terms.append(pc.field("url_host_tld").isin(options.tlds))
    if options.hosts:
        hosts, domains = pc.field("url_host_name"), pc.field("url_host_registered_domain")
        terms.append(hosts.isin(options.hosts) | domains.isin(options.hosts))
    return functools.reduce(lambda a, b: a & b, terms)


def _sound(table: pa.Table) -> tuple[pa.Table, dict[str, int]]:
    """The rows that can be fetched, each record once, and how many others there are, by reason."""
    codes = _codes(table["warc_filename"])
    plain = np.array(
        [bool(PATH.fullmatch(word)) and ".." not in word for word in _words(table["warc_filename"])], bool
    )
    offsets, lengths = (pc.fill_null(table[name], -1).to_numpy() for name in KEPT[1:3])
    there = (offsets >= 0) & (offsets < FILE_MAX) & (lengths > 0) & (plain[codes] if len(plain) else False)
    digests = table["content_digest"]
    is_digest = pc.and_(pc.string_is_ascii(digests), pc.less_equal(pc.binary_length(digests), DIGEST_CHARS))
    sound = there & (lengths <= RECORD_MAX) & pc.fill_null(is_digest, True).to_numpy()
    good = np.flatnonzero(sound)
    # Equal records side by side, the first row of them first.
    order = good[np.lexsort((good, offsets[good], codes[good]))]
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(codes[order]) != 0) | (np.diff(offsets[order]) != 0)
    problems = {
        "no such place in a WARC": len(table) - int(there.sum()),
        "too long a record, or no digest": int(there.sum()) - len(good),
        "named twice": len(good) - int(first.sum()),
    }
    return table.take(pa.array(order[first])), {why: count for why, count in problems.items() if count}


def first_records(table: pa.Table, limit: int, seed: int) -> pa.Table:
    """The first `limit` records (0: all) in the order of the seeded hashes of their files, and of offsets."""
    table = table.unify_dictionaries()
    codes, words = _codes(table["warc_filename"]), _words(table["warc_filename"])
    keys = np.array([xxhash.xxh3_64_intdigest(word.encode(), seed) for word in words], np.uint64)
    offsets = pc.fill_null(table["warc_record_offset"], -1).to_numpy()
    order = np.lexsort((offsets, codes, keys[codes]))
    return table.take(pa.array(order[:limit] if limit else order))


def coalesce(offsets: np.ndarray, lengths: np.ndarray, gap: int, max_range: int) -> list[tuple[int, int]]:
    """Which neighbouring records come in one request, as (first, last + 1) of their positions.

    Each record begins at most `gap` bytes behind the end of the one before it, and a request has at most
    `max_range` bytes. `offsets` (ascending) and `lengths` are int64[records], in bytes.

    >>> coalesce(np.array([0, 120, 900]), np.array([100, 50, 10]), gap=50, max_range=1000)
    [(0, 2), (2, 3)]
    """
    runs, first = [], 0
    ends = offsets + lengths
    for i in range(1, len(offsets)):
        if offsets[i] - ends[i - 1] > gap or ends[i] - offsets[first] > max_range:
            runs.append((first, i))
            first = i
    return [*runs, (first, len(offsets))] if len(offsets) else []


def by_warc(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """(name of a file of the crawl, its records) for each file in a plan, which is in the order of files."""
    codes = table["warc"].combine_chunks()
    numbers = codes.indices.to_numpy()
    cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    for start, stop in itertools.pairwise(cuts):
        if stop > start:
            yield codes.dictionary[int(numbers[start])].as_py(), table.slice(start, stop - start)


def cost(table: pa.Table, gap: int, max_range: int) -> dict[str, int]:
    """The number of requests that a plan needs with this gap, and the bytes they transfer."""
    requests = size = 0
    for _, records in by_warc(table):
        offsets, lengths = records["offset"].to_numpy(), records["length"].to_numpy()
        runs = coalesce(offsets, lengths, gap, max_range)
        requests += len(runs)
        size += sum(int(offsets[last - 1] + lengths[last - 1] - offsets[first]) for first, last in runs)
    return {"requests": requests, "bytes": size}


def _largest(names: Any, lengths: np.ndarray) -> list[dict[str, Any]]:
    """The SHOWN names with most bytes, with their records and bytes."""
    codes, words = _codes(names), _words(names)
    records, sizes = np.bincount(codes, minlength=len(words)), np.bincount(codes, lengths, len(words))
    order = sorted(range(len(words)), key=lambda code: (-sizes[code], words[code]))[:SHOWN]
    return [
        {"name": words[code], "records": int(records[code]), "bytes": int(sizes[code])}
        for code in order
        if records[code]
    ]


def read_plan(path: str, part: int) -> pa.Table:
    """The records of one part of a plan, PLAN_SCHEMA."""
    return (
        pa.Table.from_batches(read_arrow(path, PLAN_SCHEMA), PLAN_SCHEMA)
        .filter(pc.field("part") == part)
        .unify_dictionaries()
    )


class RemoteFile(io.RawIOBase):
    """A file on the network, for Parquet's reader, which reads parts of it through the client."""

    def __init__(self, client: Client, url: str) -> None:
        self.client, self.url, self.place = client, url, 0
        self.length, self.validator = client.size(url)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = 0) -> int:
        self.place = {0: 0, 1: self.place, 2: self.length}[whence] + offset
        return self.place

    def read(self, size: int | None = -1) -> bytes:
        stop = self.length if size is None or size < 0 else min(self.length, self.place + size)
        if stop <= self.place:
            return b""
        if self.place < 0 or stop - self.place > READ_MAX:
            raise OSError(f"it has {stop - self.place:,} bytes in one piece, from {self.place:,} on")
        data = self.client.read(self.url, self.place, stop, self.validator)
        self.place = stop
        return data
