"""How long a run takes: by what its jobs took before, by the plan, and by how it goes.

Work is in core-seconds: the CPU time of a job. Nothing is said as long as that of one job is not known.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.errors import StageError
from pipeline.common.files import read_json
from pipeline.workflow.benchmark_files import core_seconds, read_rows
from pipeline.workflow.layout import Layout

TIMES = (
    Path(__file__).resolve().parents[2] / "configs" / "times"
)  # of configs that come with the code, by `python -m benchmarks.times`
MOST_FILES = 5000  # that are read at the start
TRUST = 0.25  # share of the work after which what was seen counts as much as what was known before


@dataclass(frozen=True)
class Job:
    """A job to run. name: that of its benchmark file, '' where it has none, and takes no time.

    threads: of one; together: how many of its rule can run at a time.
    """

    name: str
    rule: str
    threads: int = 1
    together: int = 1


@dataclass(frozen=True)
class Running:
    """Seconds of wall time since the job's start, and left by its log, if that says so."""

    seconds: float
    left: float | None = None


def known_work(out: Layout, jobs: Iterable[Job], config: Mapping[str, Any]) -> dict[str, float]:
    """Core-seconds of the jobs by name: of an earlier run of them, of the same config, or by the plan.

    Jobs of which nothing is known are left out. A file that is damaged counts as none.
    """
    measured, planned = measured_work(config), planned_work(out)
    known = {}
    for number, job in enumerate(jobs):
        path = Path(out.benchmark(job.name))
        work = _read(path) if job.name and number < MOST_FILES and path.is_file() else None
        work = measured.get(job.name, planned.get(job.rule)) if work is None else work
        if work is not None:
            known[job.name] = work
    return known


def measured_work(config: Mapping[str, Any]) -> dict[str, float]:
    """What the jobs of a config took that comes with the code, if this is one of these, unchanged."""
    mark = config_mark(config)
    for path in sorted(TIMES.glob("*.tsv")):
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        if first.split()[-1] == mark:
            return {name: float(work) for name, work in (line.split("\t") for line in lines)}
    return {}


def config_mark(config: Mapping[str, Any]) -> str:
    """12 hex digits for what a config says, but for where the results go."""
    data = {key: value for key, value in config.items() if key != "output"}
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:12]


def planned_work(out: Layout) -> dict[str, float]:
    """Core-seconds of a job of each rule, by plan.json."""
    try:
        return {row["stage"]: row["core_seconds"] / row["jobs"] for row in read_json(out.plan)["stages"]}
    except (OSError, StageError, KeyError, TypeError, ZeroDivisionError):
        return {}


def _read(path: Path) -> float | None:
    try:
        return core_seconds(read_rows(path)[-1])
    except (OSError, ValueError, KeyError, IndexError):
        return None


def seconds_left(
    jobs: Iterable[Job],
    known: Mapping[str, float],
    took: Mapping[str, float],
    running: Mapping[str, Running],
    cores: int,
) -> float | None:
    """Seconds of wall time until all jobs have ended; None where the work of one is not known.

    took: the wall seconds of those that have ended. As in the plan, rules follow each other, and their jobs fill
    the cores. What was known is scaled by what was seen, the more so the more has been seen.
    """
    jobs = [job for job in jobs if job.name]
    seen = {job.name: took[job.name] * job.threads for job in jobs if job.name in took}
    for job in jobs:
        now = running.get(job.name)
        if now and now.left is not None:
            seen[job.name] = (now.seconds + now.left) * job.threads
    both = [name for name in seen if name in known]
    prior = TRUST * sum(known.values())
    expected = prior + sum(known[name] for name in both)
    scale = (prior + sum(seen[name] for name in both)) / expected if expected else 1.0
    of_rule: dict[str, list[float]] = {}
    for job in jobs:
        if job.name in seen:
            of_rule.setdefault(job.rule, []).append(seen[job.name])
    work, count, rules = dict[str, float](), Counter[str](), dict[str, Job]()
    for job in jobs:
        if job.name in took:
            continue
        if job.name in known:
            whole = known[job.name] * scale
        elif job.rule in of_rule:
            whole = sum(of_rule[job.rule]) / len(of_rule[job.rule])
        else:
            return None
        if now := running.get(job.name):
            done = now.seconds * job.threads
            whole = max(0.0, whole - done) if now.left is None else now.left * job.threads
        work[job.rule] = work.get(job.rule, 0.0) + whole
        count[job.rule] += 1
        rules[job.rule] = job
    return sum(
        work[rule] / min(cores, min(count[rule], job.together) * job.threads) for rule, job in rules.items()
    )
