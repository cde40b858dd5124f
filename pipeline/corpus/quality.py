"""A fastText linear classifier of good text against random text of the crawl, and its threshold.

Source: paper, section 4.1: trained to discriminate random pages of CommonCrawl from high-quality documents.
"""

from __future__ import annotations

import heapq
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from pipeline.common.classifiers import fasttext_line, load_fasttext
from pipeline.common.config import as_written
from pipeline.common.errors import StageError
from pipeline.common.files import atomic, read_arrow, write_json
from pipeline.common.hosts import matches
from pipeline.common.ledger import SAMPLE_CHARS
from pipeline.common.lines import read_lines
from pipeline.common.progress import progress
from pipeline.common.schemas import some_columns
from pipeline.corpus.options import Quality

GOOD, RANDOM = "__label__good", "__label__random"
EXAMPLE_CHARS = 3000  # of a document, in training and in scoring
CURVE_POINTS = 50
BIN = 0.5  # width of a bin of scores, log-odds
CERTAIN = 1e-6  # a probability nearer to 0 or 1 counts as this near
# Random documents with scores next to the threshold that a report keeps, on each side of it.
SHOWN = 3
SPACES = re.compile(r"\s+")

log = logging.getLogger(__name__)


def as_line(text: str) -> str:
    """A document as the classifier sees it: its first EXAMPLE_CHARS characters, in lower case, on one line.

    >>> as_line("Le Chat\\n\\n  dort.")
    'le chat dort.'
    """
    return fasttext_line(SPACES.sub(" ", text[:EXAMPLE_CHARS]).strip().lower())


def good_score(model: Any, text: str, label: str = GOOD) -> float:
    """Probability that a text is good, 0 to 1; `label` is the model's name for good texts."""
    labels, scores = model.predict(as_line(text), k=-1)
    return min(1.0, dict(zip(labels, map(float, scores), strict=True)).get(label, 0.0))


def train_classifier(options: Quality, documents: list[str], language: str, output: str, report: str) -> None:
    """Train one language's classifier, or take the given one, and choose its threshold.

    A share of the examples is held out: its random texts give the threshold for a kept share, both classes the
    one for a precision. Raises StageError with too few examples, or where no threshold is precise enough.
    """
    negatives = _draw((text for _, text in _language_rows(documents, language)), options)
    if language in options.models:
        model_path, label = options.models[language], options.label
        positives: list[str] = []
        held_positives, held_negatives = positives, negatives
        model = load_fasttext(model_path)
        with atomic(output) as part:
            part.write_bytes(Path(model_path).read_bytes())
    else:
        label = GOOD
        positives = _draw(_positives(options, documents, language), options)
        if min(len(positives), len(negatives)) < 10:
            raise StageError(
                f"quality.positives.{language}: {len(positives)} good and {len(negatives)} random documents "
                "are too few to train on; widen its urls, give files, or leave the language out"
            )
        held_positives, positives = _hold_out(positives, options.held_out)
        held_negatives, negatives = _hold_out(negatives, options.held_out)
        log.info("training on %d good and %d random documents", len(positives), len(negatives))
        model = _train(options, positives, negatives, output)
    good = np.array([good_score(model, text, label) for text in held_positives])
    rest = np.array([good_score(model, text, label) for text in held_negatives])
    threshold = choose_threshold(options, good, rest, language)
    write_json(
        report,
        {
            "language": language,
            "label": label,
            "threshold": threshold,
            "chosen": {
                "by": "min_precision" if options.min_precision is not None else "keep_share",
                "value": options.kept_share if options.min_precision is None else options.min_precision,
                **_point(good, rest, threshold),
            },
            "examples": {"good": len(positives), "random": len(negatives)},
            "held_out": {"good": len(good), "random": len(rest)},
            "curve": [_point(good, rest, t) for t in np.linspace(0, 1, CURVE_POINTS, endpoint=False) if len(good)],
            "scores": score_bins(good, rest, threshold),
            "at_threshold": at_threshold(held_negatives, rest, threshold),
        },
    )


def choose_threshold(options: Quality, good: np.ndarray, rest: np.ndarray, language: str) -> float:
    """The threshold that `keep_share` of the random texts pass, or the lowest with `min_precision`.

    `good` and `rest` are the scores of held-out good and random texts, 0 to 1. Raises StageError where no
    threshold has that precision.
    """
    if options.min_precision is None:
        place = float((1 - as_written(options.kept_share)) * (len(rest) - 1))
        return float(np.interp(place, np.arange(len(rest)), np.sort(rest))) if len(rest) else 0.0
    best = 0.0
    for threshold in np.unique(good):  # between two of them recall is equal and precision no better
        precision = _point(good, rest, threshold)["precision"] or 0.0
        if precision >= options.min_precision:
            return float(threshold)
        best = max(best, precision)
    raise StageError(
        f"quality.min_precision: {options.min_precision:g} is out of reach for {language}; the best threshold has "
        f"a precision of {best:.3f} on held-out text; ask for no more, or give better positives"
    )


