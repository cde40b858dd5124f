"""The dataset card and the statistics of a corpus: what a person or the hub wants to know of its shards."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from pipeline.files import read_arrow, read_json, write_json, write_text
from pipeline.ledger import merge

STAGES = ("extract", "dedup", "quality")


def write_card(shards: list[str], ledgers: list[str], card: str, stats: str) -> None:
    """Count the shards, merge the ledgers by stage, and write both as JSON and as a dataset card."""
    counts: dict[str, dict[str, dict[str, int]]] = defaultdict(dict)
    for path in map(Path, shards):
        language, split = path.parent.name, path.name.rsplit("-", 1)[0]
        total = counts[language].setdefault(split, {"shards": 0, "documents": 0, "paragraphs": 0, "bytes": 0})
        total["shards"] += 1
        for batch in read_arrow(path):
            total["documents"] += batch.num_rows
            total["bytes"] += sum(len(text.encode()) for text in batch.column("text").to_pylist())
            total["paragraphs"] += len(batch.column("paragraphs").flatten())
    parts = [read_json(path) for path in ledgers]
    merged = [merge(stage, (p for p in parts if p["stage"] == stage)).data() for stage in STAGES]
    write_json(stats, {"languages": counts, "ledgers": merged})
    write_text(card, _card(counts, merged))


def _card(counts: dict[str, Any], ledgers: list[dict[str, Any]]) -> str:
    configs = "\n".join(
        f"- config_name: {language}\n  data_files:\n"
        + "\n".join(f"  - split: {split}\n    path: {language}/{split}-*.arrow" for split in sorted(splits))
        for language, splits in sorted(counts.items())
    )
    rows = "\n".join(
        f"| {language} | {split} | {c['documents']:,} | {c['paragraphs']:,} | {c['bytes'] / 1e6:,.1f} |"
        for language, splits in sorted(counts.items())
        for split, c in sorted(splits.items())
    )
    drops = "\n".join(
        f"| {ledger['stage']} | {reason} | {c['documents']:,} | {c['paragraphs']:,} | {c['bytes'] / 1e6:,.1f} |"
        for ledger in ledgers
        for reason, c in (*ledger["dropped"].items(), *ledger["failed"].items())
    )
    return f"""---
language: [{", ".join(sorted(counts))}]
task_categories: [text-generation]
configs:
{configs}
---

# Web corpus

Main text of web pages, deduplicated by paragraph and filtered by quality. Each document says where it comes
from: `url`, `date`, and the crawl's `warc`, `offset`, `record_id`, `digest` and kept `paragraphs`.
The text belongs to the sites it comes from.

| language | split | documents | paragraphs | text, MB |
|---|---|---:|---:|---:|
{rows}

## What was left out, and why

| stage | reason | documents | paragraphs | MB |
|---|---|---:|---:|---:|
{drops}
"""
