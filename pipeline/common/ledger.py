"""What came in, what was kept, and why the rest was not: in documents, paragraphs and bytes.

Every stage that may drop something keeps a ledger and writes it beside its output. Writing checks that
in = kept + dropped + failed in each unit, so nothing vanishes without a reason.
"""

from __future__ import annotations

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
    """Counts for one stage. `kept` and each reason of `dropped` and `failed` hold the three units."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.entered = dict.fromkeys(UNITS, 0)
        self.kept = dict.fromkeys(UNITS, 0)
        self.dropped: dict[str, dict[str, int]] = {}
        self.failed: dict[str, dict[str, int]] = {}
        self.samples: dict[str, list[dict[str, str]]] = {}
        self.languages: dict[str, dict[str, int]] = {}

    def enter(self, **counts: int) -> None:
        _add(self.entered, counts)

    def keep(self, **counts: int) -> None:
        _add(self.kept, counts)

    def drop(self, reason: str, **counts: int) -> None:
        """Left out on purpose, for `reason`."""
        _add(self.dropped.setdefault(reason, dict.fromkeys(UNITS, 0)), counts)

    def fail(self, reason: str, **counts: int) -> None:
        """Lost to damage: what should have been read, and could not be."""
        _add(self.failed.setdefault(reason, dict.fromkeys(UNITS, 0)), counts)

    def fail_unread(self, reason: str, **counts: int) -> None:
        """What could not even be read, such as a file that was not fetched: it enters and fails at once."""
        self.enter(**counts)
        self.fail(reason, **counts)

    def sample(self, reason: str, url: str, text: str) -> None:
        """Keep the first few texts of each reason for people to look at; `reason` may be 'kept'."""
        samples = self.samples.setdefault(reason, [])
        if len(samples) < SAMPLES_PER_REASON:
            samples.append({"url": url[:SAMPLE_CHARS], "text": text[:SAMPLE_CHARS]})

    def language(self, code: str, **counts: int) -> None:
        """Count what was found in each language, wanted or not."""
        _add(self.languages.setdefault(code, dict.fromkeys(UNITS, 0)), counts)

    def write(self, path: str | Path) -> None:
        """Raises LedgerError if a unit does not balance."""
        for unit in UNITS:
            out = self.kept[unit] + sum(c[unit] for r in (self.dropped, self.failed) for c in r.values())
            if self.entered[unit] != out:
                raise LedgerError(
                    f"{self.stage}: {self.entered[unit]} {unit} came in but {out} are accounted for; "
                    f"this is a bug in the stage: {self.data()}"
                )
        write_json(path, self.data())

    def data(self) -> dict[str, Any]:
        ordered = {key: dict(sorted(getattr(self, key).items())) for key in ("dropped", "failed", "languages")}
        return {
            "stage": self.stage,
            "in": self.entered,
            "kept": self.kept,
            **ordered,
            "samples": self.samples,
        }


def merge(stage: str, parts: Iterable[dict[str, Any]]) -> Ledger:
    """One ledger of several written ones, in their order."""
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
    return merge(stage, (read_json(path) for path in paths))


def _add(total: dict[str, int], counts: dict[str, int]) -> None:
    for unit, count in counts.items():
        if unit not in total:
            raise KeyError(f"{unit} is not a ledger unit; units are {', '.join(UNITS)}")
        total[unit] += count
