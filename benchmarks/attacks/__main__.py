"""The command line of the attacks: a row each, beside the same attack on another version of the code."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.attacks.run import ROOT, attacks, run
from benchmarks.report import write


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.attacks", description=__doc__)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="areas or names of attacks; all, if left out")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="a checkout of an earlier version")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="attacks that run at the same time")
    parser.add_argument("--output", metavar="PATH", help="write PATH.md and PATH.json")
    arguments = parser.parse_args()
    versions = {"before": arguments.before.resolve()} if arguments.before else {}
    versions["now"] = ROOT

    def row(attack: tuple[str, str, str]) -> dict[str, Any]:
        area, name, doc = attack
        columns: dict[str, Any] = {"area": area, "attack": doc}
        for when, checkout in versions.items():
            columns |= _columns(run(area, name, checkout), when)
        print(name, columns, flush=True)
        return columns

    chosen = [x for x in attacks() if not arguments.only or {*x[:2]}.intersection(arguments.only)]
    with ThreadPoolExecutor(arguments.at_once) as pool:
        rows = list(pool.map(row, chosen))
    counts = [f"{when} {sum(row[when].startswith('held') for row in rows)}" for when in versions]
    note = f"Of {len(rows)} attacks are held: {', '.join(counts)}. {arguments.at_once} ran at the same time."
    print(note)
    if arguments.output:
        write(arguments.output, "Attacks: what came of each, in seconds and MB of memory", rows, [note])


def _columns(result: dict[str, Any], when: str) -> dict[str, Any]:
    verdict = ("held" if result["held"] else "not held") + f": {result['outcome']}"
    return {when: verdict, f"{when} s": result["seconds"], f"{when} MB": result["peak_mb"]}


if __name__ == "__main__":
    main()
