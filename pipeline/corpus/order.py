"""Which stages the documents pass between dedup and the shards, and where each of them reads."""

from __future__ import annotations

from typing import Any

from pipeline.corpus.options import Filter, Near
from pipeline.workflow.layout import Layout

# What the stage that writes the shards is called in the statistics of a corpus without quality classifiers.
UNFILTERED = "shards"


def stages_on(filters: Filter, near: Near) -> list[str]:
    """The stages that write documents, in their order; dedup is always on."""
    return ["dedup", *(["filter"] if filters.active else []), *(["near"] if near.enabled else [])]


def documents_after(out: Layout, stage: str, batch: str = "{batch}") -> str:
    """What a stage writes."""
    return {"dedup": out.documents, "filter": out.filtered, "near": out.near}[stage](batch)


def documents_before(out: Layout, stages: list[str], stage: str, batch: str = "{batch}") -> str:
    """What a stage reads: that of the one before it that is on; `quality` comes after all of them.

    >>> documents_before(Layout("out"), ["dedup", "near"], "near")
    'out/documents/{batch}.arrow'
    """
    earlier = stages[: stages.index(stage)] if stage in stages else stages
    return documents_after(out, earlier[-1], batch)


def ledgers(out: Layout, stages: list[str], batch: str = "{batch}") -> list[str]:
    """The ledgers of a batch, from its pages to its shards."""
    written = [out.pages(batch), *(documents_after(out, stage, batch) for stage in stages)]
    return [*map(out.ledger, written), out.shards_ledger(batch)]


def as_they_ran(ledgers: list[dict[str, Any]], scored: bool, from_texts: bool = False) -> list[dict[str, Any]]:
    """The ledgers by what ran: that of the shards is no `quality` without a classifier, and that of `text` is not
    called `extract`, in whose place it stands.

    scored: whether any document has a score. from_texts: whether all documents are of files of plain text.
    """

    def name(ledger: dict[str, Any]) -> str:
        if ledger["stage"] == "quality" and not scored and not ledger["dropped"]:
            return UNFILTERED
        return "text" if ledger["stage"] == "extract" and from_texts else str(ledger["stage"])

    return [ledger | {"stage": name(ledger)} for ledger in ledgers]
