"""Decontamination: which documents share an n-gram of words with an evaluation set.

The index of the sets is made once. A text of fewer than n words counts whole, as one shorter n-gram, if it has at
least 8 words (or n, if that is less); shorter texts are ignored, since any document may contain them. Words are
in lower case and without punctuation. Source: Brown et al. 2020, appendix C (13-grams, whole texts from 8 up).

In scripts without spaces an n-gram is as many characters as make up n words, and in any script it has at least 2 n
letters: names, rows of digits and the like are no sign of a copy.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.common.arrow import read_batches
from pipeline.common.errors import StageError, one_line
from pipeline.common.files import atomic, read_array, write_json
from pipeline.common.guard import BeyondBounds, guarded
from pipeline.common.lines import read_lines
from pipeline.corpus.options import Decontaminate
from pipeline.corpus.words import hash_ngrams, hash_words, ngram_sums, shortest_runs, split_words, word_shares

SHORTEST = 8  # words
LETTERS = 2  # at least so many for each word of an n-gram; that of Chinese has 1.5 characters
SECONDS = 3600  # of processor time that the reading of all sets may take
CHARS_PER_GB = 2**27  # characters of all sets together, for each GiB that they may take
CURE = "give smaller files, or raise filter.decontaminate.sets_gb"
ROWS, BUFFER = 256, 2**20  # rows and bytes of Parquet read at a time

# A table of the hashes' upper bits rules out nearly every n-gram that no set has, several times as fast as a
# search of the hashes.
TABLE_BITS = 22


@dataclass(frozen=True)
class NgramTable:
    """The n-grams of one length: hashes (ascending), and the set of each."""

    hashes: np.ndarray
    sets: np.ndarray


@dataclass(frozen=True)
class NgramIndex:
    """The n-grams of all sets by their length in words or pieces of words, ascending; names of the sets by number.

    Which upper bits of hashes there are: bool[2**TABLE_BITS].
    """

    by_length: dict[int, NgramTable]
    possible: np.ndarray
    names: list[str]


def build_index(options: Decontaminate, output: str, report: str) -> None:
    """Write the n-grams of the sets, uint64[3, n-grams]: hash, length, number of the set; sorted.

    The report gives for each set its number of different n-grams, of texts, of short texts that count whole, and
    of ignored texts. Raises StageError where nothing of a set is left, where a file is damaged, or where what it
    unpacks to is too much: others made the files, so that they are read in a process with bounds.
    """
    arguments = (options.sets, options.ngram, options.sets_gb, output, report)
    try:
        guarded(
            "pipeline.corpus.decontaminate:write_index",
            *arguments,
            seconds=SECONDS,
            memory=options.sets_gb * 2**30,
        )
    except BeyondBounds as error:
        raise StageError(f"filter.decontaminate.sets: to read them {error}; {CURE}") from None


def write_index(sets: dict[str, str], ngram: int, sets_gb: int, output: str, report: str) -> None:
    """`build_index` in this process."""
    parts, counts = [], []
    left = sets_gb * CHARS_PER_GB
    for number, (name, path) in enumerate(sets.items()):
        part, count = _set_ngrams(read_strings(path), ngram, number, left)
        left -= count.pop("chars")
        longest = count.pop("longest")
        if not part.shape[1] and longest >= _shortest(ngram):
            logging.warning("filter.decontaminate.sets.%s: every text in %s is too short to count", name, path)
        elif not part.shape[1]:
            raise StageError(
                f"filter.decontaminate.sets.{name}: {path} has no text of {_shortest(ngram)} words or more; give "
                "the file with the questions"
            )
        parts.append(part)
        counts.append({"name": name, "ngrams": part.shape[1], **count})
    table = np.concatenate([np.zeros((3, 0), np.uint64), *parts], axis=1)
    with atomic(output) as saved, saved.open("wb") as file:
        np.save(file, table[:, np.lexsort((table[2], table[0], table[1]))])
    write_json(report, {"ngram": ngram, "sets": counts})


def _shortest(ngram: int) -> int:
    return min(SHORTEST, ngram)


def _set_ngrams(texts: Iterator[str], ngram: int, number: int, most: int) -> tuple[np.ndarray, dict[str, int]]:
    """The columns of the index for a set, and its counts. Raises StageError for more than `most` characters."""
    by_length: dict[int, list[np.ndarray]] = {}
    count = {"texts": 0, "short_texts": 0, "ignored_texts": 0, "chars": 0, "longest": 0}
    for text in texts:
        count["chars"] += len(text)
        if count["chars"] > most:
            raise StageError(f"filter.decontaminate.sets: more text than {most:,} characters; {CURE}")
        words = split_words(text)
        sizes, is_short = ngram_sizes(words, ngram)
        count["texts"] += 1
        count["longest"] = max(count["longest"], len(words))
        count["short_texts"] += is_short
        count["ignored_texts"] += not len(sizes)
        ngrams = hash_ngrams(ngram_sums(hash_words(words)), sizes)
        for length in np.unique(sizes).tolist():
            by_length.setdefault(length, []).append(ngrams[sizes == length])
    columns = []
    for length, parts in by_length.items():
        hashes = np.unique(np.concatenate(parts))
        columns.append(np.stack([hashes, np.full_like(hashes, length), np.full_like(hashes, number)]))
    return np.concatenate([np.zeros((3, 0), np.uint64), *columns], axis=1), count


def ngram_sizes(words: list[str], ngram: int) -> tuple[np.ndarray, bool]:
    """How many words or pieces the n-gram from each word on has, int64[n-grams]; whether it is a short text whole.

    >>> ngram_sizes(["ein"] * 15, 13)
    (array([13, 13, 13]), False)
    >>> ngram_sizes(["水"] * 28, 13)
    (array([26, 26, 26]), False)
    """
    shares, letters = word_shares(words), np.fromiter(map(len, words), np.float64, len(words))
    for least in (ngram, _shortest(ngram)):
        by_words, by_letters = shortest_runs(shares, least), shortest_runs(letters, LETTERS * least)
        count = min(len(by_words), len(by_letters))
        if count:
            sizes = np.maximum(by_words[:count], by_letters[:count])
            return (sizes, False) if least == ngram else (np.array([len(words)]), True)
    return np.zeros(0, np.int64), False


def load_index(path: str) -> NgramIndex:
    """The index, and the names of its sets from the report beside it."""
    hashes, lengths, numbers = np.array(read_array(path, "uint64", (3, None)))
    possible = np.zeros(2**TABLE_BITS, bool)
    possible[_upper_bits(hashes)] = True
    by_length = {}
    for length in np.unique(lengths):
        low, high = np.searchsorted(lengths, length), np.searchsorted(lengths, length, side="right")
        by_length[int(length)] = NgramTable(hashes[low:high], numbers[low:high])
    report = json.loads(Path(path).with_suffix(".json").read_text(encoding="utf-8"))
    return NgramIndex(by_length, possible, [entry["name"] for entry in report["sets"]])


def _upper_bits(hashes: np.ndarray) -> np.ndarray:
    return (hashes >> np.uint64(64 - TABLE_BITS)).astype(np.int64)


def find_set(index: NgramIndex, hashes: np.ndarray) -> str | None:
    """The first set that shares an n-gram with a document, or None; `hashes` are those of its words."""
    sets: list[int] = []
    of_words = ngram_sums(hashes)
    for length, table in index.by_length.items():
        ngrams = hash_ngrams(of_words, length)
        ngrams = ngrams[index.possible[_upper_bits(ngrams)]]
        places = np.searchsorted(table.hashes, ngrams)
        places[places == len(table.hashes)] = 0
        sets += table.sets[places[table.hashes[places] == ngrams]].tolist()
    return index.names[min(sets)] if sets else None


def contaminated_reason(name: str) -> str:
    """The reason in the ledger for a document that shares an n-gram with the set of this name."""
    return f"contaminated:{name}"


def read_strings(path: str) -> Iterator[str]:
    """Every string in a file of JSON, JSON lines, Parquet or Arrow, but no keys; of a .txt its lines.

    Raises StageError where the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = Path(path).suffix
    try:
        if kind == ".json":
            yield from _strings(json.loads(Path(path).read_text(encoding="utf-8")))
        elif kind in (".jsonl", ".txt"):
            for line in read_lines(path):
                yield from _strings(json.loads(line) if kind == ".jsonl" and line.strip() else line)
        else:
            batches = (
                pq.ParquetFile(path, buffer_size=BUFFER).iter_batches(batch_size=ROWS, use_threads=False)
                if kind == ".parquet"
                else read_batches(path)
            )
            for batch in batches:
                yield from _strings(batch.to_pylist())
    except (ValueError, RecursionError, OSError, pa.ArrowException) as error:  # not JSON, not UTF-8, no Parquet
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise StageError(f"{path}: not a readable {kind} file: {one_line(error)}") from None


def _strings(data: Any) -> Iterator[str]:
    """The strings in JSON data, in their order."""
    pending = [data]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            pending.extend(reversed(value.values()))
        elif isinstance(value, list):
            pending.extend(reversed(value))
