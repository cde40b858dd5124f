"""Exact paragraph deduplication over the whole crawl: of equal paragraphs the first one stays.

Three steps, each a file: `hash` writes the 64-bit hash of every paragraph of a page file, sorted by bucket
(a prefix of the hash); `reduce` joins each bucket over all page files and finds every paragraph that is not
the first with its hash; `apply` writes the documents without these. First means first in manifest order,
whatever the workers and buckets. Source: paper, section 4.1.

A paragraph has an ordinal: the place of its page file in the manifest in the upper 24 bits, its own place in
that file in the lower 40.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from pipeline.cli import StageError
from pipeline.engine import map_items
from pipeline.extract import PAGE_SCHEMA
from pipeline.files import atomic, read_arrow, stamp, write_arrow
from pipeline.ledger import Ledger
from pipeline.options import Dedup

ORDINAL_BITS = 40
NOT_LETTERS = re.compile(r"[\W\d_]+")
DOCUMENT_SCHEMA = PAGE_SCHEMA.append(pa.field("paragraphs", pa.list_(pa.int32())))


def split_paragraphs(text: str) -> list[str]:
    """The paragraphs of a page: its lines."""
    return text.split("\n")


def paragraph_key(paragraph: str, normalize: str) -> bytes:
    """What makes two paragraphs equal. 'ccnet' folds case, digits and punctuation (CCNet, section 3.2)."""
    if normalize == "ccnet":
        paragraph = NOT_LETTERS.sub(" ", paragraph.lower()).strip()
    return paragraph.encode()


def hash_paragraphs(options: Dedup, pages: str, output: str) -> None:
    """Hashes of a page file: `hashes` (uint64, sorted by bucket), `places` (uint64: of each paragraph in
    the file) and `bounds` (int64, buckets + 1: where each bucket begins)."""
    hashes = np.fromiter(
        (
            xxhash.xxh3_64_intdigest(paragraph_key(paragraph, options.normalize))
            for text in _texts(pages)
            for paragraph in split_paragraphs(text)
        ),
        np.uint64,
    )
    buckets = bucket_of(hashes, options.buckets)
    order = np.argsort(buckets, kind="stable")
    bounds = np.searchsorted(buckets[order], np.arange(options.buckets + 1))
    _save(output, hashes=hashes[order], places=order.astype(np.uint64), bounds=bounds)


def bucket_of(hashes: np.ndarray, buckets: int) -> np.ndarray:
    """The bucket of each hash: its upper 32 bits scaled to the number of buckets."""
    return ((hashes >> np.uint64(32)) * np.uint64(buckets)) >> np.uint64(32)


def reduce_hashes(options: Dedup, hashes: list[str], output: str, workers: int, scheduler: str | None) -> None:
    """Ordinals (uint64, ascending) of every paragraph that is not the first with its hash."""
    jobs = [(hashes, bucket) for bucket in range(options.buckets)]
    found = map_items(_reduce_bucket, jobs, workers, scheduler, "reduce", "buckets")
    _save(output, duplicates=np.sort(np.concatenate(found)))


def _reduce_bucket(job: tuple[list[str], int]) -> np.ndarray:
    paths, bucket = job
    hashes, ordinals = [], []
    for position, path in enumerate(paths):
        with np.load(path) as file:
            bounds = file["bounds"]
            part = slice(bounds[bucket], bounds[bucket + 1])
            hashes.append(file["hashes"][part])
            ordinals.append(file["places"][part] | np.uint64(position << ORDINAL_BITS))
    return duplicates_of(np.concatenate(hashes), np.concatenate(ordinals))


def duplicates_of(hashes: np.ndarray, ordinals: np.ndarray) -> np.ndarray:
    """The ordinals whose hash occurs at a smaller ordinal too."""
    order = np.lexsort((ordinals, hashes))
    hashes, ordinals = hashes[order], ordinals[order]
    later = np.zeros(len(hashes), bool)
    later[1:] = hashes[1:] == hashes[:-1]
    return ordinals[later]


def apply_duplicates(
    options: Dedup, pages: str, duplicates: str, position: int, output: str, ledger: str
) -> None:
    """Documents: the pages of one file without their duplicate paragraphs."""
    with np.load(duplicates) as file:
        ordinals = file["duplicates"]
    first, last = np.uint64(position << ORDINAL_BITS), np.uint64((position + 1) << ORDINAL_BITS)
    low, high = np.searchsorted(ordinals, np.array([first, last]))
    drops = ordinals[low:high] - first
    book = Ledger("dedup")
    write_arrow(output, stamp(DOCUMENT_SCHEMA, "dedup", options), _documents(options, pages, drops, book))
    book.write(ledger)


def _documents(options: Dedup, pages: str, drops: np.ndarray, ledger: Ledger) -> Iterator[dict[str, Any]]:
    place = 0
    for page in _rows(pages):
        paragraphs = split_paragraphs(page["text"])
        low, high = np.searchsorted(drops, np.array([place, place + len(paragraphs)], np.uint64))
        dropped = set((drops[low:high] - np.uint64(place)).tolist())
        place += len(paragraphs)
        kept = [i for i in range(len(paragraphs)) if i not in dropped]
        text = "\n".join(paragraphs[i] for i in kept)
        size, left = len(page["text"].encode()), len(text.encode())
        ledger.enter(documents=1, paragraphs=len(paragraphs), bytes=size)
        whole = int(not kept)
        if dropped:
            ledger.drop("duplicate_paragraph", documents=whole, paragraphs=len(dropped), bytes=size - left)
            ledger.sample("duplicate_paragraph", page["url"], paragraphs[min(dropped)])
        if not kept:
            continue
        if len(text) < options.min_chars:
            ledger.drop("little_text_left", documents=1, paragraphs=len(kept), bytes=left)
            ledger.sample("little_text_left", page["url"], text)
            continue
        ledger.keep(documents=1, paragraphs=len(kept), bytes=left)
        yield page | {"text": text, "paragraphs": kept}
    if len(drops) and drops[-1] >= place:
        raise StageError(
            f"{pages}: has {place} paragraphs, but number {drops[-1]} is to be dropped; the hashes were made "
            "from another file: run dedup-hash and dedup-reduce again"
        )


def _rows(path: str) -> Iterator[dict[str, Any]]:
    for batch in read_arrow(path):
        yield from batch.to_pylist()


def _texts(path: str) -> Iterator[str]:
    for batch in read_arrow(path):
        yield from batch.column("text").to_pylist()


def _save(path: str, **arrays: np.ndarray) -> None:
    # Uncompressed, and with the fixed dates that NumPy's zip writer gives: the same arrays, the same bytes.
    with atomic(Path(path)) as part, part.open("wb") as file:
        np.savez(file, **arrays)
