"""Which paragraphs of a page deduplication dropped, where their first copies are, and which pages have a text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.common.config import read
from pipeline.common.errors import StageError
from pipeline.common.files import inside, read_arrow
from pipeline.common.schemas import some_columns
from pipeline.corpus.dedup import VERDICT_SCHEMA, paragraph_hashes, reasons_to_drop
from pipeline.corpus.options import Dedup
from pipeline.corpus.paragraphs import find_paragraphs
from pipeline.inspect.fates import Batch, Crawl, Page, Stage, page_at, read_rows


class Dropped(NamedTuple):
    """A paragraph that was dropped: its text, why, and the page of its first copy, where there is one."""

    text: str
    reason: str
    first: Page | None


def dropped_paragraphs(crawl: Crawl, batch: str, dedup: Stage, number: int) -> list[Dropped] | str:
    """The paragraphs that dedup dropped of the page with this number in it; or the file that is gone."""
    pages, duplicates = crawl.out.pages(batch), crawl.out.duplicates(batch)
    row = read_rows(pages, some_columns("text"), [number]).get(number)
    if row is None:
        return pages
    begin, end = dedup.first_paragraph[number : number + 2].tolist()
    options = _options(dedup)
    found = find_paragraphs(pa.array([row["text"]]))
    if not Path(duplicates).exists():
        return duplicates
    verdicts = read_rows(duplicates, VERDICT_SCHEMA, range(begin, end))
    hashes = paragraph_hashes(options, row["text"])
    if not len(verdicts) == len(found.line) == len(hashes):
        raise StageError(f"{duplicates}: not about these pages; run the workflow again")
    seen = {name: np.array([verdicts[i][name] for i in range(begin, end)], bool) for name in VERDICT_SCHEMA.names}
    reasons = [("", False)] * len(hashes)
    for reason, which in reasons_to_drop(options, found, seen).items():
        for i in np.flatnonzero(which).tolist():
            reasons[i] = reason, bool(seen["duplicate_paragraph"][i])
    copies = first_pages(crawl, batch, hashes)
    return [
        Dropped(found.lines[int(line)].as_py(), reason, copy if is_copy else None)
        for line, (reason, is_copy), copy in zip(found.line, reasons, copies, strict=True)
        if reason
    ]


def first_pages(crawl: Crawl, last: str, hashes: np.ndarray) -> list[Page | None]:
    """The first page of the crawl that has each of the paragraphs, up to the batch `last`; None: not known."""
    places: list[tuple[str, int] | None] = [None] * len(hashes)
    batches = crawl.batches[: crawl.batches.index(last) + 1]
    for batch, ordered, of_paragraphs in crawl.hashes(batches):
        for i, place in _find(ordered, of_paragraphs, hashes):
            places[i] = places[i] or (batch, place)
    loaded = {name: crawl.batch(name) for name in {place[0] for place in places if place}}
    return [page_at(loaded[place[0]], place[1]) if place else None for place in places]


def pages_of_paragraph(crawl: Crawl, text: str) -> list[Page]:
    """The first page of each batch with the longest paragraph of a text that the files of hashes have."""
    paragraphs = sorted({*text.split("\n"), *(line.strip() for line in text.split("\n"))}, key=len, reverse=True)
    dedup = next((d for batch in crawl.batches if (d := crawl.batch(batch).stages.get("dedup"))), None)
    if dedup is None:
        return []
    hashes = np.concatenate([paragraph_hashes(_options(dedup), line) for line in paragraphs])
    found: dict[int, list[Page | None]] = {}
    for batch, ordered, places in crawl.hashes(crawl.batches):
        for i, place in _find(ordered, places, hashes):
            found.setdefault(i, []).append(page_at(crawl.batch(batch), place))
    return list(filter(None, found[min(found)])) if found else []


def _find(ordered: np.ndarray, places: np.ndarray, hashes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Which of `hashes` are in a file of hashes, and the place of each."""
    if len(ordered):
        at = np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)
        for i in np.flatnonzero(ordered[at] == hashes).tolist():
            yield i, int(places[at[i]])


def _options(dedup: Stage) -> Dedup:
    """Those of the stage that decide about paragraphs; the index of an earlier crawl need not be there."""
    return read(Dedup, {**dedup.options, "against": []}, "the decisions of dedup")


def pages_with_text(crawl: Crawl, text: str, most: int) -> list[Page]:
    """Pages in whose main text a text is, `most` at most; of a batch whose pages are gone, those in its shards."""
    found: list[Page] = []
    for batch in crawl.batches:
        decided = crawl.batch(batch)
        kept = np.flatnonzero(decided.stages["extract"].kept)
        sources: list[tuple[Path, np.ndarray]] = [(Path(crawl.out.pages(batch)), kept)]
        if not sources[0][0].exists():
            sources = list(_shards(crawl, decided))
        for path, numbers in sources:
            for row in _rows_with(path, text):
                if row < len(numbers):
                    found.append(Page(batch, int(numbers[row])))
                if len(found) == most:
                    return found
    return found


def _rows_with(path: Path, text: str) -> Iterator[int]:
    """The rows of a file of pages or documents with a text; none where the file is gone."""
    first = 0
    try:
        for rows in read_arrow(path, some_columns("text")):
            has = pc.match_substring(rows.column("text"), text).to_numpy(zero_copy_only=False)
            yield from (np.flatnonzero(has) + first).tolist()
            first += rows.num_rows
    except FileNotFoundError:
        pass


def _shards(crawl: Crawl, batch: Batch) -> Iterator[tuple[Path, np.ndarray]]:
    """The shards of a batch, and of each document in them the number of its page among those of `extract`."""
    for stage, numbers in batch.numbers():
        if stage.name == "quality":
            files = stage.columns["file"][stage.first[:-1]]
            for code, name in enumerate(stage.words["file"]):
                yield inside(crawl.out.corpus, name), numbers[files == code]
