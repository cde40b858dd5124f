"""All that a GPU has to show, in the minutes that there is one: `python -m benchmarks.gpu --minutes 10`.

Each step is a process of its own, killed at its cap, and left out where less time than its estimate is left.
Its line of JSON is in steps.jsonl the moment it ends, so that a machine taken away loses nothing. With --real, a
folder that `pack` and `unpack` brought there, the paper's methods are trained on a real model. --rehearse does all
of it on the CPU, at toy size.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu import parts, table

PRINTED = 6000  # characters of a failure that are kept


@dataclass(frozen=True)
class Step:
    """`run` is 'module:function' of benchmarks.gpu; it takes `job` and returns what is found, as JSON data."""

    name: str
    run: str
    estimate_s: float
    cap_s: float
    job: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="how long there is a GPU")
    parser.add_argument("--output", default="results/benchmarks/gpu", help="folder of the results")
    parser.add_argument("--real", metavar="FOLDER", help="what `unpack` made: weights and rows")
    parser.add_argument("--tokens", type=float, default=20e6, help="tokens of each real run")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="steps whose names begin so")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, at toy size")
    run_all(parser.parse_args())


def work(step: Step, log: Path) -> None:
    """In the process of a step: all that it prints goes to `log`, and what its function finds is the last line."""
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    module, function = step.run.split(":")
    try:
        line = {"found": getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)(step.job)}
    except Exception as error:  # out of memory is a row of the table, not an end
        traceback.print_exc()
        line = {"failed": f"{type(error).__name__}: {error}"[:PRINTED]}
    print(f"\n{json.dumps(line)}", flush=True)


def run_all(arguments: argparse.Namespace) -> None:
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * arguments.minutes
    for module in ("checks", "speed", "real"):  # once, for all steps
        importlib.import_module(f"benchmarks.gpu.{module}")
    for step in chosen(arguments):
        left = deadline - time.monotonic()
        if step.estimate_s > left:
            line: dict[str, Any] = {"skipped": f"{left:.0f} s left, {step.estimate_s:.0f} s needed"}
        else:
            line = in_process(step, min(step.cap_s, left), output)
        line = {"step": step.name, "job": step.job, **line}
        with (output / "steps.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(json.dumps(line)[:1500], flush=True)


def in_process(step: Step, cap_s: float, output: Path) -> dict[str, Any]:
    """The step's line: what it found, or why it did not; all that it printed is in output/logs.

    Forked, since importing torch and transformers anew takes ten seconds; the parent never touches the GPU.
    """
    log = output / "logs" / f"{step.name.replace(' ', '-')}.txt"
    log.parent.mkdir(exist_ok=True)
    started = time.monotonic()
    child = multiprocessing.get_context("fork").Process(target=work, args=(step, log))
    child.start()
    child.join(cap_s)
    if child.is_alive():
        child.kill()
        child.join()
        line = {"failed": f"killed after {cap_s:.0f} s"}
    else:
        last = next((text for text in reversed(log.read_text("utf-8").splitlines()) if text.strip()), "")
        line = json.loads(last) if last.startswith("{") else {"failed": f"no result; it ended with {last!r}"}
    return {**line, "seconds": round(time.monotonic() - started, 1)}


def chosen(arguments: argparse.Namespace) -> list[Step]:
    """The steps by value: is it right, how fast is it, what comes out."""
    toy = {"device": "cpu" if arguments.rehearse else "cuda", "toy": arguments.rehearse}
    steps = [
        Step("machine", "speed:machine", 15, 60, toy),
        Step("checks", "checks:check_all", 120, 240, toy),
        Step("loss", "speed:loss", 20, 60, toy),
    ]
    for name, case in list(SPEEDS.items())[: 2 if arguments.rehearse else None]:
        run = "speed:peer" if case.get("method") == "peer" else "speed:ours"
        steps.append(Step(f"speed {name}", run, 30, 150, case | toy))
    if arguments.real or arguments.rehearse:
        from benchmarks.gpu import real

        folder, work = arguments.real or f"{arguments.output}.work/toy", f"{arguments.output}.work"
        job = {"folder": folder, "work": work, "tokens": arguments.tokens, **toy}
        if real.settles(folder):
            steps.append(Step("real settle", "real:settle", 40, 120, job))
        for name in real.runs(folder):
            steps.append(Step(f"real {name}", "real:extend_and_evaluate", 50, 240, job | {"name": name}))
    only = tuple(arguments.only)
    return [step for step in steps if not only or step.name.startswith(only)]


# rows x row_tokens is a micro-batch, and here a step.
M135: dict[str, Any] = {"sizes": "135M", "rows": 16, "row_tokens": 2048, "compile": True}
B1: dict[str, Any] = {"sizes": "1B", "rows": 16, "row_tokens": 2048, "compile": True}
SPEEDS: dict[str, dict[str, Any]] = {
    "135M neutral": M135 | {"method": "neutral"},
    "135M peer": M135 | {"method": "peer"},
    "135M lora": M135 | {"method": "lora"},
    "135M finetune": M135 | {"method": "finetune"},
    "135M adapter": M135 | {"method": "adapter"},
    # A fraction that makes M, 570 of 0.2, a multiple of 64.
    "135M neutral, M = 576": M135 | {"method": "neutral", "fraction": 0.2021},
    "135M neutral, eager": M135 | {"method": "neutral", "compile": False},
    "135M peer, eager": M135 | {"method": "peer", "compile": False},
    "135M neutral, cuDNN attention": M135 | {"method": "neutral", "cudnn": True},
    "135M neutral, T = 4096": M135 | {"method": "neutral", "rows": 8, "row_tokens": 4096},
    "1B neutral": B1 | {"method": "neutral"},
    "1B peer": B1 | {"method": "peer"},
    "1B lora": B1 | {"method": "lora"},
    "1B finetune": B1 | {"method": "finetune", "rows": 8},
    "1B neutral, T = 4096": B1 | {"method": "neutral", "rows": 8, "row_tokens": 4096},
}


if __name__ == "__main__":
    if sys.argv[1:2] in (["pack"], ["unpack"]):
        sys.exit(parts.main(sys.argv[1:]))
    if sys.argv[1:2] == ["table"]:
        sys.exit(table.main(sys.argv[2:]))
    main()
