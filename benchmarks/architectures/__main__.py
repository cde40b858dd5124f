"""All architectures of causal language models that transformers has: which can be extended, and which are refused.

    python -m benchmarks.architectures --output docs/benchmarks/architectures

A tiny random model of each goes through the door and every stage behind it, in a process of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from benchmarks.architectures.process import in_a_process
from benchmarks.architectures.tiny import architectures
from benchmarks.report import write

WORKERS = 2
OUTCOMES = ("passes", "refused", "not made", "fails later")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="docs/benchmarks/architectures", help="without .md or .json")
    parser.add_argument("--only", nargs="+", help="names of architectures, as transformers calls them")
    arguments = parser.parse_args()
    names, begin, rows = arguments.only or architectures(), time.perf_counter(), []
    with ThreadPoolExecutor(WORKERS) as pool:
        for row in pool.map(in_a_process, names):
            rows.append(row)
            print(f"{row['architecture']}: {row['outcome']} {row['said']}", file=sys.stderr)
    rows.sort(key=lambda row: OUTCOMES.index(row["outcome"]))
    counts = Counter(row["outcome"] for row in rows)
    seconds = time.perf_counter() - begin
    notes = [
        "documents: whether `mask_documents` keeps those of a row apart, or is refused. scoring: whether answers "
        "are scored with a cache of what their contexts share. said: a refusal without its cure, or a failure.",
        f"{len(rows)} architectures: " + ", ".join(f"{counts[name]} {name}" for name in OUTCOMES)
        + f"; in {seconds:,.0f} s.",
    ]  # fmt: skip
    write(arguments.output, "Architectures of transformers that can be extended", rows, notes)
    sys.exit(counts["fails later"] > 0)


if __name__ == "__main__":
    main()
