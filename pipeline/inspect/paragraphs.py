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
from pipeline.common.files import read_arrow
from pipeline.common.schemas import some_columns
from pipeline.corpus.dedup import VERDICT_SCHEMA, paragraph_hashes, reasons_to_drop
from pipeline.corpus.options import Dedup
from pipeline.corpus.paragraphs import find_paragraphs
from pipeline.inspect.fates import Crawl, Page, Stage, page_at, read_rows


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
    """Pages in whose main text a text is, `most` at most."""
    found: list[Page] = []
    for batch in crawl.batches:
        first = 0
        try:
            for rows in read_arrow(crawl.out.pages(batch), some_columns("text")):
                inside = pc.match_substring(rows.column("text"), text).to_numpy(zero_copy_only=False)
                if inside.any():
                    kept = np.flatnonzero(crawl.batch(batch).stages["extract"].kept)
                    found += [Page(batch, int(kept[first + i])) for i in np.flatnonzero(inside)]
                if len(found) >= most:
                    return found[:most]
                first += rows.num_rows
        except FileNotFoundError:
            pass
    return found
