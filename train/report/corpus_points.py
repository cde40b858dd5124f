"""The data of the report's figures of the corpus, from the ledgers of its stages."""

from __future__ import annotations

from typing import Any

from train.report.points import Points


def funnel_points(ledgers: list[dict[str, Any]]) -> Points:
    """Shares of what each stage kept and dropped: pages for extract, paragraphs for the others."""
    points = []
    for ledger in ledgers:
        unit = "paragraphs" if ledger["in"]["paragraphs"] else "documents"
        outcomes = [("kept", "kept", ledger["kept"])]
        outcomes += [
            (kind, reason, counts) for kind in ("dropped", "failed") for reason, counts in ledger[kind].items()
        ]
        for order, (kind, outcome, counts) in enumerate(outcomes):
            if ledger["in"][unit]:
                points.append(
                    {
                        "stage": ledger["stage"],
                        "outcome": outcome.replace("_", " "),
                        "kind": kind,
                        "order": order,
                        "amount": counts[unit],
                        "unit": unit,
                        "share": counts[unit] / ledger["in"][unit],
                    }
                )
    return points


def reason_rows(ledgers: list[dict[str, Any]]) -> Points:
    """What each stage dropped or failed for each reason, in documents, paragraphs and bytes."""
    counts = {
        (ledger["stage"], kind, reason.replace("_", " ")): own
        for ledger in ledgers
        for kind in ("dropped", "failed")
        for reason, own in ledger[kind].items()
    }
    return [
        point | counts[key]
        for point in funnel_points(ledgers)
        if (key := (point["stage"], point["kind"], point["outcome"])) in counts
    ]


def language_points(corpus: dict[str, Any]) -> Points:
    """The 20 languages with most documents among the pages, and whether the corpus has them."""
    documents = {code: counts["documents"] for code, counts in corpus["ledgers"][0]["languages"].items()}
    most = sorted(documents, key=lambda code: (-documents[code], code))[:20]
    return [
        {
            "language": code,
            "documents": documents[code],
            "outcome": "kept" if code in corpus["languages"] else "dropped",
        }
        for code in most
    ]


def score_points(report: dict[str, Any]) -> Points:
    """The shares of held-out random and good documents in each bin of scores; a report of old has no bins."""
    return [
        {"low": x["low"], "high": x["high"], "outcome": "kept" if x["kept"] else "dropped"}
        | {kind: x[kind] / (report["held_out"][kind] or 1) for kind in ("random", "good")}
        for x in report.get("scores", [])
    ]
