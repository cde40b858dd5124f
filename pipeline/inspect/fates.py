"""The decisions of all stages of a crawl, joined: which page of one stage is which of the next.

A stage has its rows in the order in which it reads, and the n-th page that it keeps is the n-th of the next one
(`pipeline/common/decisions.py`). So a page is known by its batch and its number among the pages of `extract`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.common.arrow import map_table, read_schema
from pipeline.common.decisions import FAILED, KEPT, UNITS, WORDS, join, read_decisions, url_hash
from pipeline.common.errors import StageError
from pipeline.common.files import read_arrow, read_json
from pipeline.common.schemas import DECISION_SCHEMA
from pipeline.corpus.dedup import HASH_SCHEMA
from pipeline.corpus.order import documents_before
from pipeline.workflow.layout import Layout

STAGES = ("extract", "dedup", "filter", "near", "quality")
BATCHES_HELD = 4  # in memory: some 100 bytes a page and stage


class Page(NamedTuple):
    """A page, or what damage cost: its batch, and its number there among those of `extract`."""

    batch: str
    number: int


@dataclass(frozen=True)
class Stage:
    """The decisions of a stage about a batch.

    `columns` are those of DECISION_SCHEMA with numbers for the words; `first` is the first row of each page, and
    the number of all rows: int[pages + 1].
    """

    name: str
    options: dict[str, Any]
    columns: dict[str, np.ndarray]
    words: dict[str, list[str]]
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1

    def word(self, name: str, row: int) -> str:
        """The word in a column of a row, "" where there is none."""
        code = int(self.columns[name][row])
        return self.words[name][code] if code >= 0 else ""

    def rows(self, page: int) -> range:
        """The rows of a page: the one that decides, and those of its parts."""
        return range(int(self.first[page]), int(self.first[page + 1]))

    @property
    def kept(self) -> np.ndarray:
        """Whether each page is kept: bool[pages]."""
        kept = self.words["fate"].index(KEPT) if KEPT in self.words["fate"] else -1
        return np.asarray(self.columns["fate"][self.first[:-1]] == kept)

    @property
    def first_paragraph(self) -> np.ndarray:
        """The place of each page's first paragraph among those of the batch: int[pages + 1]."""
        return np.append(0, np.cumsum(self.columns["paragraphs"]))[self.first]


@dataclass(frozen=True)
class Batch:
    """The decisions about a batch, as far as they fit each other; `missing` says why there are no more."""

    name: str
    stages: dict[str, Stage]
    missing: str

    def fates(self, number: int) -> Iterator[tuple[Stage, int]]:
        """Each stage that a page of `extract` came to, and its number there."""
        for stage in self.stages.values():
            yield stage, number
            if not stage.kept[number]:
                return
            number = int(stage.kept[:number].sum())

    def numbers(self) -> Iterator[tuple[Stage, np.ndarray]]:
        """Each stage, and for each of its pages the number in `extract`: int[pages]."""
        numbers = np.arange(len(next(iter(self.stages.values()), ())))
        for stage in self.stages.values():
            yield stage, numbers
            numbers = numbers[stage.kept]


