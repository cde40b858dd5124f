"""Near-duplicate documents: MinHash signatures, LSH, and of near-duplicates the first stays.

Three steps, each a file: `hash` writes the signatures of a document file; `reduce` goes through all of them in
manifest order and drops a document whose estimated Jaccard similarity with an earlier kept one reaches the
threshold; `apply` writes the documents that stay. Only kept documents enter the index, so that in a chain of
small changes only those like the first one are dropped. Sources: Broder 1997; Leskovec et al., Mining of Massive
Datasets, chapter 3.

The bands are narrow enough that LSH misses nothing: of p hashes, two signatures at the threshold t differ in at
most (1 - t) p, so with more bands than that one is equal in both. The candidates are compared by the whole
signature. The price: the lower the threshold, the more candidates.

So that pages made up to share bands cost little more than others, a band's bucket takes the first MOST_KEPT kept
documents. Only where so many share a band and are no near-duplicates of each other can one be missed, and then
only if this is so in all other bands that it shares with the kept one.

Memory of `reduce`: about 30 bytes a document to find those that share a band with another, and 20 a band (0.6 kB
with the default 32 bands) for each of these; the signatures are mapped into memory. It is one process.
"""

from __future__ import annotations

import json
import logging
import math
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.common.config import as_written
from pipeline.common.errors import StageError
from pipeline.common.files import atomic, read_array, read_arrow, write_text
from pipeline.common.progress import counted, progress
from pipeline.common.schemas import some_columns
from pipeline.corpus.options import Near
from pipeline.corpus.select import Drop, select_documents
from pipeline.corpus.words import MULTIPLIER, hash_ngrams, hash_words, ngram_sums, split_words

log = logging.getLogger(__name__)

SCHEME = "affine32"  # datasketch's permutations since 2.0, 32 bits each
MOST_KEPT = 2000  # kept documents in a bucket
SHINGLES_AT_ONCE = 2**12  # of a document: the hashes of one step, 4 bytes times permutations each, stay in cache


def hash_documents(options: Near, documents: str, output: str) -> None:
    """Write the signatures of a document file: uint32[documents, permutations]."""
    from datasketch import MinHash

    count = sum(batch.num_rows for batch in read_arrow(documents, some_columns("language")))
    empty = MinHash(options.permutations, seed=options.seed, hashfunc=int, scheme=SCHEME)
    batches = counted(read_arrow(documents, some_columns("text")), "signatures")
    texts = (text for batch in batches for text in batch.column("text").to_pylist())
    with atomic(output) as part:
        signatures = np.lib.format.open_memmap(part, "w+", np.uint32, (count, options.permutations))
        for row, text in enumerate(texts):
            signatures[row] = signature_of(text, options.ngram, empty)
        signatures.flush()


def shingles(text: str, ngram: int) -> np.ndarray:
    """32-bit hashes of the different n-grams of a text, ascending; of a shorter text, the hash of all its words.

    >>> len(shingles("one two three two three", 2))
    3
    """
    words = split_words(text) or [text]
    ngrams = hash_ngrams(ngram_sums(hash_words(words)), min(ngram, len(words)))
    return np.unique((ngrams >> np.uint64(32)).astype(np.uint32))


def signature_of(text: str, ngram: int, empty: Any) -> np.ndarray:
    """The MinHash signature of a text: uint32[permutations]. `empty` is a MinHash of nothing, which is copied."""
    minhash = empty.copy()
    hashes = shingles(text, ngram)
    for first in range(0, len(hashes), SHINGLES_AT_ONCE):
        minhash.update_batch(hashes[first : first + SHINGLES_AT_ONCE].tolist())
    return minhash.hashvalues


def band_size(threshold: float, permutations: int) -> int:
    """The width in hashes of the widest bands with which no pair at the threshold is missed.

    It is at most half the permutations, since datasketch needs two bands.

    >>> band_size(0.8, 128)
    4
    """
    different = permutations - needed_matches(threshold, permutations)
    return permutations // max(2, different + 1)


def needed_matches(threshold: float, permutations: int) -> int:
    """How many hashes of two signatures must be equal for an estimated similarity at the threshold.

    >>> needed_matches(0.8, 128)
    103
    """
    return math.ceil(as_written(threshold) * permutations)


def reduce_signatures(
    options: Near, signatures: list[str], documents: list[str], output: str, clusters: str
) -> None:
    """Write the near-duplicates, int64[2, dropped]: number of the document file and row in it, ascending.

    `clusters` has a line of JSON for each kept document with near-duplicates: its URL, file and row, and those of
    the dropped ones with their estimated similarity. Files are in manifest order.
    """
    files = [read_array(path, "uint32", (None, options.permutations)) for path in signatures]
    bounds = np.cumsum([0, *map(len, files)])
    duplicates = find_near(options, files)
    numbers = np.array(sorted(duplicates), np.int64)
    places = np.searchsorted(bounds, numbers, side="right") - 1
    with atomic(output) as part, part.open("wb") as file:
        np.save(file, np.stack([places, numbers - bounds[places]]))
    write_text(clusters, "".join(_cluster_lines(duplicates, bounds, documents)))


