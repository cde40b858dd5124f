"""What every benchmark writes: one table in Markdown for people and in JSON for programs, with the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.common.files import write_json, write_text

Result = TypeVar("Result")
PACKAGES = (
    "numpy",
    "pyarrow",
    "xxhash",
    "fastwarc",
    "resiliparse",
    "fasttext-community",
    "datatrove",
    "torch",
    "transformers",
    "lm_eval",
)


def machine() -> dict[str, Any]:
    """The CPU, its cores, memory in GiB, Python and the versions of the packages that do the work."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def measure(function: Callable[[], Result]) -> tuple[Result, dict[str, float]]:
    """What `function` returns, and its wall and CPU seconds (children that have ended included)."""
    wall, cpu = time.perf_counter(), _cpu_seconds()
    result = function()
    return result, {"wall_s": time.perf_counter() - wall, "cpu_s": _cpu_seconds() - cpu}


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def write(path: str, title: str, rows: Sequence[dict[str, Any]], notes: Sequence[str] = ()) -> None:
    """`path`.md and `path`.json. All rows have the same keys, in the same order: the columns.

    Numbers stay whole in the JSON; the table shows three digits, or all of a whole number.
    """
    from pipeline.common.markdown import table_row  # not where a process of an attack has an earlier version

    about = machine()
    write_json(f"{path}.json", {"title": title, "machine": about, "rows": list(rows), "notes": list(notes)})
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    columns = list(rows[0])
    lines = [
        f"# {title}",
        "",
        f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB; {about['system']}; "
        f"Python {about['python']}, {versions}.",
        "",
        table_row(columns),
        "|" + "|".join("---" if isinstance(rows[0][c], str) else "---:" for c in columns) + "|",
        *(table_row(_cell(row[c]) for c in columns) for row in rows),
        *(f"\n{note}" for note in notes),
    ]
    write_text(f"{path}.md", "\n".join(lines) + "\n")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value)
