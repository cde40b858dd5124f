"""The data of the report's figures of the corpus, from the ledgers of its stages."""

from __future__ import annotations

from typing import Any

from train.report.points import Points


def funnel_points(ledgers: list[dict[str, Any]]) -> Points:
    """Shares of what each stage kept and dropped: pages for extract, paragraphs for the others."""
    points = []
    for ledger in ledgers:
        unit = "paragraphs" if ledger["in"]["paragraphs"] else "documents"
        outcomes = {"kept": ledger["kept"], **ledger["dropped"], **ledger["failed"]}
        for order, (outcome, counts) in enumerate(outcomes.items()):
            if ledger["in"][unit]:
                points.append(
                    {
                        "stage": ledger["stage"],
                        "outcome": outcome.replace("_", " "),
                        "order": order,
                        "amount": counts[unit],
                        "unit": unit,
                        "share": counts[unit] / ledger["in"][unit],
                    }
                )
    return points


def language_points(corpus: dict[str, Any]) -> Points:
    """The 20 languages with most documents among the pages, and whether the corpus has them."""
    documents = {code: counts["documents"] for code, counts in corpus["ledgers"][0]["languages"].items()}
    most = sorted(documents, key=lambda code: (-documents[code], code))[:20]
    return [
        {
            "language": code,
            "documents": documents[code],
            "wanted": "kept" if code in corpus["languages"] else "not wanted",
        }
        for code in most
    ]


def quality_points(reports: list[dict[str, Any]]) -> Points:
    """The curve of each trained classifier, and its threshold among them; a ready-made one has no curve."""
    return [
        {"language": report["language"], "chosen": point is report["chosen"], **point}
        for report in reports
        for point in (*report["curve"], report["chosen"])
        if point["recall"]
    ]
