"""Documents to the corpus: quality filter, split by the hash of the text, one shard a language and split."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from pipeline.common.files import arrow_rows, read_arrow, read_json, stamp
from pipeline.common.ledger import Ledger
from pipeline.common.progress import counted
from pipeline.common.schemas import DOCUMENT_SCHEMA, SHARD_SCHEMA
from pipeline.corpus.options import Shards
from pipeline.corpus.quality import good_score
from pipeline.workflow.layout import shard_path

SPLITS = ("train", "validation")
SPLIT_SEED = 0x5917  # so that a split does not depend on the hashes of dedup


def split_of(text: str, validation_share: float) -> str:
    """The split of a document, by the hash of its text: it never changes as the crawl grows.

    >>> split_of("A document.", validation_share=0.0), split_of("A document.", validation_share=1.0)
    ('train', 'validation')
    """
    draw = xxhash.xxh3_64_intdigest(text.encode(), seed=SPLIT_SEED) / 2**64
    return "validation" if draw < validation_share else "train"


def write_shards(
    options: Shards,
    documents: str,
    quality: list[str],
    languages: list[str],
    name: str,
    output: str,
    ledger: str,
    decisions: str | None = None,
) -> None:
    """Write the shards of one document file: `{output}/{language}/{split}-{name}.arrow` for each pair.

    All are written in one pass; each holds one record batch in memory (at most 32 MiB of text).
    """
    import fasttext

    reports = {report["language"]: report for report in map(read_json, quality)}
    models = {
        read_json(path)["language"]: fasttext.load_model(str(Path(path).with_suffix(".bin"))) for path in quality
    }
    book = Ledger("quality", options)
    schema = stamp(SHARD_SCHEMA, "shards", options)
    with contextlib.ExitStack() as stack:
        write = {
            (language, split): stack.enter_context(arrow_rows(shard_path(output, language, split, name), schema))
            for language in languages
            for split in SPLITS
        }
        rows, names = dict.fromkeys(write, 0), {to: str(shard_path("", *to, name)) for to in write}
        for document, counts in _scored(documents, models, reports, book):
            language, score = document["language"], document["quality_score"]
            to = language, split_of(document["text"], options.validation_share)
            book.keep(**counts, language=language, score=score, file=names[to], place=rows[to])
            rows[to] += 1
            write[to](document)
    book.write(ledger, decisions)


def _scored(
    path: str, models: dict[str, Any], reports: dict[str, Any], ledger: Ledger
) -> Iterator[tuple[dict[str, Any], dict[str, int]]]:
    """The documents that pass their language's threshold, with their score (null without a classifier).

    And their counts; who takes a document notes that it is kept.
    """
    for batch in counted(read_arrow(path, DOCUMENT_SCHEMA), "shards"):
        for document in batch.to_pylist():
            text, language = document["text"], document["language"]
            counts = {"documents": 1, "paragraphs": len(document["paragraphs"]), "bytes": len(text.encode())}
            ledger.enter(**counts)
            score = None
            if language in models:
                score = good_score(models[language], text, reports[language]["label"])
                if score < reports[language]["threshold"]:
                    ledger.drop("low_quality", **counts, language=language, score=score)
                    ledger.sample("low_quality", document["url"], text)
                    continue
            ledger.language(language, **counts)
            ledger.sample("kept", document["url"], text)
            yield document | {"quality_score": score}, counts