def find_near(options: Near, files: list[np.ndarray]) -> dict[int, tuple[int, float]]:
    """For each dropped document, by its number over all files: (the kept document, estimated similarity).

    `files` are signatures, uint32[documents, permutations] each.
    """
    width = band_size(options.threshold, options.permutations)
    bands = [(first, first + width) for first in range(0, options.permutations - width + 1, width)]
    needed = needed_matches(options.threshold, options.permutations)
    # Each hash that differs makes at most one band differ. Whoever shares so many bands is in at least one of the
    # others, whichever are left out: the largest are, since text that many pages have in common fills them.
    looked_in = options.permutations - needed + 1
    bounds = np.cumsum([0, *map(len, files)])
    duplicates: dict[int, tuple[int, float]] = {}
    log.info("looking for documents that share a band, of %d", bounds[-1])
    active = np.flatnonzero(share_a_band(files, bands))
    begin = _bucket_places(files, bands, active)
    members, sizes = np.zeros(begin.size, np.int64), np.zeros(begin.size, np.int32)
    with progress(len(active), "near-duplicates", "documents") as bar:
        for number, places in zip(active.tolist(), begin, strict=True):
            kept = sizes[places]
            smallest = np.argsort(kept, kind="stable")[:looked_in]
            buckets = [members[places[band] : places[band] + kept[band]] for band in smallest]
            candidates = _union(buckets)
            equal = _signatures(files, bounds, candidates) == _signatures(files, bounds, np.array([number]))
            matches = equal.view(np.uint8).sum(
                1, dtype=np.int32
            )  # several times as fast as a count of truth values
            found = np.flatnonzero(matches >= needed)
            if len(found):
                first = found[0]
                duplicates[number] = (int(candidates[first]), int(matches[first]) / options.permutations)
            else:
                room = kept < MOST_KEPT
                members[places[room] + kept[room]] = number
                sizes[places[room]] += 1
            bar.update()
    return duplicates


def _bucket_places(files: list[np.ndarray], bands: list[tuple[int, int]], active: np.ndarray) -> np.ndarray:
    """Where the bucket of each document in each band begins: int64[active, bands]; it has room for all in it.

    All buckets lie one after the other, those of a band together.
    """
    places = np.empty((len(active), len(bands)), np.int64)
    for band, (first, last) in enumerate(bands):
        keys = _band_keys(files, first, last)[active]
        _, bucket, sizes = np.unique(keys, return_inverse=True, return_counts=True)
        places[:, band] = (band * len(active) + np.cumsum(sizes) - sizes)[bucket]
    return places


def _union(buckets: list[np.ndarray]) -> np.ndarray:
    """The different numbers in some buckets, each of which ascends, ascending."""
    numbers = np.sort(np.concatenate(buckets), kind="stable")  # which merges runs
    new = np.ones(len(numbers), bool)
    new[1:] = numbers[1:] != numbers[:-1]
    return numbers[new]


def _signatures(files: list[np.ndarray], bounds: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Those of the documents with these numbers over all files, which begin at `bounds`."""
    signatures = np.empty((len(numbers), files[0].shape[1]), np.uint32)
    places = np.searchsorted(bounds, numbers, side="right") - 1
    for place in np.unique(places):
        inside = places == place
        signatures[inside] = files[place][numbers[inside] - bounds[place]]
    return signatures


def share_a_band(files: list[np.ndarray], bands: list[tuple[int, int]]) -> np.ndarray:
    """Whether a document has a band in common with another one: bool[documents]. The others need no index."""
    shared = np.zeros(sum(map(len, files)), bool)
    for first, last in bands:
        keys = _band_keys(files, first, last)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        equal = keys[1:] == keys[:-1]
        shared[order[1:][equal]] = True
        shared[order[:-1][equal]] = True
    return shared


def _band_keys(files: list[np.ndarray], first: int, last: int) -> np.ndarray:
    """A hash of the band of each document: uint64[documents]."""
    return np.concatenate([_hash_rows(file[:, first:last]) for file in files])


def _hash_rows(rows: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each row: uint64[rows]. Two rows with one hash by chance only cost a comparison."""
    total = np.zeros(len(rows), np.uint64)
    for column in rows.T:
        total = total * MULTIPLIER + column
    return total


def _cluster_lines(
    duplicates: dict[int, tuple[int, float]], bounds: np.ndarray, documents: list[str]
) -> Iterator[str]:
    numbers = sorted({*duplicates, *(survivor for survivor, _ in duplicates.values())})
    urls = dict(zip(numbers, _urls(numbers, bounds, documents), strict=True))

    def entry(number: int) -> dict[str, Any]:
        place = int(np.searchsorted(bounds, number, side="right")) - 1
        return {"url": urls[number], "file": place, "row": int(number - bounds[place])}

    clusters: dict[int, list[dict[str, Any]]] = {}
    for number, (survivor, similarity) in sorted(duplicates.items()):
        clusters.setdefault(survivor, []).append(entry(number) | {"similarity": round(similarity, 4)})
    for survivor, members in sorted(clusters.items()):
        yield json.dumps(entry(survivor) | {"near_duplicates": members}, ensure_ascii=False) + "\n"


def _urls(numbers: list[int], bounds: np.ndarray, documents: list[str]) -> Iterator[str]:
    """The URLs of the documents with these numbers, ascending."""
    for path, (low, high) in zip(documents, pairwise(bounds.tolist()), strict=True):
        first = low
        for batch in read_arrow(path, some_columns("url")):
            inside = slice(bisect_left(numbers, first), bisect_left(numbers, first + batch.num_rows))
            yield from (batch.column("url")[number - first].as_py() for number in numbers[inside])
            first += batch.num_rows
        if first != high:
            raise StageError(
                f"{path}: has {first - low} documents but {high - low} signatures; the signatures were made from "
                "another file: run near-hash again"
            )


def apply_near(
    options: Near,
    documents: str,
    duplicates: str,
    position: int,
    output: str,
    ledger: str,
    decisions: str | None = None,
) -> None:
    """Write the documents of the file at `position` in the manifest that are not near-duplicates."""
    places, rows = read_array(duplicates, "int64", (2, None))
    dropped = frozenset(rows[places == position].tolist())

    def reason(row: int, *_: str) -> Drop | None:
        return Drop("near_duplicate") if row in dropped else None

    select_documents("near", options, documents, reason, output, ledger, decisions)
