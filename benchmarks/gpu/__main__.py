"""All that a GPU has to show, in the minutes that there is one: `python -m benchmarks.gpu --minutes 10`.

Each step is a process of its own, killed at its cap, and left out where less time than its estimate is left.
Its line of JSON is in steps.jsonl the moment it ends, so that a machine taken away loses nothing. With --real, a
folder that `unpack` made, runs are trained on a real model. --rehearse does all of it on the CPU, at toy size.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu import parts, real, table
from benchmarks.gpu.plan import PLAN
from benchmarks.gpu.program import REHEARSED_TOKENS, before_real, real_steps, rehearsed
from benchmarks.gpu.steps import Running, Step, finish, first_to_end, function_of, start


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="how long there is a GPU")
    parser.add_argument(
        "--output", default="results/benchmarks/gpu", help="folder of what comes back: four files at most"
    )
    parser.add_argument("--work", help="folder of weights, kept from one call to the next; default: OUTPUT.work")
    parser.add_argument("--real", metavar="FOLDER", help="what `unpack` made: weights and rows of a real model")
    parser.add_argument("--tokens", type=float, default=20e6, help="tokens of each real run")
    parser.add_argument(
        "--streams", type=int, default=1, help="real runs at the same time; their speeds are then no measures"
    )
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
    failed = run_all(steps, arguments.minutes, output, work, arguments.streams)
    jobs = [step.job for step in steps if step.name.startswith(("real ", "asked "))]
    if jobs and Path(jobs[0]["folder"], PLAN).exists():
        real.keep_results(jobs[0], output / "results.tar.gz")
    table.write([output / "steps.jsonl"], output / "gpu.md")
    if arguments.rehearse and failed:
        sys.exit(f"failed: {', '.join(failed)}; {output / 'log.txt'} has what they printed")


def chosen(arguments: argparse.Namespace, work: Path) -> list[Step]:
    """The steps that were asked for, in their order."""
    device = "cpu" if arguments.rehearse else "cuda"
    folder, weights, tokens = arguments.real, work / "real", arguments.tokens
    if arguments.rehearse:  # anew each time, and apart from the real folder
        shutil.rmtree(work / "rehearsal", ignore_errors=True)
        folder, weights, tokens = str(work / "rehearsal/toy"), work / "rehearsal/real", REHEARSED_TOKENS
    steps = before_real(device)
    if folder:
        plan = real.known_plan(folder)
        runs, settles = list(plan.extend.runs), plan.settle is not None
        steps += real_steps(device, runs, settles, plan.tried, plan.asks, folder, str(weights), tokens)
    if arguments.rehearse:
        steps = list(map(rehearsed, steps))
    only = tuple(arguments.only)
    return [step for step in steps if not only or step.name.startswith(only)]


def run_all(steps: list[Step], minutes: float, output: Path, work: Path, streams: int = 1) -> list[str]:
    """In their order; as each ends, its line is in output/steps.jsonl. Returns the names of what failed."""
    output.mkdir(parents=True, exist_ok=True)
    deadline, failed = time.monotonic() + 60 * minutes, []
    for step in steps:  # imports, once for all of them
        with contextlib.suppress(Exception):  # what is missing is missed by the step itself
            function_of(step)
    for _, group in itertools.groupby(steps, lambda step: step.beside or step.name):
        for step, line in run_group(list(group), deadline, streams, output, work / "printed"):
            never_begun = "seconds" not in line
            if "failed" in line or never_begun or not line.get("found", {}).get("ok", True):
                failed.append(step.name)
            line = {"step": step.name, "job": step.job, **line}
            with (output / "steps.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
            print(json.dumps(line)[:1500], flush=True)
    return failed


def run_group(
    waiting: list[Step], deadline: float, streams: int, output: Path, work: Path
) -> Iterator[tuple[Step, dict[str, Any]]]:
    """Each step and its line, as they end; at most `streams` of them at the same time."""
    running: list[Running] = []
    beside = min(streams, len(waiting))
    try:
        while waiting or running:
            while waiting and len(running) < beside:
                step, left = waiting.pop(0), deadline - time.monotonic()
                if max(step.estimate_s, 1) > left:
                    yield step, {"skipped": f"{max(left, 0):.0f} s left, {step.estimate_s:.0f} s needed"}
                else:
                    running.append(start(step, min(beside * step.cap_s, left), work))
            if running:
                ended = first_to_end(running)
                running.remove(ended)
                yield ended.step, finish(ended, output) | ({"beside": beside - 1} if beside > 1 else {})
    finally:
        for one in running:
            finish(one, output)


if __name__ == "__main__":
    if sys.argv[1:2] in (["pack"], ["unpack"]):
        sys.exit(parts.main(sys.argv[1:]))
    if sys.argv[1:2] == ["table"]:
        sys.exit(table.main(sys.argv[2:]))
    main()