@dataclass(frozen=True)
class Crawl:
    """A result folder, its batches, and its stages in their order; and which batches are in the corpus."""

    out: Layout
    batches: list[str]
    stages: list[str]
    finished: list[str]

    def batch(self, name: str) -> Batch:
        """The decisions about a batch."""
        return _batch(self.out, name, tuple(self.stages))

    def documents_into(self, stage: str, batch: str) -> str:
        """The file of the documents that a stage reads, whose rows are its pages."""
        if stage == "dedup":
            return self.out.pages(batch)
        writing = [name for name in self.stages if name not in ("extract", "quality")]
        return documents_before(self.out, writing, stage, batch)

    def hashes(self, batches: Iterable[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """For each batch whose file of hashes is there: its name, hashes (ascending) and places."""
        for batch in batches:
            path = self.out.hashes(batch)
            if Path(path).exists():
                table = map_table(path, HASH_SCHEMA)
                yield batch, table.column("hash").to_numpy(), table.column("place").to_numpy()


def open_crawl(output: str) -> Crawl:
    """The crawl of a result folder. Raises StageError where that has no decisions."""
    out = Layout(output)
    names = (path.stem for path in out.files(out.decisions("extract", "*")))
    batches = [name for name in names if re.fullmatch(r"\d{5}", name, re.ASCII)]
    if not batches:
        raise StageError(
            f"{output}: no {Path(out.decisions('extract', '*')).parent.parent}; name the `output` of a config, "
            "whose corpus was made with this version"
        )
    stages = [stage for stage in STAGES if out.files(out.decisions(stage, "*"))]
    if not Path(out.stats).exists():
        return Crawl(out, batches, stages, batches)
    stats = read_json(out.stats)  # of the last run that was finished; there may be files of earlier and later ones
    try:
        ran = [ledger["stage"] for ledger in stats["ledgers"]]
        counts = [split["shards"] for splits in stats["languages"].values() for split in splits.values()]
        return Crawl(out, batches, [stage for stage in STAGES if stage in ran], batches[: max(counts)])
    except (TypeError, KeyError, AttributeError, ValueError):
        raise StageError(f"{out.stats}: not the statistics of a corpus; make it again") from None


@functools.lru_cache(BATCHES_HELD)
def _batch(out: Layout, name: str, names: tuple[str, ...]) -> Batch:
    stages: dict[str, Stage] = {}
    count = None
    for stage in names:
        path = Path(out.decisions(stage, name))
        if not path.exists():
            return Batch(name, stages, f"{path} is not there yet, or was deleted")
        found = _stage(stage, path)
        if count is not None and len(found) != count:
            return Batch(name, stages, f"{path} is about {len(found):,} pages, not {count:,}: of another run")
        stages[stage] = found
        count = int(found.kept.sum())
    return Batch(name, stages, "")


def _stage(name: str, path: Path) -> Stage:
    rows = join(read_decisions(path, DECISION_SCHEMA))
    columns = {column: np.array(values) for column, values in rows.columns.items()}
    starts = np.flatnonzero(columns["documents"])
    if any((columns[unit] < 0).any() for unit in UNITS):
        raise StageError(f"{path}: its rows are no decisions; make it again")
    try:
        options = dict(json.loads((read_schema(path).metadata or {})[b"pipeline"])["options"])
    except (KeyError, ValueError, TypeError, RecursionError):
        options = {}
    words = {column: list(rows.words[column]) for column in WORDS}
    return Stage(name, options, columns, words, np.append(starts, len(columns["documents"])))


def pages_of_urls(crawl: Crawl, urls: list[str]) -> list[list[Page]]:
    """The pages of exactly each of these URLs, in the order of the crawl."""
    wanted = [pa.scalar(url_hash(url), pa.uint64()) for url in urls]
    found: list[list[Page]] = [[] for _ in urls]
    for batch in crawl.batches:
        count = 0
        for rows in read_decisions(crawl.out.decisions("extract", batch), _some("documents", "url")):
            is_page = rows.column("documents").to_numpy() > 0
            numbers = np.cumsum(is_page) - 1 + count
            for pages, value in zip(found, wanted, strict=True):
                equal = pc.fill_null(pc.equal(rows.column("url"), value), fill_value=False)
                pages += [Page(batch, int(n)) for n in numbers[equal.to_numpy(zero_copy_only=False) & is_page]]
            count += int(is_page.sum())
    return found


def _some(*names: str) -> pa.Schema:
    return pa.schema([DECISION_SCHEMA.field(name) for name in names])


def page_at(batch: Batch, place: int) -> Page | None:
    """The page with the paragraph at a place of the batch, as the files of hashes count them."""
    dedup = batch.stages.get("dedup")
    if dedup is None or not 0 <= place < dedup.first_paragraph[-1]:
        return None
    number = int(np.searchsorted(dedup.first_paragraph, place, side="right")) - 1
    return Page(batch.name, int(np.flatnonzero(batch.stages["extract"].kept)[number]))


def read_rows(path: str | Path, schema: pa.Schema, rows: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Some rows of an Arrow file or a list of them, by their numbers; none where a file is gone."""
    wanted = np.unique(np.fromiter(rows, int))
    found: dict[int, dict[str, Any]] = {}
    first = 0
    try:
        for batch in read_arrow(path, schema):
            inside = wanted[(wanted >= first) & (wanted < first + batch.num_rows)]
            taken = batch.take(pa.array(inside - first)).to_pylist()
            found.update(zip(inside.tolist(), taken, strict=True))
            first += batch.num_rows
            if not len(wanted) or wanted[-1] < first:
                break
    except FileNotFoundError:
        pass
    return found


def lost_records(crawl: Crawl) -> list[tuple[int, str]]:
    """What damage cost: for each reason, and the file where it is known, so many records; most of them first."""
    lost: dict[str, int] = {}
    for batch in crawl.batches:
        schema = _some("fate", "reason", "documents", "file", "url")
        for rows in read_decisions(crawl.out.decisions("extract", batch), schema):
            is_lost = pc.and_(
                pc.equal(rows.column("fate").dictionary_decode(), FAILED), pc.is_null(rows.column("url"))
            )
            for row in rows.filter(is_lost).to_pylist():
                name = f"{row['reason']} in {row['file']}" if row["file"] else str(row["reason"])
                lost[name] = lost.get(name, 0) + row["documents"]
    return sorted(((count, name) for name, count in lost.items()), reverse=True)
