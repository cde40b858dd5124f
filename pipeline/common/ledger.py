"""What came in, what was kept, and why the rest was not: in documents, paragraphs and bytes.

Every stage that may drop something keeps a ledger. It has a row for each decision (`pipeline.common.decisions`);
the JSON that is written beside the stage's output is the sum of these rows. Writing checks that in = kept +
dropped + failed in each unit, so nothing vanishes without a reason.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.common.decisions import DROPPED, FAILED, KEPT, UNITS, Decisions, write_decisions
from pipeline.common.files import stamp, write_json

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLES_PER_REASON = 3
SAMPLE_CHARS = 300


class LedgerError(AssertionError):
    """A ledger that does not balance: a stage lost something, which is a bug in the stage."""


class Ledger:
    """The decisions of one stage: what came in, was kept, dropped or failed, in documents, paragraphs and bytes.

    Beside its counts a decision may say what is known of the page: `language`, `score`, `file`, `place` and `url`,
    as docs/formats.md has them. `options` are those of the stage, for whoever reads the decisions.

    >>> ledger = Ledger("filter")
    >>> for words in (3, 70):
    ...     ledger.enter(documents=1)
    ...     ledger.keep(documents=1) if words >= 50 else ledger.drop("few_words", documents=1)
    >>> ledger.data()["dropped"]
    {'few_words': {'documents': 1, 'paragraphs': 0, 'bytes': 0}}
    """

    def __init__(self, stage: str, options: Any = None) -> None:
        self.stage = stage
        self.options = options
        self.entered = dict.fromkeys(UNITS, 0)
        self.decisions = Decisions()
        self.samples: dict[str, list[dict[str, str]]] = {}
        self.languages: dict[str, dict[str, int]] = {}

    def enter(self, **counts: int) -> None:
        """Count what comes in, such as `documents=1, bytes=300`."""
        _add(self.entered, counts)

    def keep(self, **row: Any) -> None:
        """Note what goes on to the next stage."""
        self.decisions.add(KEPT, **row)

    def drop(self, reason: str, **row: Any) -> None:
        """Note what is left out on purpose, for `reason`."""
        self.decisions.add(DROPPED, reason, **row)

    def fail(self, reason: str, **row: Any) -> None:
        """Note what is lost to damage, for `reason`: what should have been read, and could not be."""
        self.decisions.add(FAILED, reason, **row)

    def fail_unread(self, reason: str, documents: int, bytes: int = 0, **row: Any) -> None:
        """Note what could not even be read, such as a file that was not fetched: as come in, and as failed."""
        self.enter(documents=documents, bytes=bytes)
        self.fail(reason, documents=documents, bytes=bytes, **row)

    def sample(self, reason: str, url: str, text: str) -> None:
        """Keep the first few texts of each reason, for people to look at; `reason` may be 'kept'."""
        samples = self.samples.setdefault(reason, [])
        if len(samples) < SAMPLES_PER_REASON:
            samples.append({"url": url[:SAMPLE_CHARS], "text": text[:SAMPLE_CHARS]})

    def language(self, code: str, **counts: int) -> None:
        """Count what is in a language, wanted or not."""
        _add(self.languages.setdefault(code, dict.fromkeys(UNITS, 0)), counts)

    def include(self, part: dict[str, Any], decisions: Iterable[pa.RecordBatch] | None = None) -> None:
        """Add a written ledger (`data`) and its decisions; without these a row for each of its sums."""
        _add(self.entered, part["in"])
        for code, counts in part["languages"].items():
            self.language(code, **counts)
        for reason, samples in part["samples"].items():
            for sample in samples:
                self.sample(reason, **sample)
        if decisions is not None:
            for batch in decisions:
                self.decisions.add_batch(batch)
            return
        self.keep(**part["kept"])
        for fate, note in ((DROPPED, self.drop), (FAILED, self.fail)):
            for reason, counts in part[fate].items():
                note(reason, **counts)

    @property
    def kept(self) -> dict[str, int]:
        """The sum of what was kept, by unit."""
        return self.decisions.totals(KEPT).get("", dict.fromkeys(UNITS, 0))

    @property
    def dropped(self) -> dict[str, dict[str, int]]:
        """The sums of what was dropped, by reason and unit."""
        return self.decisions.totals(DROPPED)

    @property
    def failed(self) -> dict[str, dict[str, int]]:
        """The sums of what failed, by reason and unit."""
        return self.decisions.totals(FAILED)

    def write(self, path: str | Path, decisions: str | Path | None = None) -> None:
        """Write the ledger as JSON, and its rows into the file `decisions`; log what failed.

        Raises LedgerError where a unit does not balance.
        """
        data = self.data()
        for unit in UNITS:
            out = data["kept"][unit] + sum(c[unit] for fate in (DROPPED, FAILED) for c in data[fate].values())
            if self.entered[unit] != out:
                raise LedgerError(
                    f"{self.stage}: {self.entered[unit]} {unit} came in but {out} are accounted for; "
                    f"this is a bug in the stage: {data}"
                )
        if decisions:
            from pipeline.common.schemas import DECISION_SCHEMA

            write_decisions(decisions, stamp(DECISION_SCHEMA, self.stage, self.options), self.decisions)
        write_json(path, data)
        if data[FAILED]:
            reasons = ", ".join(f"{counts['documents']} {why}" for why, counts in data[FAILED].items())
            logging.warning(
                "%s: documents lost to damage: %s; fetch the files again, or see %s", self.stage, reasons, path
            )

    def data(self) -> dict[str, Any]:
        """The ledger as it is written, with sorted reasons and languages."""
        ordered = {key: dict(sorted(getattr(self, key).items())) for key in ("dropped", "failed", "languages")}
        return {
            "stage": self.stage,
            "in": self.entered,
            "kept": self.kept,
            **ordered,
            "samples": self.samples,
        }


def merge(stage: str, parts: Iterable[dict[str, Any]]) -> Ledger:
    """The sum of written ledgers (`Ledger.data`), as a ledger of `stage`; samples in the order of `parts`."""
    total = Ledger(stage)
    for part in parts:
        total.include(part)
    return total


def _add(total: dict[str, int], counts: dict[str, int]) -> None:
    for unit, count in counts.items():
        if unit not in total:
            raise KeyError(f"{unit} is not a ledger unit; units are {', '.join(UNITS)}")
        total[unit] += count
