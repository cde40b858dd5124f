"""The `benchmark:` files of Snakemake: time and memory of a job."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """The rows of the file, one for each time that the job was repeated."""
    with Path(path).open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def core_seconds(row: Mapping[str, str]) -> float:
    """The CPU time of a job, or its wall time where that was not measured."""
    return number(row["cpu_time"]) or number(row["s"])


def number(value: str | None) -> float:
    """A value, where `-` and `NA` stand for what was over before it was measured."""
    return float(value) if value and value not in ("-", "NA") else 0.0
