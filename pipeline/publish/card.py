"""The dataset card and the statistics of a corpus."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

from pipeline.common.errors import StageError
from pipeline.common.files import read_arrow, read_json, write_json, write_text
from pipeline.common.language_codes import iso_code
from pipeline.common.ledger import merge
from pipeline.common.markdown import escaped, front_matter, table_row
from pipeline.common.schemas import some_columns
from pipeline.corpus.decontaminate import contaminated_reason
from pipeline.corpus.order import UNFILTERED, as_they_ran
from pipeline.crawl.text_files import kind_of
from pipeline.workflow.layout import shard_parts

ABOUT_PAGES = """# Web corpus

Main text of web pages, after these stages: {stages}. Each document says
where it comes from: `url`, `date`, and the crawl's `warc`, `offset`, `record_id`, `digest` and kept `paragraphs`.
The text belongs to the sites it comes from."""
# No archives were read, and no text was extracted.
ABOUT_TEXTS = """# Text corpus

Text of files, after these stages: {stages}. Each document says where it comes from: the file (`warc`), the number
in it (`offset`), `url` if it has one, `digest` and kept `paragraphs`.
The text belongs to those who wrote it."""


def write_card(shards: list[str], ledgers: list[str], decontamination: str | None, card: str, stats: str) -> None:
    """Write the statistics as JSON and the dataset card: counts of the shards, and the ledgers merged by stage.

    The stages are those of the ledgers, in their order. Raises StageError where the documents that one stage kept
    are not those that came into the next.
    """
    counts: dict[str, dict[str, dict[str, int]]] = defaultdict(dict)
    scored, sources = False, set()
    for path in shards:
        language, split, _ = shard_parts(path)
        total = counts[language].setdefault(split, {"shards": 0, "documents": 0, "paragraphs": 0, "bytes": 0})
        total["shards"] += 1
        for batch in read_arrow(path, some_columns("text", "paragraphs", "quality_score", "warc")):
            sources |= set(batch.column("warc").unique().to_pylist())
            scored = scored or batch.column("quality_score").null_count < batch.num_rows
            total["documents"] += batch.num_rows
            total["bytes"] += sum(len(text.encode()) for text in batch.column("text").to_pylist())
            total["paragraphs"] += len(batch.column("paragraphs").flatten())
    parts = [read_json(path) for path in ledgers]
    stages = dict.fromkeys(part["stage"] for part in parts)
    merged = [merge(stage, (p for p in parts if p["stage"] == stage)).data() for stage in stages]
    from_texts = bool(sources) and all(source and kind_of(source) for source in sources)
    merged = as_they_ran(merged, scored, from_texts)
    for before, after in pairwise(merged):
        kept, entered = before["kept"]["documents"], after["in"]["documents"]
        if kept != entered:
            raise StageError(
                f"{before['stage']} kept {kept} documents but {entered} came into {after['stage']}; "
                "give the ledgers of one run, in the order of its stages"
            )
    sets: dict[str, Any] = read_json(decontamination) if decontamination else {"ngram": 0, "sets": []}
    for entry in sets["sets"]:
        reason = contaminated_reason(entry["name"])
        drops = (ledger["dropped"].get(reason, {"documents": 0}) for ledger in merged)
        entry["documents_dropped"] = sum(counts["documents"] for counts in drops)
    write_json(stats, {"languages": counts, "ledgers": merged, "decontamination": sets})
    write_text(card, _corpus_card(counts, merged, sets, from_texts))


def _corpus_card(
    counts: dict[str, Any], ledgers: list[dict[str, Any]], decontamination: dict[str, Any], from_texts: bool
) -> str:
    header = {
        "language": sorted(set(map(iso_code, counts))),  # which the hub reads as ISO codes
        "task_categories": ["text-generation"],
        "configs": [
            {
                "config_name": language,
                "data_files": [
                    {"split": split, "path": f"{language}/{split}-*.arrow"} for split in sorted(splits)
                ],
            }
            for language, splits in sorted(counts.items())
        ],
    }
    rows = "\n".join(
        table_row([language, split, *_cells(c)])
        for language, splits in sorted(counts.items())
        for split, c in sorted(splits.items())
    )
    drops = "\n".join(
        table_row([ledger["stage"], reason, *_cells(c)])
        for ledger in ledgers
        for reason, c in (*ledger["dropped"].items(), *ledger["failed"].items())
    )
    sets = "\n".join(
        table_row([x["name"], f"{x['ngrams']:,}", f"{x['documents_dropped']:,}"]) for x in decontamination["sets"]
    )
    kept_out = f"""
## Evaluation sets kept out

Documents with {decontamination["ngram"]} words in a row of one of these were dropped.

| set | n-grams | documents dropped |
|---|---:|---:|
{sets}
"""
    stages = ", ".join(escaped(ledger["stage"]) for ledger in ledgers if ledger["stage"] != UNFILTERED)
    text = ABOUT_TEXTS if from_texts else ABOUT_PAGES
    return f"""{front_matter(header)}
{text.format(stages=stages)}

| language | split | documents | paragraphs | text, MB |
|---|---|---:|---:|---:|
{rows}

## What was left out, and why

| stage | reason | documents | paragraphs | MB |
|---|---|---:|---:|---:|
{drops}
{kept_out if sets else ""}"""


def _cells(counts: dict[str, int]) -> list[str]:
    return [f"{counts['documents']:,}", f"{counts['paragraphs']:,}", f"{counts['bytes'] / 1e6:,.1f}"]
