"""The command line of the attacks: a row each, beside the same attack on another version of the code."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.attacks.run import attacks, run
from benchmarks.report import write


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.attacks", description=__doc__)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="areas or names of attacks; all, if left out")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="a checkout of an earlier version")
    parser.add_argument("--output", metavar="PATH", help="write PATH.md and PATH.json")
    arguments = parser.parse_args()
    rows = []
    for area, name, doc in attacks():
        if arguments.only and not {area, name}.intersection(arguments.only):
            continue
        row: dict[str, Any] = {"area": area, "attack": doc}
        if arguments.before:
            row |= _columns(run(area, name, arguments.before.resolve()), "before")
        row |= _columns(now := run(area, name), "now")
        rows.append(row)
        print("held  " if now["held"] else "FAILED", area, name, row, flush=True)
    if arguments.output:
        write(arguments.output, "Attacks: what came of each, in seconds and MB of memory", rows)


def _columns(result: dict[str, Any], when: str) -> dict[str, Any]:
    verdict = ("held" if result["held"] else "NOT HELD") + f": {result['outcome']}"
    return {when: verdict, f"{when} s": result["seconds"], f"{when} MB": result["peak_mb"]}


if __name__ == "__main__":
    main()
