"""Pages drawn from the decisions of a crawl: some of each stage, reason and language, spread over their scores."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.common.decisions import KEPT
from pipeline.inspect.fates import STAGES, Crawl, Page, Stage

MOST_LANGUAGES = 6  # of a reason: those with most pages
POOL = 8  # candidates for each page that is drawn, from which scores are spread


class Kind(NamedTuple):
    """What one page may stand for. `is_part`: a part of a page that was kept, or dropped for another reason."""

    stage: str
    fate: str
    reason: str
    language: str
    is_part: bool


@dataclass(frozen=True)
class Drawn:
    """A page of a kind: its number in the stage, and its score there (nan: none)."""

    kind: Kind
    page: Page
    number: int
    score: float


def draw(crawl: Crawl, reasons: Collection[str], each: int, seed: int) -> tuple[list[Drawn], Counter[Kind]]:
    """`each` pages of each kind, and how many pages of each there are; `reasons`: only of these, if any.

    Of what was kept, only what the last stage kept.
    """
    counts: Counter[Kind] = Counter()
    pools: dict[Kind, list[tuple[float, Drawn]]] = defaultdict(list)
    for batch in crawl.finished:
        for stage, row, language, number, page in _rows(crawl, batch):
            fate, reason = stage.word("fate", int(row[0])), stage.word("reason", int(row[0]))
            if reasons and (reason or fate) not in reasons:
                continue
            is_part = not stage.columns["documents"][row[0]]
            kind = Kind(stage.name, fate, reason, language, is_part)
            counts[kind] += len(row)
            keys = np.random.default_rng([seed, STAGES.index(stage.name), int(batch), is_part]).random(
                int(row.max()) + 1
            )[row]
            some = np.argsort(keys, kind="stable")[: POOL * each]
            scores = stage.columns["score"][row]
            pool = pools[kind]
            pool += [
                (float(keys[i]), Drawn(kind, Page(batch, int(page[i])), int(number[i]), float(scores[i])))
                for i in some
            ]
            pool.sort(key=lambda entry: entry[0])
            del pool[POOL * each :]
    chosen = []
    for kind in sorted(_frequent(counts), key=lambda kind: (STAGES.index(kind.stage), *kind[1:])):
        pool_by_score = sorted((drawn for _, drawn in pools[kind]), key=lambda drawn: (drawn.score, drawn.page))
        places = np.linspace(0, len(pool_by_score) - 1, min(each, len(pool_by_score)))
        chosen += [pool_by_score[int(place)] for place in places]
    return chosen, counts


def _rows(crawl: Crawl, batch: str) -> Iterator[tuple[Stage, np.ndarray, str, np.ndarray, np.ndarray]]:
    """For each stage, fate, reason and language of a batch: rows, and the number of each one's page in the stage
    and in `extract`."""
    decided = crawl.batch(batch)
    extract = decided.stages["extract"]
    languages = [*extract.words["language"], ""]
    for stage, pages in decided.numbers():
        rows = np.arange(int(stage.first[0]), int(stage.first[-1]))
        numbers = np.searchsorted(stage.first, rows, side="right") - 1
        is_part = stage.columns["documents"][rows] == 0
        language = extract.columns["language"][extract.first[:-1]][pages[numbers]]
        keys = np.stack([stage.columns["fate"][rows], stage.columns["reason"][rows], language, is_part])
        kinds, which = np.unique(keys, axis=1, return_inverse=True)
        for kind in range(kinds.shape[1]):
            chosen = which == kind
            is_kept = stage.word("fate", int(rows[chosen][0])) == KEPT
            if is_kept and stage.name != crawl.stages[-1]:
                continue
            own = numbers[chosen]
            yield stage, rows[chosen], languages[int(kinds[2, kind])], own, pages[own]


def _frequent(counts: Counter[Kind]) -> list[Kind]:
    """The kinds of the MOST_LANGUAGES most frequent languages of each stage and reason."""
    by_reason: dict[tuple[object, ...], list[Kind]] = defaultdict(list)
    for kind, _ in counts.most_common():
        by_reason[kind._replace(language="")].append(kind)
    return [kind for kinds in by_reason.values() for kind in kinds[:MOST_LANGUAGES]]
