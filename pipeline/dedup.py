"""Exact paragraph deduplication over the whole crawl: of equal paragraphs the first one stays.

Three steps, each a file: `hash` writes the 64-bit hash of every paragraph of a page file, sorted; `reduce`
joins each bucket (a range of hashes) over all page files and finds every paragraph that is not the first with
its hash; `apply` writes the documents without these. First means first in manifest order, whatever the
workers and buckets. Source: paper, section 4.1.

A paragraph has an ordinal: the place of its page file in the manifest in the upper 24 bits, its own place in
that file in the lower 40.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
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
    """Hashes of a page file as uint64[2, paragraphs]: the hashes, ascending, and the place of each."""
    hashes = np.fromiter(
        (
            xxhash.xxh3_64_intdigest(paragraph_key(paragraph, options.normalize))
            for text in _texts(pages)
            for paragraph in split_paragraphs(text)
        ),
        np.uint64,
    )
    order = np.argsort(hashes, kind="stable")
    _save(output, np.stack([hashes[order], order.astype(np.uint64)]))


def reduce_hashes(options: Dedup, hashes: list[str], output: str, workers: int, scheduler: str | None) -> None:
    """Ordinals (uint64, ascending) of every paragraph that is not the first with its hash."""
    # A bucket is a range of hashes; the bounds are Python integers, since the last is 2**64.
    bounds = [(bucket << 64) // options.buckets for bucket in range(options.buckets + 1)]
    jobs = [(hashes, low, high) for low, high in pairwise(bounds)]
    found = map_items(_reduce_bucket, jobs, workers, scheduler, "reduce", "buckets")
    _save(output, np.sort(np.concatenate(found)))


def _reduce_bucket(job: tuple[list[str], int, int]) -> np.ndarray:
    paths, low, high = job
    hashes, ordinals = [], []
    for position, path in enumerate(paths):
        file = np.load(path, mmap_mode="r")
        first = np.searchsorted(file[0], np.uint64(low))
        last = np.searchsorted(file[0], np.uint64(high - 1), side="right")
        hashes.append(file[0, first:last])
        ordinals.append(file[1, first:last] | np.uint64(position << ORDINAL_BITS))
    return duplicates_of(np.concatenate(hashes), np.concatenate(ordinals))


def duplicates_of(hashes: np.ndarray, ordinals: np.ndarray) -> np.ndarray:
    """The ordinals whose hash occurs at a smaller ordinal too."""
    order = np.lexsort((ordinals, hashes))
    hashes, ordinals = hashes[order], ordinals[order]
    later = np.zeros(len(hashes), bool)
    later[1:] = hashes[1:] == hashes[:-1]
    return ordinals[later]


def apply_duplicates(options: Dedup, pages: str, duplicates: str, position: int, output: str, ledger: str) -> None:
    """Documents: the pages of one file without their duplicate paragraphs."""
    ordinals = np.load(duplicates, mmap_mode="r")
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


def _save(path: str, array: np.ndarray) -> None:
    with atomic(path) as part, part.open("wb") as file:
        np.save(file, array)