def score_bins(good: np.ndarray, rest: np.ndarray, threshold: float) -> list[dict[str, Any]]:
    """How many held-out good and random texts have scores in bins of their log-odds; one begins at the threshold.

    >>> for scores in score_bins(np.array([0.6]), np.array([0.5, 0.4]), 0.5):
    ...     print(scores)
    {'low': -0.5, 'high': 0.0, 'kept': False, 'good': 0, 'random': 1}
    {'low': 0.0, 'high': 0.5, 'kept': True, 'good': 1, 'random': 1}
    """
    if not len(good) + len(rest):
        return []
    cut, *_ = _log_odds(np.array([threshold]))
    odds = [_log_odds(scores) for scores in (good, rest)]
    both = np.concatenate([*odds, [cut]])
    places = np.arange(np.floor((both.min() - cut) / BIN), np.floor((both.max() - cut) / BIN) + 2)
    edges = cut + BIN * places
    # Rounding may put the least score below the first edge.
    counts = (np.histogram(np.maximum(own, edges[0]), edges)[0].tolist() for own in odds)
    columns = (edges[:-1].tolist(), edges[1:].tolist(), (places[:-1] >= 0).tolist(), *counts)
    return [
        dict(zip(("low", "high", "kept", "good", "random"), row, strict=True))
        for row in zip(*columns, strict=True)
    ]


def _log_odds(scores: np.ndarray) -> np.ndarray:
    known = np.clip(scores.astype(np.float64), CERTAIN, 1 - CERTAIN)
    odds: np.ndarray = np.log(known / (1 - known))
    return odds


def at_threshold(texts: list[str], scores: np.ndarray, threshold: float) -> dict[str, list[dict[str, Any]]]:
    """The beginnings of the texts that just fail and that just pass, the nearest first, with their scores."""
    by_score = sorted(
        zip(scores.tolist(), texts, strict=True), key=lambda pair: (abs(pair[0] - threshold), pair[1])
    )
    sides = {
        "dropped": [pair for pair in by_score if pair[0] < threshold],
        "kept": [pair for pair in by_score if pair[0] >= threshold],
    }
    return {
        side: [{"score": score, "text": text[:SAMPLE_CHARS]} for score, text in pairs[:SHOWN]]
        for side, pairs in sides.items()
    }


def _train(options: Quality, positives: list[str], negatives: list[str], output: str) -> Any:
    import fasttext

    lines = [f"{GOOD} {as_line(t)}" for t in positives] + [f"{RANDOM} {as_line(t)}" for t in negatives]
    lines = sorted(lines, key=lambda line: _draw_key(line, options.seed))
    with tempfile.TemporaryDirectory() as folder:
        examples = Path(folder) / "examples.txt"
        examples.write_text("\n".join(lines) + "\n", encoding="utf-8")
        model = fasttext.train_supervised(
            str(examples),
            dim=options.dimensions,
            epoch=options.epochs,
            lr=options.learning_rate,
            wordNgrams=options.word_ngrams,
            bucket=options.hash_buckets,
            seed=options.seed,
            thread=1,  # with more, the bytes differ from run to run
            verbose=0,
        )
    with atomic(output) as part:
        model.save_model(str(part))
    return model


def _language_rows(documents: list[str], language: str) -> Iterator[tuple[str, str]]:
    """(URL, text) of every document in the language, one record batch in memory at a time."""
    with progress(len(documents), f"read {language}", "files") as bar:
        for path in documents:
            for batch in read_arrow(path, some_columns("url", "text", "language")):
                rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                yield from ((url, text) for url, text, code in rows if code == language)
            bar.update()


def _positives(options: Quality, documents: list[str], language: str) -> Iterator[str]:
    wanted = options.positives[language]
    if wanted.urls:
        pattern = re.compile(wanted.urls)
        yield from (text for url, text in _language_rows(documents, language) if matches(pattern, url))
    for path in wanted.files:
        yield from (line for line in read_lines(path) if line.strip())


def _draw_key(text: str, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(text.encode(), seed=seed)


def _draw(texts: Iterable[str], options: Quality) -> list[str]:
    """The first EXAMPLE_CHARS characters of at most `max_examples` texts, drawn by the hash of the whole text.

    They are the same in whatever order the texts come. No more texts are held in memory than are returned.
    """
    keyed = ((_draw_key(text, options.seed), text[:EXAMPLE_CHARS]) for text in texts)
    return [text for _, text in heapq.nsmallest(options.max_examples, keyed, key=itemgetter(0))]


def _hold_out(texts: list[str], share: float) -> tuple[list[str], list[str]]:
    held = max(1, round(len(texts) * as_written(share)))
    return texts[:held], texts[held:]


def _point(good: np.ndarray, rest: np.ndarray, threshold: float) -> dict[str, float | None]:
    """Precision and recall at a threshold, with both classes weighted alike; null where no good text is held out.

    `kept` is the share of random documents that pass.
    """
    kept = float((rest >= threshold).mean()) if len(rest) else 0.0
    if not len(good):
        return {"threshold": float(threshold), "precision": None, "recall": None, "kept": kept}
    recall = float((good >= threshold).mean())
    precision = recall / (recall + kept) if recall + kept else 1.0
    return {"threshold": float(threshold), "precision": precision, "recall": recall, "kept": kept}
