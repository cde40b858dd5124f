"""How much there is of each wanted language, told before anything is made of it."""

from __future__ import annotations

from typing import Any

from pipeline.common.errors import StageError
from pipeline.common.files import read_json, write_json
from pipeline.common.ledger import merge
from pipeline.common.shown import printable

LEAST = 2  # documents: one to learn from and one to measure with
FEW = 100
NAMED = 5  # other languages, and reasons, that a message has


def count_languages(ledgers: list[str], languages: list[str], needed: list[str], output: str) -> None:
    """Write how many documents are in each of the languages, by the ledgers of extract, and print it.

    A document counts in the language that it is most probably in, though it may be dropped for its low
    probability. Raises StageError where one that is `needed` to train or to measure has fewer than LEAST.
    """
    total = merge("extract", map(read_json, ledgers)).data()
    found = {code: counts["documents"] for code, counts in total["languages"].items()}
    counts = {language: found.get(language, 0) for language in languages}
    missing = []
    for language, count in counts.items():
        line = f"{language}: {count:,} of {total['in']['documents']:,} documents"
        if count < FEW:
            line += f"; {_others(language, found, total)}"
        print(printable(line))
        if count < LEAST and language in needed:
            missing.append(line)
    if missing:
        raise StageError(
            f"{'; '.join(missing)}. At least {LEAST} are needed, one to learn from and one to measure with: give "
            "more text, check the label in extract.languages, lower extract.language_min_score, or name the "
            "language of your texts in crawl.texts.language"
        )
    write_json(output, {"documents": total["in"]["documents"], "languages": counts})


def _others(language: str, found: dict[str, int], total: dict[str, Any]) -> str:
    """What the other documents are."""
    others = sorted(((count, code) for code, count in found.items() if code != language), reverse=True)
    reasons = {**total["dropped"], **total["failed"]}
    left_out = sorted(((counts["documents"], reason) for reason, counts in reasons.items()), reverse=True)
    return (
        f"in others: {', '.join(f'{count:,} {code}' for count, code in others[:NAMED]) or 'none'}; "
        f"left out: {', '.join(f'{count:,} {reason}' for count, reason in left_out[:NAMED]) or 'none'}"
    )
