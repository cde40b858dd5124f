"""All that a GPU has to show, in the minutes that there is one: `python -m benchmarks.gpu --minutes 10`.

Each step is a process of its own, killed at its cap, and left out where less time than its estimate is left.
Its line of JSON is in steps.jsonl the moment it ends, so that a machine taken away loses nothing. With --real, a
folder that `unpack` made, runs are trained on a real model. --rehearse does all of it on the CPU, at toy size.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import parts, table
from benchmarks.gpu.plan import PLAN
from benchmarks.gpu.program import REHEARSED_TOKENS, before_real, real_steps, rehearsed
from benchmarks.gpu.steps import Step, function_of, in_process


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="how long there is a GPU")
    parser.add_argument(
        "--output", default="results/benchmarks/gpu", help="folder of what comes back: three files"
    )
    parser.add_argument("--work", help="folder of weights, kept from one call to the next; default: OUTPUT.work")
    parser.add_argument("--real", metavar="FOLDER", help="what `unpack` made: weights and rows of a real model")
    parser.add_argument("--tokens", type=float, default=20e6, help="tokens of each real run")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="steps whose names begin so")
    parser.add_argument(
        "--rehearse", action="store_true", help="on the CPU, at toy size, a toy for the real model"
    )
    arguments = parser.parse_args()
    if arguments.real and not Path(arguments.real, PLAN).exists():
        parser.error(f"--real: {arguments.real} has no {PLAN}; give the folder that `unpack` made")
    # Whoever ends the program ends the step that runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    output = Path(arguments.output)
    work = Path(arguments.work or f"{output}.work")
    steps = chosen(arguments, work)
    failed = run_all(steps, arguments.minutes, output, work)
    table.write([output / "steps.jsonl"], output / "gpu.md")
    if arguments.rehearse and failed:
        sys.exit(f"failed: {', '.join(failed)}; {output / 'log.txt'} has what they printed")


def chosen(arguments: argparse.Namespace, work: Path) -> list[Step]:
    """The steps that were asked for, in their order."""
    from benchmarks.gpu import real

    device = "cpu" if arguments.rehearse else "cuda"
    folder, weights, tokens = arguments.real, work / "real", arguments.tokens
    if arguments.rehearse:  # anew each time, and apart from the real folder
        shutil.rmtree(work / "rehearsal", ignore_errors=True)
        folder, weights, tokens = str(work / "rehearsal/toy"), work / "rehearsal/real", REHEARSED_TOKENS
    steps = before_real(device)
    if folder:
        steps += real_steps(device, real.runs(folder), real.settles(folder), folder, str(weights), tokens)
    if arguments.rehearse:
        steps = list(map(rehearsed, steps))
    only = tuple(arguments.only)
    return [step for step in steps if not only or step.name.startswith(only)]


def run_all(steps: list[Step], minutes: float, output: Path, work: Path) -> list[str]:
    """One after the other; as each ends, its line is in output/steps.jsonl. Returns the names of what failed."""
    output.mkdir(parents=True, exist_ok=True)
    deadline, failed = time.monotonic() + 60 * minutes, []
    for step in steps:  # imports, once for all of them
        with contextlib.suppress(Exception):  # what is missing is missed by the step itself
            function_of(step)
    for step in steps:
        left = deadline - time.monotonic()
        line: dict[str, Any]
        too_late = max(step.estimate_s, 1) > left
        if too_late:
            line = {"skipped": f"{max(left, 0):.0f} s left, {step.estimate_s:.0f} s needed"}
        else:
            line = in_process(step, min(step.cap_s, left), output, work / "printed")
        if too_late or "failed" in line or not line.get("found", {}).get("ok", True):
            failed.append(step.name)
        line = {"step": step.name, "job": step.job, **line}
        with (output / "steps.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(json.dumps(line)[:1500], flush=True)
    return failed


if __name__ == "__main__":
    if sys.argv[1:2] in (["pack"], ["unpack"]):
        sys.exit(parts.main(sys.argv[1:]))
    if sys.argv[1:2] == ["table"]:
        sys.exit(table.main(sys.argv[2:]))
    main()
