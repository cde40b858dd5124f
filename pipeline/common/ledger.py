"""What came in, what was kept, and why the rest was not: in documents, paragraphs and bytes.

Every stage that may drop something keeps a ledger and writes it beside its output. Writing checks that
in = kept + dropped + failed in each unit, so nothing vanishes without a reason.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.common.files import read_json, write_json

UNITS = ("documents", "paragraphs", "bytes")
SAMPLES_PER_REASON = 3
SAMPLE_CHARS = 300


class LedgerError(AssertionError):
    """A ledger that does not balance: a stage lost something, which is a bug in the stage."""


class Ledger:
    """The counts of one stage, in documents, paragraphs and bytes: what came in, was kept, dropped or failed.

    >>> ledger = Ledger("filter")
    >>> for words in (3, 70):
    ...     ledger.enter(documents=1)
    ...     ledger.keep(documents=1) if words >= 50 else ledger.drop("few_words", documents=1)
    >>> ledger.data()["dropped"]
    {'few_words': {'documents': 1, 'paragraphs': 0, 'bytes': 0}}
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.entered = dict.fromkeys(UNITS, 0)
        self.kept = dict.fromkeys(UNITS, 0)
        self.dropped: dict[str, dict[str, int]] = {}
        self.failed: dict[str, dict[str, int]] = {}
        self.samples: dict[str, list[dict[str, str]]] = {}
        self.languages: dict[str, dict[str, int]] = {}

    def enter(self, **counts: int) -> None:
        """Count what comes in, such as `documents=1, bytes=300`."""
        _add(self.entered, counts)

    def keep(self, **counts: int) -> None:
        """Count what goes on to the next stage."""
        _add(self.kept, counts)

    def drop(self, reason: str, **counts: int) -> None:
        """Count what is left out on purpose, for `reason`."""
        _add(self.dropped.setdefault(reason, dict.fromkeys(UNITS, 0)), counts)

    def fail(self, reason: str, **counts: int) -> None:
        """Count what is lost to damage, for `reason`: what should have been read, and could not be."""
        _add(self.failed.setdefault(reason, dict.fromkeys(UNITS, 0)), counts)

    def fail_unread(self, reason: str, **counts: int) -> None:
        """Count what could not even be read, such as a file that was not fetched: as come in, and as failed."""
        self.enter(**counts)
        self.fail(reason, **counts)

    def sample(self, reason: str, url: str, text: str) -> None:
        """Keep the first few texts of each reason, for people to look at; `reason` may be 'kept'."""
        samples = self.samples.setdefault(reason, [])
        if len(samples) < SAMPLES_PER_REASON:
            samples.append({"url": url[:SAMPLE_CHARS], "text": text[:SAMPLE_CHARS]})

    def language(self, code: str, **counts: int) -> None:
        """Count what is in a language, wanted or not."""
        _add(self.languages.setdefault(code, dict.fromkeys(UNITS, 0)), counts)

    def write(self, path: str | Path) -> None:
        """Write the ledger as JSON, and log what failed. Raises LedgerError where a unit does not balance."""
        for unit in UNITS:
            out = self.kept[unit] + sum(c[unit] for r in (self.dropped, self.failed) for c in r.values())
            if self.entered[unit] != out:
                raise LedgerError(
                    f"{self.stage}: {self.entered[unit]} {unit} came in but {out} are accounted for; "
                    f"this is a bug in the stage: {self.data()}"
                )
        write_json(path, self.data())
        if self.failed:
            reasons = ", ".join(f"{counts['documents']} {why}" for why, counts in sorted(self.failed.items()))
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
        _add(total.entered, part["in"])
        _add(total.kept, part["kept"])
        for key in ("dropped", "failed", "languages"):
            for reason, counts in part[key].items():
                _add(getattr(total, key).setdefault(reason, dict.fromkeys(UNITS, 0)), counts)
        for reason, samples in part["samples"].items():
            for sample in samples:
                total.sample(reason, **sample)
    return total


def merge_files(stage: str, paths: Iterable[str | Path]) -> Ledger:
    """The sum of the ledgers in some files, as `merge` makes it."""
    return merge(stage, (read_json(path) for path in paths))


def _add(total: dict[str, int], counts: dict[str, int]) -> None:
    for unit, count in counts.items():
        if unit not in total:
            raise KeyError(f"{unit} is not a ledger unit; units are {', '.join(UNITS)}")
        total[unit] += count
