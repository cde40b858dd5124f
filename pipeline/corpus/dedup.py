"""Exact paragraph deduplication over the whole crawl: of equal paragraphs the first one stays.

Three steps, each a file: `hash` writes the different 64-bit hashes of a page file, sorted, each with the place
where it comes first; `reduce` joins each bucket (a range of hashes) over all page files and says of every
paragraph whether it is the first with its hash, two bits a paragraph and one file a page file; `apply` writes
the documents without the others. First means first in manifest order, whatever the workers and buckets.
Source: paper, section 4.1.

A paragraph is a line of a page that is not empty; empty lines part blocks, such as an article and a menu. Two
options of `apply` spare running text, which repeats short lines: a least length, below which a paragraph is no
duplicate (as in Dolma), and a share of new text, above which a block stays whole (as in Dactory).

`reduce` also leaves an index, the sorted hashes of the crawl. A later crawl names it in `against` and drops
what is in it, as if the earlier crawl came before it in one manifest.

Two different paragraphs with one hash would be taken for equal. Among n different paragraphs n^2 / 2^65 such
pairs are expected: 0.0003 at 10^8, 0.03 at 10^9, 2.7 at 10^10. Each costs one paragraph.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipeline.common.arrow import map_table, read_metadata
from pipeline.common.decisions import DROPPED, KEPT, UNITS
from pipeline.common.engine import map_items
from pipeline.common.errors import StageError
from pipeline.common.files import read_arrow, stamp, write_batches
from pipeline.common.ledger import SAMPLES_PER_REASON, Ledger
from pipeline.common.locks import own_folder
from pipeline.common.progress import counted
from pipeline.common.schemas import DOCUMENT_SCHEMA, PAGE_SCHEMA, some_columns
from pipeline.corpus.folding import fold
from pipeline.corpus.options import Dedup
from pipeline.corpus.paragraphs import Paragraphs, find_paragraphs, join_kept

log = logging.getLogger(__name__)

INDEX_SCHEMA = pa.schema([("hash", pa.uint64())])
HASH_SCHEMA = INDEX_SCHEMA.append(pa.field("place", pa.uint64()))
VERDICT_SCHEMA = pa.schema([("duplicate_paragraph", pa.bool_()), ("seen_in_earlier_crawl", pa.bool_())])

# The verdict on a hash of a page file: the first in the crawl; the first, but in an earlier crawl; a later one.
FIRST, EARLIER, LATER = range(3)
# About 50 bytes each while a bucket is reduced: 0.2 GB for each worker, however large the crawl.
HASHES_PER_BUCKET = 2**22
# Characters normalised at a time: few enough for the processor's cache, enough that the cost of a call is small.
CHARS_PER_CHUNK = 30_000


# Hash ---------------------------------------------------------------------------------------------


def hash_paragraphs(options: Dedup, pages: str, output: str) -> None:
    """Write the different hashes of a file of pages, ascending, each with the place of its first paragraph.

    Places are counted through the paragraphs of the whole file, from 0.
    """
    keys = _plain_keys(pages) if options.normalize == "none" else _folded_keys(pages)
    hashes = np.fromiter(
        itertools.chain.from_iterable(map(xxhash.xxh3_64_intdigest, some) for some in keys), np.uint64
    )
    unique, places = np.unique(hashes, return_index=True)
    batch = pa.record_batch([unique, places.astype(np.uint64)], schema=HASH_SCHEMA)
    schema = stamp(HASH_SCHEMA, "dedup-hash", {"normalize": options.normalize})
    schema = schema.with_metadata(schema.metadata | {b"paragraphs": str(len(hashes)).encode()})
    write_batches(output, schema, [batch], compression=None)


def paragraph_hashes(options: Dedup, text: str) -> np.ndarray:
    """The hashes of the paragraphs of a text: uint64[paragraphs]."""
    keys = filter(None, text.encode().split(b"\n")) if options.normalize == "none" else fold(text)
    return np.fromiter(map(xxhash.xxh3_64_intdigest, keys), np.uint64)


def _plain_keys(pages: str) -> Iterator[Iterator[bytes]]:
    for batch in counted(read_arrow(pages, some_columns("text")), "hash", "pages"):
        for text in batch.column("text").cast(pa.binary()).to_pylist():
            yield filter(None, text.split(b"\n"))


def _folded_keys(pages: str) -> Iterator[list[bytes]]:
    for batch in counted(read_arrow(pages, some_columns("text")), "hash", "pages"):
        pending: list[str] = []
        chars = 0
        for text in batch.column("text").to_pylist():
            pending.append(text)
            chars += len(text)
            if chars >= CHARS_PER_CHUNK:
                yield fold("\n".join(pending))
                pending, chars = [], 0
        yield fold("\n".join(pending))


# Reduce -------------------------------------------------------------------------------------------


def reduce_hashes(
    options: Dedup, hashes: list[str], output: str, index: str, workers: int, scheduler: str | None
) -> None:
    """Write for each hash file its verdicts, in a file of the same name in the folder `output`; and the index.

    Raises StageError where hashes were made with another normalisation than that of `options`.
    """
    for path in (*hashes, *options.against):
        _check_keys(options, path)
    bounds = _bucket_bounds([*hashes, *options.against])
    with own_folder(f"{index}.buckets") as parts:
        buckets = [
            Bucket(low, high, parts / f"{number:05d}.verdicts.npy", parts / f"{number:05d}.unique.npy")
            for number, (low, high) in enumerate(itertools.pairwise(bounds))
        ]
        reduce_one = functools.partial(_reduce_bucket, hashes, options.against)
        ends = map_items(reduce_one, buckets, workers, scheduler, "reduce", "buckets")
        verdicts = [np.load(bucket.verdicts, mmap_mode="r") for bucket in buckets]
        log.info("writing the verdicts of %d files", len(hashes))
        for position, path in enumerate(hashes):
            # The buckets of a hash file, one after the other, are the file.
            own = [v[end[position] : end[position + 1]] for v, end in zip(verdicts, ends, strict=True)]
            # Mapped one at a time, so that memory does not grow with the crawl.
            _write_verdicts(str(Path(output, Path(path).name)), map_table(path, HASH_SCHEMA), np.concatenate(own))
        schema = stamp(INDEX_SCHEMA, "dedup-reduce", {"normalize": options.normalize})
        unique = (pa.record_batch([np.load(bucket.unique)], schema=INDEX_SCHEMA) for bucket in buckets)
        write_batches(index, schema, unique, compression=None)


def _bucket_bounds(paths: list[str]) -> list[int]:
    """Where the ranges of hashes begin, from 0, and 2**64, where the last ends: Python integers.

    Hashes are spread evenly, so that ranges of equal width hold about HASHES_PER_BUCKET each. Where paragraphs
    were made up to fall into one range, it is cut in two until none holds more than twice as many.
    """
    files = [chunk.to_numpy() for path in paths for chunk in map_table(path, INDEX_SCHEMA).column("hash").chunks]

    def count(low: int, high: int) -> int:
        first, last = np.uint64(low), np.uint64(high - 1)
        return sum(int(np.searchsorted(f, last, "right") - np.searchsorted(f, first)) for f in files)

    ranges = -(-sum(map(len, files)) // HASHES_PER_BUCKET) or 1
    bounds = [(number << 64) // ranges for number in range(ranges + 1)]
    place = 0
    while place + 1 < len(bounds):
        low, high = bounds[place : place + 2]
        if high - low > 1 and count(low, high) > 2 * HASHES_PER_BUCKET:
            bounds.insert(place + 1, (low + high) // 2)
        else:
            place += 1
    return bounds


@dataclass(frozen=True)
class Bucket:
    """The hashes from `low` up to `high` (without it), and the files for the results of `_reduce_bucket`."""

    low: int
    high: int
    verdicts: Path  # uint8[hashes of all files, in their order]: FIRST, EARLIER or LATER
    unique: Path  # uint64[different hashes], ascending


def _reduce_bucket(paths: list[str], against: list[str], bucket: Bucket) -> np.ndarray:
    """Write the two files of a bucket of the hash files `paths`.

    Returns int64[files + 1]: where the verdicts of each hash file begin, and where the last one's end.
    """
    parts = [_slice(path, bucket.low, bucket.high) for path in paths]
    hashes = np.concatenate(parts)
    ends = np.cumsum([0, *map(len, parts)])
    # Timsort merges the sorted runs; it is stable, so that of equal hashes the earliest comes first.
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    new = np.ones(len(ordered), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    unique = ordered[new]
    seen = np.zeros(len(unique), bool)
    for path in against:
        seen |= _contains(_slice(path, bucket.low, bucket.high), unique)
    verdicts = np.full(len(hashes), LATER, np.uint8)
    verdicts[order[new]] = np.where(seen, EARLIER, FIRST)
    np.save(bucket.verdicts, verdicts)
    np.save(bucket.unique, unique)
    return ends


def _contains(ordered: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """For each of `hashes` whether it is in `ordered`, which ascends."""
    if not len(ordered):
        return np.zeros(len(hashes), bool)
    places = np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)
    return np.asarray(ordered[places] == hashes)


def _slice(path: str, low: int, high: int) -> np.ndarray:
    """The hashes of a sorted file in [low, high)."""
    slices = [np.empty(0, np.uint64)]
    for chunk in map_table(path, INDEX_SCHEMA).column("hash").chunks:
        hashes = chunk.to_numpy()
        first = np.searchsorted(hashes, np.uint64(low))
        last = np.searchsorted(hashes, np.uint64(high - 1), side="right")
        slices.append(hashes[first:last])
    return np.concatenate(slices)


def _check_keys(options: Dedup, path: str) -> None:
    """Raises StageError unless the hashes were made with the normalisation of `options`."""
    try:
        made = read_metadata(path, "pipeline")["options"]["normalize"]
    except (StageError, KeyError, TypeError):
        raise StageError(
            f"{path}: not a file of hashes; dedup.against names the hashes/index.arrow of earlier crawls"
        ) from None
    if made != options.normalize:
        raise StageError(
            f"{path}: its paragraphs were hashed with normalize {made}, here it is {options.normalize}, so that "
            f"none would match; set dedup.normalize to {made}, or make that crawl's hashes again with "
            f"{options.normalize} (dedup-hash, then dedup-reduce)"
        )


def _write_verdicts(path: str, table: pa.Table, verdicts: np.ndarray) -> None:
    """Write a row for each paragraph of a hash file, from the verdicts on its different hashes."""
    by_paragraph = np.full(int(table.schema.metadata[b"paragraphs"]), LATER, np.uint8)
    by_paragraph[table.column("place").to_numpy()] = verdicts
    batch = pa.record_batch([by_paragraph == LATER, by_paragraph == EARLIER], schema=VERDICT_SCHEMA)
    write_batches(path, VERDICT_SCHEMA, [batch])


# Apply --------------------------------------------------------------------------------------------


def apply_duplicates(
    options: Dedup, pages: str, duplicates: str, output: str, ledger: str, decisions: str | None = None
) -> None:
    """Write the documents: the pages of a file without the paragraphs that the verdicts in `duplicates` drop.

    Raises StageError unless there is a verdict for each paragraph of the file.
    """
    book = Ledger("dedup", options)
    verdicts = pa.Table.from_batches(read_arrow(duplicates, VERDICT_SCHEMA), VERDICT_SCHEMA)
    batches = _documents(options, pages, verdicts, duplicates, book)
    write_batches(output, stamp(DOCUMENT_SCHEMA, "dedup", options), batches)
    book.write(ledger, decisions)


def _documents(
    options: Dedup, pages: str, verdicts: pa.Table, duplicates: str, ledger: Ledger
) -> Iterator[pa.RecordBatch]:
    place = 0
    for batch in counted(read_arrow(pages, PAGE_SCHEMA), "dedup", "pages"):
        found = find_paragraphs(batch.column("text"))
        count = len(found.page)
        seen = {name: verdicts.column(name)[place : place + count].to_numpy() for name in VERDICT_SCHEMA.names}
        place += count
        if place <= len(verdicts):
            yield _without(batch, found, reasons_to_drop(options, found, seen), options.min_chars, ledger)
    if place != len(verdicts):
        raise StageError(
            f"{duplicates}: is about {len(verdicts)} paragraphs, but {pages} has {place}; it was made from "
            "another file: run dedup-hash and dedup-reduce again"
        )


def reasons_to_drop(options: Dedup, found: Paragraphs, seen: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """bool[paragraphs] for each reason to drop them, from the verdicts `seen` and the rules of the options."""
    if options.min_paragraph_chars:
        chars = pc.utf8_length(found.lines).to_numpy()[found.line]
        seen = {reason: which & (chars >= options.min_paragraph_chars) for reason, which in seen.items()}
    if options.block_new_share is None:
        return seen
    new = ~np.logical_or.reduce(list(seen.values()))
    size, new_size = (np.add.reduceat(sizes, found.of_block) for sizes in (found.size, found.size * new))
    goes = new_size / size <= options.block_new_share  # 0.29 * 100 would be less than 29
    return {reason: which & goes[found.block] for reason, which in {**seen, "little_new_in_block": new}.items()}


def _without(
    pages: pa.RecordBatch, found: Paragraphs, drops: dict[str, np.ndarray], min_chars: int, ledger: Ledger
) -> pa.RecordBatch:
    """The documents of some pages: their paragraphs without those of `drops`, bool[paragraphs] for each reason.

    Pages with fewer than `min_chars` characters left are left out. The ledger gets a row for each page, with what
    is left of it or what decided that nothing is, and one for its other paragraphs of each reason.
    """
    keep = ~np.logical_or.reduce(list(drops.values()))
    # A page or block with nothing left is dropped for the reason of its first paragraph.
    whole_pages, whole_blocks = (
        first[~np.logical_or.reduceat(keep, first)] for first in (found.of_page, found.of_block)
    )
    size = int(found.size.sum()) + len(found.of_block) - 2 * len(found.of_page)
    ledger.enter(documents=len(pages), paragraphs=len(keep), bytes=size)
    rows = []
    for verdict, (reason, dropped) in enumerate(drops.items()):
        if dropped.any():
            paragraphs, blocks, documents, sizes = (
                np.bincount(found.page[which], weights, len(pages)).astype(int)
                for which, weights in (
                    (dropped, None),
                    (whole_blocks[dropped[whole_blocks]], None),
                    (whole_pages[dropped[whole_pages]], None),
                    (dropped, found.size[dropped]),
                )
            )
            # A newline is behind each paragraph and one more behind each block, but none at the end of a text.
            counts = np.stack([documents, paragraphs, sizes + blocks - 2 * documents])
            rows.append((verdict, np.flatnonzero(paragraphs), counts[:, paragraphs > 0]))
            _sample(pages, found, reason, dropped, ledger)
    columns: dict[str, Any] = {name: pages.column(name) for name in PAGE_SCHEMA.names}
    columns["text"], columns["paragraphs"] = join_kept(found, keep)
    has_text = np.ones(len(pages), bool)
    has_text[found.page[whole_pages]] = False
    left = pa.record_batch(columns, schema=DOCUMENT_SCHEMA).filter(pa.array(has_text))
    is_long = pc.greater_equal(pc.utf8_length(left.column("text")), min_chars)
    for row in left.filter(pc.invert(is_long)).slice(0, SAMPLES_PER_REASON).to_pylist():
        ledger.sample("little_text_left", row["url"], row["text"])
    long = is_long.to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(left.column("paragraphs")), pc.binary_length(left.column("text"))
    counts = np.stack([np.ones(len(long), int), *(length.to_numpy() for length in lengths)])
    for verdict, chosen in enumerate((~long, long), len(drops)):
        rows.append((verdict, np.flatnonzero(has_text)[chosen], counts[:, chosen]))
    verdicts = [*((DROPPED, reason) for reason in (*drops, "little_text_left")), (KEPT, None)]
    _note(verdicts, rows, ledger)
    return left.filter(is_long)


def _note(
    verdicts: list[tuple[str, str | None]], rows: list[tuple[int, np.ndarray, np.ndarray]], ledger: Ledger
) -> None:
    """Put rows into the ledger, by page: of each the one that counts it first, then in the order of `verdicts`.

    `rows` has for a verdict the pages, int[rows], and their counts in the units of a ledger, int[3, rows].
    """
    which = np.concatenate([np.full(len(pages), verdict) for verdict, pages, _ in rows])
    page = np.concatenate([pages for _, pages, _ in rows])
    counts = np.concatenate([counts for *_, counts in rows], axis=1)
    order = np.lexsort((which, -counts[0], page))
    ledger.decisions.add_many(verdicts, which[order], **dict(zip(UNITS, counts[:, order], strict=True)))


def _sample(pages: pa.RecordBatch, found: Paragraphs, reason: str, dropped: np.ndarray, ledger: Ledger) -> None:
    """Show in the ledger the first paragraph that is dropped of each of the first pages."""
    _, first = np.unique(found.page[dropped], return_index=True)
    for i in np.flatnonzero(dropped)[first[:SAMPLES_PER_REASON]]:
        url, line = pages.column("url")[found.page[i]], found.lines[found.line[i]]
        ledger.sample(reason, url.as_py(), line.as_py())
